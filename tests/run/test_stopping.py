"""Signals set a stop to be polled, are answered while the program is in C code, and never end it while it saves."""

import os
import pathlib
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


_CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(7)))
signal.signal(signal.SIGHUP, signal.SIG_DFL)
print("runs", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_to_the_program_that_is_waited_for(number, tmp_path):
    """The program decides how it ends; the status is that of the signal."""
    code = (
        "import sys\nfrom simclr_jax.run import stopping\n"
        "try:\n    stopping.call([sys.executable, '-c', sys.argv[1]])\n"
        "except stopping.Interrupted as stopped:\n    stopping.leave(stopped.number)\n"
    )
    words = [sys.executable, "-c", code, _CHILD]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout.readline() == "runs\n"
            parent.send_signal(number)
            assert parent.wait(20) == 128 + number
            assert parent.stdout.read() == ("told\n" if number == signal.SIGTERM else "")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_status_of_a_program_that_is_waited_for_is_its_own():
    assert stopping.call([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert stopping.call([sys.executable, "-c", kill]) == 128 + signal.SIGKILL


def test_no_verb_gives_a_signal_a_status_of_its_own():
    """`__main__` answers for all of them; only the map's server takes Ctrl-C for its usual end."""
    package = pathlib.Path(stopping.__file__).parents[1]
    files = [path for room in ("cli", "run") for path in (package / room).glob("*.py")]
    found = {path.name for path in files if "except KeyboardInterrupt" in path.read_text()}
    assert found == {"explore_serve.py", "embedding.py", "embedding_shares.py"}  # the latter two raise it again
    assert not [path for path in files if "return 130" in path.read_text()]


@pytest.mark.parametrize("text", ["abc", "nan", "-1", "0"])
def test_limits_in_seconds_are_numbers_above_0(monkeypatch, text):
    monkeypatch.setenv(stopping.LIMIT_VARIABLE, text)
    with pytest.raises(base.InputError, match=stopping.LIMIT_VARIABLE), stopping.stop_signals():
        pass
    monkeypatch.setenv(peers.STUCK_VARIABLE, text)
    with pytest.raises(base.InputError, match=peers.STUCK_VARIABLE):
        peers.Peers(0, 1)
