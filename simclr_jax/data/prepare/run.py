"""`prepare`: a data set by name, or a folder, to array_record files that TFDS and `tfds:NAME` read."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import filelock

from simclr_jax import base
from simclr_jax.data import blocks, imageset, strict
from simclr_jax.data.prepare import archives, binary, folders, imagenet, result, shard, tfds_layout
from simclr_jax.data.prepare import plan as plan_lib

BUILDERS: dict[str, Callable[..., plan_lib.Plan]] = {
    "cifar10": binary.plan_cifar10,
    "cifar100": binary.plan_cifar100,
    "stl10": binary.plan_stl10,
    "imagenette": imagenet.plan_imagenette,
    "imagenet2012": imagenet.plan_imagenet,
}
CHECKS = ("strict", "lenient")
Progress = Callable[[int, int], None]


def prepare(
    name: str,
    output: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] = ".",
    variant: str = "",
    set_name: str = "",
    short_side: int | None = None,
    check: str = "strict",
    max_corrupt_fraction: float = 0.01,
    max_megapixels: float | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> result.Prepared:
    """Prepares a data set below the folder `output`; one that is there already is verified.

    Every image is decoded on the way and refused, with its name and the reason, if it is damaged. The bytes of the
    others are stored as they are (pixels of binary archives as PNG). Files are finished one by one: after a stop,
    also by SIGKILL, the same call goes on. The result appears under its name when all of it is done.

    Args:
        name: one of `BUILDERS`, or the path of a folder, read as `folder:PATH` reads it.
        output: what is later `data_dir`: the result is OUTPUT/NAME[/CONFIG]/VERSION.
        source: for a name, the folder of the official archives; nothing is downloaded.
        variant: for a name with variants, which one.
        set_name: for a folder, the name of the data set; "" for the folder's.
        short_side: shrink larger images to this short side, once, as JPEGs of quality 90; None = keep the bytes.
        check: "strict" (see `strict.decode_image`) or "lenient": damage that decoders pass over is let through.
        max_corrupt_fraction: from 0 to 1; at most ceil of this share of all examples may be refused.
        max_megapixels: larger pictures are refused, see `imageset.Rules`.
        num_threads: None for one a core.
        progress: called with (examples done, of how many) now and then, from several threads, one at a time.

    Raises:
        base.InputError: an unknown name, missing or damaged archives, too many refused examples (named), a value out of
            range, a folder or disk that cannot be written, or another run at work on the same data set.

    Example:
        >>> prepared = prepare.prepare("photos", "prepared")                              # doctest: +SKIP
        >>> data.load_split(f"tfds:{prepared.name}", "train", data_dir="prepared")        # doctest: +SKIP
    """
    settings = _settings(check, short_side, max_megapixels=max_megapixels)
    blocks.check_share(max_corrupt_fraction)
    place = pathlib.Path(os.path.expanduser(output))
    state = _State(threading.Lock(), progress, max_corrupt_fraction)
    try:
        with _locked(place, name):
            work = place / f".{_plain(name)}.unpacked"
            work.mkdir(exist_ok=True)
            plan = _make_plan(name, source, variant=variant, set_name=set_name, work=work, tick=state.check)
            if short_side is not None:
                parts = [part for part in (plan.config, f"short{short_side}") if part]
                plan = plan._replace(config="_".join(parts), shape=None, encoding="")
            found = _make_or_find(
                place / plan_lib.full_name(plan), plan, settings=settings, state=state, num_threads=num_threads
            )
            shutil.rmtree(work)
    except OSError as error:
        raise base.InputError(
            f"the source must be readable and the output writable; got {error.strerror or error} for "
            f"{error.filename or place}. Make room, or choose another output."
        ) from error
    return found


def _settings(check: str, short_side: int | None, *, max_megapixels: float | None) -> shard.Settings:
    base.check_choice(check, CHECKS, name="check")
    if short_side is not None and (isinstance(short_side, bool) or not 8 <= short_side <= 4096):
        raise base.InputError(
            f"short_side must be a whole number of pixels from 8 to 4096; got {short_side!r}. Leave it out to keep the "
            "files as they are."
        )
    if check == "strict" and not strict.is_available():
        raise base.InputError(
            "a strict check needs the Python package simplejpeg; it is not installed. Install it with: pip install "
            "'simclr-jax[data]'"
        )
    return shard.Settings(check, short_side, imageset.check_rules(imageset.Rules(max_megapixels=max_megapixels)))


@contextlib.contextmanager
def _locked(output: pathlib.Path, name: str) -> Iterator[None]:
    """The only run that prepares this set there."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(output / f".{_plain(name)}.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise base.InputError(
            f"only one run may prepare {imageset.printable(name)} in a folder; another one is at work in {output}. "
            "Wait for it."
        ) from error


def _plain(name: str) -> str:
    return name if name in BUILDERS else folders.name_of(pathlib.Path(name))


def _make_plan(
    name: str,
    source: str | os.PathLike[str],
    *,
    variant: str,
    set_name: str,
    work: pathlib.Path,
    tick: archives.Tick,
) -> plan_lib.Plan:
    if name in BUILDERS:
        if set_name:
            raise base.InputError(f"a name of your own is for folders; {name} has one; got {set_name!r}. Leave it out.")
        place = pathlib.Path(os.path.expanduser(source))
        return BUILDERS[name](place, variant=variant, work=work, tick=tick)
    folder = os.path.expanduser(name.removeprefix("folder:"))
    if not os.path.isdir(folder):
        raise base.InputError(
            f"what is prepared must be one of {', '.join(BUILDERS)} or an existing folder; got "
            f"{imageset.printable(name)!r}. Check the path."
        )
    if variant:
        raise base.InputError(f"a folder has no variants; got {variant!r}. Leave it out.")
    return folders.plan_folder(pathlib.Path(folder), name=set_name)


class _State:
    """What the threads share: how far they are, what was refused, and whether to stop."""

    def __init__(self, lock: threading.Lock, progress: Progress | None, max_corrupt_fraction: float):
        self.lock, self.progress, self.max_corrupt_fraction = lock, progress, max_corrupt_fraction
        self.is_stopped, self.done, self.total = False, 0, 0
        self.refused: list[str] = []

    def check(self) -> None:
        """Raises where another thread has failed."""
        if self.is_stopped:
            raise _Stopped

    def tick(self, count: int, refused: str) -> None:
        """Counts examples that are done, or one that is refused."""
        self.check()
        with self.lock:
            self.done += count
            if refused:
                self.refused.append(refused)
                blocks.check_skipped(
                    self.refused,
                    num_files=self.total,
                    max_corrupt_fraction=self.max_corrupt_fraction,
                    seen=self.done,
                )
            if self.progress:
                self.progress(self.done, self.total)


class _Stopped(Exception):
    """The work ends here because something else has failed."""


class _Job(NamedTuple):
    split: str
    file: str
    items: list[plan_lib.Item]
    key: str


def _make_or_find(
    folder: pathlib.Path,
    plan: plan_lib.Plan,
    *,
    settings: shard.Settings,
    state: _State,
    num_threads: int | None,
) -> result.Prepared:
    jobs = []
    for split, items in plan.splits.items():
        if not items:
            raise base.InputError(
                f"split {split} of {plan.name} must hold at least one image; got none. Check the source."
            )
        shards = plan_lib.spread(items)
        for index, of_shard in enumerate(shards):
            file = tfds_layout.shard_name(plan, split, index=index, count=len(shards))
            jobs.append(_Job(split, file, of_shard, shard.key_of(of_shard, plan, split=split, settings=settings)))
    key = hashlib.sha256("".join(job.key for job in jobs).encode()).hexdigest()
    if folder.is_dir():
        if result.read_record(folder)["key"] != key:
            raise base.InputError(
                f"{folder} is prepared already, from other files or in another way. Remove it, or choose another "
                "output."
            )
        return result.verify(folder, num_threads=num_threads)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    summaries = _make_shards(partial, jobs, plan, settings=settings, state=state, num_threads=num_threads)
    _finish(partial, plan, jobs=jobs, summaries=summaries, key=key)
    os.replace(partial, folder)
    return result.load(folder)


def _make_shards(
    partial: pathlib.Path,
    jobs: Sequence[_Job],
    plan: plan_lib.Plan,
    *,
    settings: shard.Settings,
    state: _State,
    num_threads: int | None,
) -> list[shard.Summary]:
    """Makes the shards that are not there yet, several at a time."""
    wanted = {partial / job.file for job in jobs}
    for path in partial.iterdir():  # of another state of the source
        if path not in wanted and path not in {shard.summary_path(file) for file in wanted}:
            path.unlink()
    state.total = sum(len(job.items) for job in jobs)
    with concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; refusals are exceptions
        futures = [
            pool.submit(
                shard.make,
                partial / job.file,
                job.items,
                plan,
                split=job.split,
                settings=settings,
                key=job.key,
                tick=state.tick,
            )
            for job in jobs
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:
            state.is_stopped = True
            for future in futures:
                future.cancel()
    return [future.result() for future in futures]


def _finish(
    folder: pathlib.Path,
    plan: plan_lib.Plan,
    *,
    jobs: Sequence[_Job],
    summaries: Sequence[shard.Summary],
    key: str,
) -> None:
    """Writes what stands beside the shards, and removes what only a stopped run needs."""
    splits: dict[str, dict[str, Any]] = {}
    names = plan.labels.get("label", ())
    for job, summary in zip(jobs, summaries, strict=True):
        split = splits.setdefault(
            job.split, {"shards": {}, "num_bytes": 0, "class_counts": Counter(), "refused": [], "changed": []}
        )
        split["shards"][job.file] = [summary.num_examples, f"{summary.total:064x}"]
        split["num_bytes"] += summary.num_bytes
        split["class_counts"] += Counter({names[label] if label >= 0 else "": n for label, n in summary.counts.items()})
        split["refused"] += summary.refused
        split["changed"] += summary.changed
    for name, values in splits.items():
        if not sum(count for count, _ in values["shards"].values()):
            raise base.InputError(
                f"split {name} of {plan.name} must hold at least one readable image; got none: "
                f"{'; '.join(values['refused'][:3])}. Repair or replace them."
            )
    shapes = {name: (v["num_bytes"], [count for count, _ in v["shards"].values()]) for name, v in splits.items()}
    tfds_layout.write(folder, plan, shapes)
    remarks = [
        f"split {split} has {sum(shapes[split][1])} examples; the published set has {expected}"
        for split, expected in plan.expected.items()
        if split in shapes and sum(shapes[split][1]) != expected
    ]
    record = {"format": shard.FORMAT, "key": key, "understood": plan.understood, "remarks": remarks, "splits": splits}
    tfds_layout.write_json(folder / result.RECORD, record)
    for job in jobs:
        shard.summary_path(folder / job.file).unlink()
