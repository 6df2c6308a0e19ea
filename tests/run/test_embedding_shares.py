"""Several processes embed one folder: who takes which pictures, and the file of one process in the end."""

import functools
import os
import pathlib
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax import base, distributed
from simclr_jax.distributed import peers as peers_lib
from simclr_jax.run import embedding, embedding_shares
from tests.distributed import test_launch

RNG = np.random.default_rng(0)
NUM_PICTURES, BATCH = 11, 2


@pytest.fixture(scope="module")
def encoder(small_run):
    return simclr_jax.load(small_run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven pictures, one of them damaged."""
    folder = tmp_path_factory.mktemp("shares") / "photos"
    folder.mkdir()
    for number in range(NUM_PICTURES):
        Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes((folder / "02.png").read_bytes()[:60])
    return folder


@pytest.fixture
def job_of(monkeypatch):
    """count -> the processes of a job, which are threads here."""
    made: list[distributed.Peers] = []
    monkeypatch.setattr(peers_lib, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)

    def make(count: int) -> list[distributed.Peers]:
        store = test_launch.Store(count)
        monkeypatch.setattr(peers_lib, "_store", lambda: store)
        made[:] = [*made, *(distributed.Peers(index, count) for index in range(count))]
        return made[-count:]

    yield make
    for peer in made:
        peer._left.set()
    for thread in threading.enumerate():
        if thread.name in ("peers", "watchdog"):
            thread.join(20)


def spans_of(folder):
    return sorted(path.stem.removeprefix("part-") for path in folder.glob("part-*"))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shares_are_neighbouring_whole_batches_each_once_and_alike_in_number(count):
    batches = [range(start, min(start + 64, 1000)) for start in range(0, 1000, 64)]
    shares = [embedding_shares.share(batches, index, count) for index in range(count)]
    assert [batch for share in shares for batch in share] == batches
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.few(1)
@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_processes_write_the_file_that_one_writes_and_each_embeds_its_share(
    encoder, photos, tmp_path, monkeypatch, job_of, ending
):
    alone, target = tmp_path / f"alone{ending}", tmp_path / f"target{ending}"
    expected = encoder.embed(photos, output=alone, batch_size=BATCH)
    encode, done = embedding.compute, dict[str, list[range]]()
    parts: set[str] = set()

    def note(job, batches, *rest, **more):
        done[threading.current_thread().name] = batches
        encode(job, batches, *rest, **more)
        parts.update(spans_of(pathlib.Path(f"{target}.parts")))

    monkeypatch.setattr(embedding, "compute", note)
    found = test_launch.both(job_of(3), lambda p: encoder.embed(photos, output=target, batch_size=BATCH, peers=p))
    assert target.read_bytes() == alone.read_bytes()
    assert [one.names for one in found] == [expected.names] * 3
    assert sorted(map(len, done.values())) == [2, 2, 2]
    assert parts == {"000000000-000000004", "000000004-000000008", "000000008-000000011"}
    assert not pathlib.Path(f"{target}.parts").exists()


def test_a_job_that_one_process_began_goes_on_in_two_and_then_in_one(encoder, photos, tmp_path, monkeypatch, job_of):
    alone, target = tmp_path / "alone.npz", tmp_path / "target.npz"
    how = {"batch_size": BATCH}
    encoder.embed(photos, output=alone, **how)
    encode, seen, most = embedding._encode, list[int](), 2

    def stop(job, prepared):
        if len(seen) == most:
            raise base.InputError("stopped")
        seen.append(len(prepared))
        return np.asarray(encode(job, prepared))

    monkeypatch.setattr(embedding, "_encode", stop)
    with pytest.raises(base.InputError, match="stopped"):
        encoder.embed(photos, output=target, **how)
    folder = pathlib.Path(f"{target}.parts")
    assert spans_of(folder) == ["000000000-000000004"]
    seen.clear()
    peers = job_of(2)

    def embed(peer):
        try:
            return encoder.embed(photos, output=target, peers=peer, **how)
        except base.InputError:
            peers[0]._told = peers[1]._told = 15  # as the listener does once another process was stopped
            raise

    said = test_launch.both(peers, functools.partial(stopped_or, embed))
    assert set(said) <= {"stopped", 15} and len(seen) == 2
    assert len(spans_of(folder)) in (2, 3)
    most, before = 99, len(seen)
    encoder.embed(photos, output=target, **how)
    assert len(seen) - before == 2, "what was there was not made again"
    assert target.read_bytes() == alone.read_bytes()


def stopped_or(act, peer):
    """What `act` gives, or the signal that ended it."""
    try:
        return act(peer)
    except KeyboardInterrupt as error:
        return error.number


def test_jobs_that_differ_are_refused_by_all_in_the_same_line(encoder, photos, tmp_path, job_of):
    def embed(peer):
        return encoder.embed(photos, output=tmp_path / f"{peer.index}.npz", peers=peer)

    first, second = test_launch.both(job_of(2), embed)
    assert first == second
    assert first.startswith("output must be the same in all processes; got ")
    assert first.endswith("Start all of them alike, or each on its own with --num_processes=1.")
    layers = ["h", "1"]
    said = test_launch.both(
        job_of(2), lambda p: encoder.embed(photos, output=tmp_path / "f.npz", layer=layers[p.index], peers=p)
    )
    assert said[0] == said[1] and said[0].startswith("layer must be the same in all processes; got '1' in process 1")
    with pytest.raises(base.InputError, match="output must be a file where several processes embed"):
        encoder.embed(photos, peers=job_of(2)[0])


def test_a_process_of_a_job_that_has_lost_its_first_keeps_others_out(encoder, photos, tmp_path, job_of):
    target = tmp_path / "features.npz"
    folder = pathlib.Path(f"{target}.parts")
    folder.mkdir()
    refused = rf"One process at a time may write an output; .* in use by process {os.getpid()} on .*Wait for it"
    with embedding.hold_parts(folder, index=1):
        with pytest.raises(base.InputError, match=refused):
            encoder.embed(photos, output=target)
        with pytest.raises(base.InputError, match=refused):
            encoder.embed(photos, output=target, peers=job_of(2)[0])
    encoder.embed(photos, output=target)
    assert target.exists() and not folder.exists()


def test_the_others_hear_of_every_part_that_process_0_writes(job_of):
    first, _ = job_of(2)
    noted = embedding_shares._noted("abc", first)
    assert [(item, first._step) for item in noted] == [("a", 0), ("b", 1), ("c", 2)]


def test_a_process_that_is_told_to_stop_after_its_last_look_does_not_wait_for_the_others(job_of, monkeypatch):
    ended = list[object]()
    monkeypatch.setattr(peers_lib, "_end", ended.append)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: ended.append("waited"))
    first, second = job_of(2)
    with first:
        first.obey = lambda number: None
        first._leave_if_told({"index": 1, "host": "here", "status": 143, "line": "stopped by SIGTERM."})
    assert ended[0] == 143
    with second:
        pass
    assert ended[-1] == "waited"
