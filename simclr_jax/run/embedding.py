"""Features of any number of pictures: read, decoded, prepared and encoded in a stream, part by part.

Threads decode some batches ahead of the device. Finished parts lie in a folder of their own until all are there, so
that a job which was killed goes on and gives the same file as one that was not.
"""

import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, augment, base, data, units
from simclr_jax.augment import eval_views
from simclr_jax.data import decode, imageset
from simclr_jax.run import feature_file, progress

DTYPES = ("float32", "float16")
_STEP = 64  # canvases come in steps of so many pixels, so that few of them need a program of their own
_PART_ROWS = 2048  # pictures after which is saved
_SECONDS = 5.0  # between two lines of progress

EncodeBatch = Callable[[np.ndarray, np.ndarray], "base.Array | np.ndarray"]


class Preparation(NamedTuple):
    """How a picture becomes the encoder's input.

    size: side of a view, pixels. resize: "tf2" or "tf1", on the device from a picture fitted to `canvas_size` pixels,
    or "bilinear" or "bicubic", by Pillow from the whole picture as programs of PyTorch do.
    crop_fraction: share of the shorter side, for Pillow's; the others keep that of evaluation.
    canvas_size: longest side that is kept, pixels. num_views: see `augment.make_eval_views`.
    """

    size: int
    resize: str
    crop_fraction: float = 0.875
    canvas_size: int = decode.DEFAULT_CANVAS_SIZE
    num_views: int = 1

    @property
    def is_pillow(self) -> bool:
        """Whether the views are made on the host, by Pillow."""
        return self.resize in eval_views.FILTERS

    @property
    def protocol(self) -> str:
        """Its name, which goes with the features: "pillow-bilinear.crop0.875.224.views1"."""
        if self.is_pillow:
            return f"pillow-{self.resize}.crop{self.crop_fraction:g}.{self.size}.views{self.num_views}"
        return f"fit{self.canvas_size}.{self.resize}.{self.size}.views{self.num_views}"


class Prepared(NamedTuple):
    """A picture on its way: the canvas or Pillow's views, uint8, the valid (height, width), and what is kept of it."""

    pixels: np.ndarray
    valid: tuple[int, int]
    size: tuple[int, int]
    label: int
    digest: int


def prepare(how: Preparation, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """(uint8 [h, w, 3] of at most `canvas_size`, or Pillow's views [V, size, size, 3]; the valid height and width)."""
    if how.is_pillow:
        views = augment.pillow_views(
            pixels, size=how.size, resize=how.resize, crop_fraction=how.crop_fraction, num_views=how.num_views
        )
        return views, (how.size, how.size)
    canvas, (height, width) = data.fit_to_canvas(pixels, min(max(pixels.shape[:2]), how.canvas_size))
    return canvas[:height, :width], (height, width)


def stack(prepared: list[np.ndarray], *, num_rows: int) -> np.ndarray:
    """Prepared pictures as one array of `num_rows` rows: beside one another with zeros around them, and zeros at the
    end.

    The canvas is as large as the largest picture asks for, in steps of 64 pixels.
    """
    largest = np.max([array.shape[-3:-1] for array in prepared], axis=0)
    height, width = largest if prepared[0].ndim == 4 else -(-largest // _STEP) * _STEP
    rows = np.zeros((num_rows, *prepared[0].shape[:-3], height, width, 3), prepared[0].dtype)
    for row, array in zip(rows, prepared, strict=False):
        row[..., : array.shape[-3], : array.shape[-2], :] = array
    return rows


# A batch: its pictures, a line in place of each damaged one, and the features of the good ones, if there are any.
_Encoded = tuple[list["Prepared | str"], "base.Array | np.ndarray | None"]


class Job(NamedTuple):
    """All that decides over the features of a job.

    pictures: what is embedded. how: their preparation. encode: a full batch of stacked pictures and sizes -> h [B, D].
    batch_size: B. dtype: of what is kept. stamp: plain values; equal for jobs whose parts fit together.
    """

    pictures: data.Pictures
    how: Preparation
    encode: EncodeBatch
    batch_size: int
    dtype: str
    stamp: Mapping[str, Any]


class _Part(NamedTuple):
    """The good rows of a run of pictures, and a line for every damaged one."""

    rows: feature_file.Rows
    skipped: list[str]


def embed_parts(job: Job, folder: pathlib.Path | None, *, show: bool) -> "Parts":
    """Computes what is not there yet; returns the parts, which can be read again and again.

    Args:
        job: what to do.
        folder: where parts are kept, made if need be; None to hold all of them in memory.
        show: whether stderr gets lines with rate and time left.

    Raises:
        base.InputError: no picture can be read, or the folder cannot be written.
    """
    spans = _spans(len(job.pictures.ids), job.batch_size)
    parts = Parts(folder, {}, len(spans))
    done = _open_folder(job, folder)
    missing = [number for number in range(len(spans)) if number not in done]
    if done and show:
        progress.say(f"Going on: {len(done)} of {len(spans)} parts are there already.")
    report = _Reporter(len(job.pictures.ids), done=sum(len(spans[number]) for number in done), show=show)
    with contextlib.closing(_computed(job, [spans[number] for number in missing], report)) as computed:
        for number, part in zip(missing, computed, strict=True):
            parts.keep(number, part)
    if not sum(len(part.rows.labels) for part in parts.all()):
        raise base.InputError(
            f"images must hold at least one picture that can be read; {job.pictures.title} has none of "
            f"{len(job.pictures.ids)}: {'; '.join(parts.skipped()[:3])}."
        )
    return parts


def collect(
    job: Job, meta: Mapping[str, Any], *, output: str | os.PathLike[str] | None, show: bool
) -> feature_file.Embedding:
    """Does a job, with its parts beside `output` while it lasts, or in memory without one.

    Args:
        job: what to do.
        meta: what goes with the features; "skipped" is added.
        output: see `feature_file.save`; None for none.
        show: see `embed_parts`.

    Raises:
        base.InputError: as for `embed_parts`, or the output cannot be written.
    """
    if output is None:
        parts = embed_parts(job, None, show=show)
        rows = feature_file.Rows(*map(np.concatenate, zip(*parts, strict=True)))
        return feature_file.as_embedding(rows, {**meta, "skipped": parts.skipped()})
    check_output(output)
    folder = pathlib.Path(f"{os.path.realpath(output)}.parts")
    parts = embed_parts(job, folder, show=show)
    skipped = parts.skipped()
    feature_file.save(output, parts, meta={**meta, "skipped": skipped}, num_rows=parts.num_rows())
    shutil.rmtree(folder, ignore_errors=True)
    return feature_file.load(output, flag="output")


def check_output(output: str | os.PathLike[str]) -> None:
    """Raises InputError, before long work, unless features can be written to `output`."""
    feature_file.check_ending(output)
    atomic_files.check_target(output)


class Parts:
    """Finished parts, in a folder or in memory; iterating gives the rows of those that have any, again and again."""

    def __init__(self, folder: pathlib.Path | None, held: dict[int, _Part], count: int):
        self._folder, self._held, self._count = folder, held, count

    def keep(self, number: int, part: _Part) -> None:
        """Stores a part."""
        if self._folder is None:
            self._held[number] = part
            return
        with atomic_files.replacing_file(_part_path(self._folder, number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **part.rows._asdict(), skipped=np.asarray(part.skipped, str))

    def all(self) -> Iterator[_Part]:
        """All parts in order."""
        for number in range(self._count):
            yield self._held[number] if self._folder is None else _read_part(_part_path(self._folder, number))

    def __iter__(self) -> Iterator[feature_file.Rows]:
        return (part.rows for part in self.all() if len(part.rows.labels))

    def num_rows(self) -> int:
        """How many pictures could be read."""
        return sum(len(rows.labels) for rows in self)

    def skipped(self) -> list[str]:
        """A line for every damaged picture."""
        return [line for part in self.all() for line in part.skipped]


def _spans(count: int, batch_size: int) -> list[range]:
    """The pictures of every part: whole batches, so that a part's bits do not depend on where a job began."""
    length = batch_size * max(1, _PART_ROWS // batch_size)
    return [range(start, min(start + length, count)) for start in range(0, count, length)]


def _open_folder(job: Job, folder: pathlib.Path | None) -> set[int]:
    """The numbers of the parts that are there and belong to this job; the folder is made, or emptied of another's."""
    if folder is None:
        return set()
    atomic_files.make_folder(folder, flag="--output")
    text = json.dumps(dict(job.stamp), sort_keys=True)
    plan = folder / "job.json"
    if not plan.is_file() or plan.read_text(encoding="utf-8") != text:
        for path in folder.glob("part-*.npz"):
            path.unlink()
        atomic_files.write_text(plan, text)
    return {int(path.stem.removeprefix("part-")) for path in folder.glob("part-*.npz")}


def _part_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"part-{number:06d}.npz"


def _read_part(path: pathlib.Path) -> _Part:
    with np.load(path, allow_pickle=False) as archive:
        rows = feature_file.Rows(**{name: archive[name] for name in feature_file.Rows._fields})
        return _Part(rows, archive["skipped"].tolist())


class _Reporter:
    """Lines on stderr: how many pictures are done, how fast, and how long the rest takes."""

    def __init__(self, total: int, *, done: int, show: bool):
        self._total, self._done, self._show = total, done, show
        self._meter: progress.Meter | None = None
        self._said = time.perf_counter()

    def count(self, pictures: int) -> None:
        """Some more are done."""
        self._done += pictures
        if self._meter is None:  # the first batch compiled the program
            self._meter = progress.Meter(done=self._done, total=self._total)
        elif time.perf_counter() - self._said >= _SECONDS and self._show:
            rate, left = self._meter.read(self._done)
            self._said = time.perf_counter()
            progress.say(
                f"{self._done} of {self._total} pictures  {rate:.1f} pictures/s  left {units.duration(round(left))}"
            )


def _computed(job: Job, spans: list[range], report: _Reporter) -> Generator[_Part, None, None]:
    """The parts of the spans, in order: threads decode ahead, and the device works on a batch while the next is
    stacked."""
    batches = [(span, span[at : at + job.batch_size]) for span in spans for at in range(0, len(span), job.batch_size)]
    num_threads = min(16, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    ahead = max(2, -(-2 * num_threads // job.batch_size))
    queue: collections.deque[list[concurrent.futures.Future[Prepared | str]]] = collections.deque()
    done: list[_Encoded] = []
    with warnings.catch_warnings(), pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; refusals are exceptions
        try:
            for number, (span, batch) in enumerate(batches):
                for _, later in batches[number + len(queue) : number + ahead]:
                    queue.append([pool.submit(_prepare_one, job, index) for index in later])
                prepared = [future.result() for future in queue.popleft()]
                done.append((prepared, _encode(job, prepared)))
                # Two batches at a time are on the device, so that it never waits and memory stays bounded.
                _settle(done, upto=len(done) - 1)
                report.count(len(batch))
                if batch[-1] == span[-1]:
                    yield _make_part(job, span, done)
                    done.clear()
        finally:
            for futures in queue:
                for future in futures:
                    future.cancel()


def _settle(done: list[_Encoded], *, upto: int) -> None:
    """Brings results home and lets go of pixels: only what is kept of a picture stays."""
    for at, (prepared, h) in enumerate(done[:upto]):
        if h is not None and not isinstance(h, np.ndarray):
            kept = [item if isinstance(item, str) else item._replace(pixels=np.zeros(0, np.uint8)) for item in prepared]
            done[at] = (kept, np.asarray(h))


def _prepare_one(job: Job, index: int) -> Prepared | str:
    """The picture, or a line that says why it cannot be read."""
    try:
        long_side = None if job.how.is_pillow else job.how.canvas_size
        picture = data.decode_picture(job.pictures, index, long_side=long_side)
        pixels, valid = prepare(job.how, picture.pixels)
        return Prepared(pixels, valid, picture.size, picture.label, picture.digest)
    except (decode.DamagedImage, OSError) as error:
        return f"{imageset.printable(job.pictures.ids[index])}: {decode.reason(error)}"


def _encode(job: Job, prepared: list[Prepared | str]) -> base.Array | np.ndarray | None:
    good = [item for item in prepared if not isinstance(item, str)]
    if not good:
        return None
    sizes = np.ones((job.batch_size, 2), np.int32)
    sizes[: len(good)] = [item.valid for item in good]
    return job.encode(stack([item.pixels for item in good], num_rows=job.batch_size), sizes)


def _make_part(job: Job, span: range, done: list[_Encoded]) -> _Part:
    _settle(done, upto=len(done))
    items = [item for prepared, _ in done for item in prepared]
    good = [(index, item) for index, item in zip(span, items, strict=True) if not isinstance(item, str)]
    features = [
        np.asarray(h)[: sum(not isinstance(item, str) for item in prepared)] for prepared, h in done if h is not None
    ]
    rows = feature_file.Rows(
        features=np.concatenate(features).astype(job.dtype) if features else np.zeros((0, 0), job.dtype),
        names=np.asarray([job.pictures.ids[index] for index, _ in good], str),
        labels=np.asarray([item.label for _, item in good], np.int32),
        paths=np.asarray([job.pictures.paths[index] for index, _ in good], str),
        sizes=np.asarray([item.size for _, item in good], np.int32).reshape(-1, 2),
        digests=np.asarray([item.digest for _, item in good], np.uint64),
    )
    return _Part(rows, [item for item in items if isinstance(item, str)])
