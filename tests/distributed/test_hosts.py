"""Two hosts with a network between them that is slow, loses packets, or is cut while the run starts, trains or saves.

Network namespaces give each process a host of its own: name, addresses, and a line that this test holds in its hand.
"""

import json
import pathlib
import re
import time
from typing import NamedTuple

import pytest

from simclr_jax import base
from simclr_jax import distributed as launch_lib
from simclr_jax.run import checkpoint, tree_digests
from tests.distributed import held, hosts

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(hosts.why_not()), reason=hosts.why_not())]
NUM_STEPS = 11
DELAY, LOSS = 0.02, 0.005  # of a packet; 40 ms there and back
SILENT_SECONDS = 7.0  # and ten beats of half a second
# Each end notices after the limit, tries for some seconds to tell the other one, and ends.
MOST_SECONDS = SILENT_SECONDS + 30
OURS = re.compile(r"^simclr-jax train: (nothing was heard of process|waited \d+ s for|another process was lost)", re.M)


class Found(NamedTuple):
    """What a run left: step -> loss, and the digests of its last state."""

    losses: dict[int, float]
    state: dict[str, str]


def read(run: pathlib.Path) -> Found:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    step, state = checkpoint.read_chosen(run / "checkpoints", "latest", scores={}, warn=pytest.fail)
    assert step == NUM_STEPS
    return Found({row["step"]: row["loss"] for row in rows if "loss" in row}, tree_digests.leaf_digests(state))


def newest_intact(run: pathlib.Path) -> int:
    step, state = checkpoint.read_chosen(run / "checkpoints", "latest", scores={}, warn=pytest.fail)
    assert int(base.TrainState(**state).step) == step
    return step


def same_as_undisturbed(found: Found, undisturbed: Found) -> None:
    """Bit for bit; the first update of a start, here the sixth, compiles and logs no loss."""
    expected = {step: loss for step, loss in undisturbed.losses.items() if step != 6}
    assert found.losses == expected and len(expected) == NUM_STEPS - 2
    assert found.state == undisturbed.state


@pytest.fixture(scope="module")
def line():
    with hosts.two_hosts() as line:
        yield line


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compiled):
    """The run as two processes of one host do it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with held.started(
        folder / "pair", "nowhere", f"--workdir={folder / 'run'}", compiled=compiled, on_hosts=False
    ) as pair:
        assert [each.status for each in pair.ended(within=held.CAP_SECONDS)] == [0, 0]
    return read(folder / "run")


def test_a_slow_line_that_loses_packets_changes_no_bit(line, undisturbed, compiled, tmp_path):
    line.seconds, line.loss, line.lost = DELAY, LOSS, 0
    try:
        with held.started(
            tmp_path / "pair", "nowhere", f"--workdir={tmp_path / 'run'}", compiled=compiled, on_hosts=True
        ) as pair:
            ended = pair.ended(within=held.CAP_SECONDS)
    finally:
        line.seconds, line.loss = 0.0, 0.0
    assert [each.status for each in ended] == [0, 0], ended
    assert line.lost > 0 and len(undisturbed.losses) == NUM_STEPS - 1, (
        "the first update of a start compiles and logs no loss"
    )
    assert read(tmp_path / "run") == undisturbed


@pytest.mark.timeout(900)  # waits, and seven starts of two processes
def test_a_line_that_is_cut_ends_both_and_a_mended_one_goes_on_with_the_same_bits(
    line, undisturbed, compiled, tmp_path, record_property
):
    run = tmp_path / "run"
    for place in ("save", "restore", "update"):
        with held.started(
            tmp_path / place,
            place,
            f"--workdir={run}",
            compiled=compiled,
            on_hosts=True,
            SIMCLR_TEST_SILENT_SECONDS=f"{SILENT_SECONDS}",
        ) as pair:
            pair.wait_until_held()
            line.is_cut = True
            try:
                time.sleep(0.1)
                pair.go()
                ended = pair.ended(within=MOST_SECONDS)
            finally:
                line.is_cut = False
        for each in ended:
            assert each.status == launch_lib.EXIT_PEER_LOST, (place, each)
            assert len(OURS.findall(each.said)) == 1 and "Traceback" not in each.said, (place, each.said)
        record_property(place, [round(each.seconds, 1) for each in ended])
        assert newest_intact(run) == 5, place
    with held.started(tmp_path / "mended", "nowhere", f"--workdir={run}", compiled=compiled, on_hosts=True) as pair:
        ended = pair.ended(within=held.CAP_SECONDS)
    assert [each.status for each in ended] == [0, 0], ended
    assert "Going on from step 5" in ended[0].said
    same_as_undisturbed(read(run), undisturbed)
