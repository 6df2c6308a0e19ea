"""Signals set a stop to be polled, are answered while the program is in C code, and never end it while it saves."""

import os
import signal
import subprocess
import sys
import time

import pytest

from simclr_jax import base
from simclr_jax.distributed import peers
from simclr_jax.run import stopping


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGUSR1, "SIGUSR1"), (signal.SIGXCPU, "SIGXCPU")],
)
def test_a_signal_only_sets_stop_and_the_handlers_come_back(number, name, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopping.stop_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.number == number and stop.name == name
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert capsys.readouterr().err.startswith(f"{name}: saving")


def test_the_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="boom"), stopping.stop_signals():
        raise RuntimeError("boom")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal\nfrom simclr_jax.run import stopping\n"
        "with stopping.stop_signals():\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert "still here" not in done.stdout


# One call into C, during which Python runs no handler, as in compiling.
_IN_C = """
import hashlib, os, signal, threading
from simclr_jax.run import stopping
stopping.HARD_LIMIT = 1.0
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
with stopping.stop_signals() as stop:
    SETTING
    hashlib.pbkdf2_hmac("sha256", b"", b"", ROUNDS)
"""


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stop.may_leave = lambda: 'the state is saved'", "Stopped by SIGTERM; the state is saved"),
        ("pass", "saving was not reached in 1 s"),
        ("stop.is_saving = lambda: True", ""),
    ],
)
def test_a_program_in_c_code_ends_in_time_and_never_while_it_saves(setting, said):
    code = _IN_C.replace("SETTING", setting).replace("ROUNDS", "90_000_000" if said else "4_000_000")
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (128 + signal.SIGTERM if said else 0), done.stderr
    assert said in done.stderr and "SIGTERM: saving" in done.stderr and "Traceback" not in done.stderr
    assert not said or time.monotonic() - begin < 8


def test_a_verb_with_nothing_to_save_ends_by_one_exception():
    with pytest.raises(stopping.Interrupted) as caught, stopping.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("text", ["abc", "nan", "-1", "0"])
def test_limits_in_seconds_are_numbers_above_0(monkeypatch, text):
    monkeypatch.setenv(stopping.LIMIT_VARIABLE, text)
    with pytest.raises(base.InputError, match=stopping.LIMIT_VARIABLE), stopping.stop_signals():
        pass
    monkeypatch.setenv(peers.STUCK_VARIABLE, text)
    with pytest.raises(base.InputError, match=peers.STUCK_VARIABLE):
        peers.Peers(0, 1)
