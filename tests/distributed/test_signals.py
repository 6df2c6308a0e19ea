"""Signals to one and to all processes of a run while it starts: each ends at once with the signal's status.

The processes are held in C code, as a compiler or a wait for another process holds them: Python runs no handler then.
"""

import signal

import pytest

from tests.distributed import held

pytestmark = pytest.mark.slow
MOST_SECONDS = 5.0  # one to be sure that nothing else ends it, half a one for the other to hear of it


@pytest.mark.parametrize(
    ("place", "number", "to"),
    [
        ("agree", signal.SIGTERM, (1,)),
        ("data", signal.SIGTERM, (0,)),
        ("compile", signal.SIGINT, (0, 1)),
        ("compile", signal.SIGTERM, (1,)),
    ],
)
def test_a_signal_before_the_first_update_ends_all_at_once(tmp_path, place, number, to):
    flags = f"--workdir={tmp_path / 'run'}"
    with held.started(
        tmp_path / "pair", place, flags, compiled=tmp_path, on_hosts=False, SIMCLR_TEST_IN_C="yes"
    ) as pair:
        pair.wait_until_held()
        for index in to:
            pair.processes[index].send_signal(number)
        ended = pair.ended(within=6 * MOST_SECONDS)
    for index, each in enumerate(ended):
        assert each.status == 128 + number and "Traceback" not in each.said, each
        assert each.seconds < MOST_SECONDS, each
        why = "nothing was trained" if index in to else f"ended because process {to[0]} on "
        assert why in each.said and "The same command goes on from here." in each.said, each
    assert not list((tmp_path / "run").glob("checkpoints/*"))
