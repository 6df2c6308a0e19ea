"""What happens to the screen does not decide over the work, and no traceback comes of it."""

import subprocess
import sys

import pytest

from simclr_jax.cli import screen

HELP = [sys.executable, "-m", "simclr_jax", "plan", "--help"]


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("1>/dev/full", 2, "the output could not be written: No space left on device"),
        ("| true", 0, ""),
        ("1>&-", 0, ""),
        ("1>&- 2>&-", 0, ""),
        ("0<&- 2>/dev/full", 0, ""),
    ],
)
def test_streams_that_are_full_closed_or_left_end_nothing_in_a_traceback(streams, status, said):
    command = f"set -o pipefail; {' '.join(HELP)} {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == bool(said)


def test_the_streams_are_put_back(capsys):
    before = sys.stdout
    with screen.steadfast() as out:
        print("shown ü")
        assert sys.stdout is out and not out.lost
    assert sys.stdout is before and capsys.readouterr().out == "shown ü\n"
