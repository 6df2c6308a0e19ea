"""One job of features in several processes: each embeds a share of what is missing, and process 0 writes the file.

A share is a run of the job's whole batches, so that every feature has the bits that one process gives it, and a job
that was stopped goes on in any number of processes. The parts lie in one folder that all hosts share; who has which
goes through the processes' own connection, as a network's file system shows new names late.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from simclr_jax import atomic_files, base, distributed, units
from simclr_jax.distributed import sharding
from simclr_jax.run import embedding, feature_file, locking, progress, stopping
from simclr_jax.run import parts as parts_lib

_Item = TypeVar("_Item")


def share(batches: Sequence[range], index: int, count: int) -> list[range]:
    """The neighbouring batches that process `index` of `count` takes: all take as many, but for one."""
    begin, end = (len(batches) * number // count for number in (index, index + 1))
    return list(batches[begin:end])


def collect(
    job: embedding.Job,
    meta: Mapping[str, Any],
    *,
    output: str | os.PathLike[str] | None,
    show: bool,
    peers: distributed.Peers,
) -> feature_file.Embedding:
    """`embedding.collect` by all processes of `peers`, each of which calls this with the same job and gets the same.

    Raises:
        base.InputError: as for `embedding.collect`; no output; the processes differ in what they embed, or in where to.
    """
    if output is None:
        raise base.InputError("output must be a file where several processes embed together; got none. Give one.")
    embedding.check_output(output)
    folder = embedding.parts_folder(output)
    with contextlib.ExitStack() as stack:
        if peers.is_main:
            atomic_files.make_folder(folder, flag="--output")
            stack.enter_context(embedding.hold_parts(folder))
        parts = parts_lib.Parts(folder)
        _agree(job, folder, peers)
        peers.obey = _stop  # only now: nothing else interrupts the waits of before
        _embed_share(job, parts, folder, peers, show=show)
        spans = peers.exchange([] if peers.is_main else [(span.start, span.stop) for span in parts.spans()])
        if peers.is_main:
            parts.take_in(_noted((range(*span) for theirs in spans for span in theirs), peers))
            embedding.check_some(job, parts)
            meta = {**meta, "skipped": parts.skipped()}
            feature_file.save(output, _noted(parts, peers), meta=meta, num_rows=parts.num_rows())
            shutil.rmtree(folder, ignore_errors=True)
        peers.exchange("written")
    return feature_file.load(output, flag="output")


def _noted(items: Iterable[_Item], peers: distributed.Peers) -> Iterator[_Item]:
    """The same, where the others hear of each: they wait while process 0 writes, which may take it long."""
    for number, item in enumerate(items):
        peers.at(number)
        yield item


def _agree(job: embedding.Job, folder: pathlib.Path, peers: distributed.Peers) -> None:
    """Returns when all processes are known to do the same job, into the same folder."""
    peers.exchange("listed")  # one host may list the pictures minutes later than another
    peers.agree({"output": str(folder).removesuffix(".parts")})
    peers.agree({"devices per process": sharding.local_summary(), **job.stamp})
    # By the lock's text a folder that all hosts share differs from folders of the same name.
    peers.agree({"output, in a folder that all hosts share,": locking.holder(folder)})


def _embed_share(
    job: embedding.Job, parts: parts_lib.Parts, folder: pathlib.Path, peers: distributed.Peers, *, show: bool
) -> None:
    """Writes this process's share of what is missing into the folder; process 0 has looked through it before."""
    count = len(job.pictures.ids)
    with embedding.hold_parts(folder, index=peers.index) if peers.index else contextlib.nullcontext():
        if peers.is_main:
            parts.take_over(job.stamp, count=count, batch_size=job.batch_size)
        done = peers.exchange([(span.start, span.stop) for span in parts.spans()])[0]
        missing = parts_lib.without(job.batches(), [range(*span) for span in done])
        mine = share(missing, peers.index, peers.count)
        number, before = sum(map(len, mine)), sum(stop - start for start, stop in done)
        if show:
            there = f", {before} of which are there already" if before else ""
            progress.say(
                f"{units.counted(count, 'picture')}{there}; about {number} for each of {peers.count} processes. "
                "What follows is said by process 0."
            )
        try:
            report = progress.Reporter(number, done=0, show=show, note=peers.at)
            embedding.compute(job, mine, parts, report=report)
        except KeyboardInterrupt:
            if show:
                progress.say(f"What is done is kept in {folder}; the same command goes on from there.")
            raise


def _stop(number: int) -> None:
    """Ends this process as one that got the signal itself: what is ready is kept."""
    raise stopping.Interrupted(number)
