"""Features of any number of pictures: read, decoded, prepared and encoded in a stream, part by part.

Threads decode some batches ahead of the device. Finished parts lie in a folder of their own until all are there, so
that a job which was killed goes on and gives the same file as one that was not. They are saved every half minute, and
what is ready when a signal comes.
"""

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, augment, base, data, units
from simclr_jax.augment import eval_views
from simclr_jax.data import decode, imageset
from simclr_jax.run import feature_file, locking, progress
from simclr_jax.run import parts as parts_lib

DTYPES = ("float32", "float16")
_STEP = 64  # canvases come in steps of so many pixels, so that few of them need a program of their own
_SAVE_SECONDS, _SAVE_ROWS = 30.0, 8192  # after which is saved, whichever comes first
_READY_SECONDS = 0.001  # between two looks whether the device is ready

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

    def batches(self) -> list[range]:
        """The pictures of every batch; a picture's batch, and so its features' bits, never depend on who embeds it."""
        count, size = len(self.pictures.ids), self.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


class _Encoded(NamedTuple):
    """A batch on its way: its pictures, a line in place of each damaged one, and the features of the good ones."""

    batch: range
    prepared: "list[Prepared | str]"
    h: "base.Array | np.ndarray | None"


def embed_parts(job: Job, folder: pathlib.Path | None, *, show: bool) -> parts_lib.Parts:
    """Computes what is not there yet; returns the parts, which can be read again and again.

    Args:
        job: what to do.
        folder: where parts are kept, which this process holds; None to hold all of them in memory.
        show: whether stderr gets lines with rate and time left.

    Raises:
        base.InputError: no picture can be read, features are not finite, or the folder cannot be written.
    """
    count = len(job.pictures.ids)
    parts = parts_lib.Parts(folder)
    parts.take_over(job.stamp, count=count, batch_size=job.batch_size)
    before = parts.num_done()
    if before and show:
        progress.say(f"Going on: {before} of {units.counted(count, 'picture')} are there already.")
    try:
        compute(job, parts.missing(job.batches()), parts, report=progress.Reporter(count, done=before, show=show))
    except KeyboardInterrupt:
        if folder is not None and show:
            kept = f"{parts.num_done()} of {units.counted(count, 'picture')}"
            progress.say(f"{kept} are kept in {folder}; the same command goes on from there.")
        raise
    check_some(job, parts)
    return parts


def check_some(job: Job, parts: parts_lib.Parts) -> None:
    """Raises InputError unless a picture could be read."""
    if not parts.num_rows():
        raise base.InputError(
            f"images must hold at least one picture that can be read; {job.pictures.title} has none of "
            f"{len(job.pictures.ids)}: {'; '.join(parts.skipped()[:3])}."
        )


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
        base.InputError: as for `embed_parts`, the output cannot be written, or another process is writing it.
    """
    if output is None:
        parts = embed_parts(job, None, show=show)
        rows = feature_file.Rows(*map(np.concatenate, zip(*parts, strict=True)))
        return feature_file.as_embedding(rows, {**meta, "skipped": parts.skipped()})
    check_output(output)
    folder = parts_folder(output)
    atomic_files.make_folder(folder, flag="--output")
    with hold_parts(folder):
        parts = embed_parts(job, folder, show=show)
        meta = {**meta, "skipped": parts.skipped()}
        feature_file.save(output, parts, meta=meta, num_rows=parts.num_rows())
        shutil.rmtree(folder, ignore_errors=True)
    return feature_file.load(output, flag="output")


def parts_folder(output: str | os.PathLike[str]) -> pathlib.Path:
    """Where the parts of an output lie until it is written."""
    return pathlib.Path(f"{os.path.realpath(output)}.parts")


def hold_parts(folder: pathlib.Path, *, index: int = 0) -> contextlib.AbstractContextManager[None]:
    """Holds the parts of an output, by process `index` of a job; see `locking.only_process`."""
    rule, remedy = "One process at a time may write an output", "Wait for it, stop it, or use another --output."
    return locking.only_process(folder, flag="--output", rule=rule, remedy=remedy, index=index)


def tell_skipped(skipped: Sequence[str]) -> None:
    """Names pictures that were left out, if there are any, on stderr."""
    if skipped:
        dots = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        progress.say(f"{units.counted(len(skipped), 'damaged picture')} left out: {'; '.join(skipped[:5])}{dots}")


def check_output(output: str | os.PathLike[str]) -> None:
    """Raises InputError, before long work, unless features can be written to `output`."""
    feature_file.check_ending(output)
    atomic_files.check_target(output)


def compute(job: Job, batches: list[range], parts: parts_lib.Parts, *, report: progress.Reporter) -> None:
    """Keeps the parts of the batches: threads decode ahead, and the device works on a batch while the next is
    stacked."""
    num_threads = min(16, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    ahead = max(2, -(-2 * num_threads // job.batch_size))
    queue: collections.deque[list[concurrent.futures.Future[Prepared | str]]] = collections.deque()
    pending = _Pending(job, parts)
    with warnings.catch_warnings(), pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; refusals are exceptions
        try:
            for number, batch in enumerate(batches):
                for later in batches[number + len(queue) : number + ahead]:
                    queue.append([pool.submit(_prepare_one, job, index) for index in later])
                prepared = [future.result() for future in queue.popleft()]
                pending.add(_Encoded(batch, prepared, _encode(job, prepared)))
                report.count(len(batch))
            pending.save()
        except BaseException:
            with contextlib.suppress(Exception):  # the first reason is the one to be told
                pending.save_ready()
            raise
        finally:
            for futures in queue:
                for future in futures:
                    future.cancel()


class _Pending:
    """Encoded batches, one after the other, that are in no part yet."""

    def __init__(self, job: Job, parts: parts_lib.Parts):
        self._job, self._parts, self._held, self._saved = job, parts, list[_Encoded](), time.monotonic()

    def add(self, encoded: _Encoded) -> None:
        """Takes the next batch; saves those before it when it is time, or where it does not follow them."""
        if self._held and self._held[-1].batch.stop != encoded.batch.start:
            self.save()
        self._held.append(encoded)
        # Two batches at a time are on the device, so that it never waits and memory stays bounded.
        before = len(self._held) - 1
        self._settle(before)
        is_due = time.monotonic() - self._saved >= _SAVE_SECONDS
        if is_due or encoded.batch.start - self._held[0].batch.start >= _SAVE_ROWS:
            self._keep(before)

    def save(self) -> None:
        """Saves all, once the device is done with them."""
        self._settle(len(self._held))
        self._keep(len(self._held))

    def save_ready(self) -> None:
        """Saves what is there without waiting for the device."""
        num = next((at for at, encoded in enumerate(self._held) if not _is_ready(encoded.h)), len(self._held))
        self._settle(num)
        self._keep(num)

    def _settle(self, num: int) -> None:
        """Brings the first results home and lets go of pixels: only what is kept of a picture stays."""
        for at, (batch, prepared, h) in enumerate(self._held[:num]):
            if h is not None and not isinstance(h, np.ndarray):
                while not _is_ready(h):  # waiting inside of JAX, Python would answer no signal
                    time.sleep(_READY_SECONDS)
                nothing = np.zeros(0, np.uint8)
                kept = [item if isinstance(item, str) else item._replace(pixels=nothing) for item in prepared]
                self._held[at] = _Encoded(batch, kept, np.asarray(h))

    def _keep(self, num: int) -> None:
        if num:
            span = range(self._held[0].batch.start, self._held[num - 1].batch.stop)
            self._parts.keep(span, _make_part(self._job, span, self._held[:num]))
            del self._held[:num]
            self._saved = time.monotonic()


def _is_ready(h: base.Array | np.ndarray | None) -> bool:
    return h is None or isinstance(h, np.ndarray) or h.is_ready()  # type: ignore[attr-defined]


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


def _make_part(job: Job, span: range, done: list[_Encoded]) -> parts_lib.Part:
    items = [item for encoded in done for item in encoded.prepared]
    good = [(index, item) for index, item in zip(span, items, strict=True) if not isinstance(item, str)]
    features = [
        np.asarray(encoded.h)[: sum(not isinstance(item, str) for item in encoded.prepared)]
        for encoded in done
        if encoded.h is not None
    ]
    rows = feature_file.Rows(
        features=np.concatenate(features).astype(job.dtype) if features else np.zeros((0, 0), job.dtype),
        names=np.asarray([job.pictures.ids[index] for index, _ in good], str),
        labels=np.asarray([item.label for _, item in good], np.int32),
        paths=np.asarray([job.pictures.paths[index] for index, _ in good], str),
        sizes=np.asarray([item.size for _, item in good], np.int32).reshape(-1, 2),
        digests=np.asarray([item.digest for _, item in good], np.uint64),
    )
    finite = np.isfinite(rows.features).all(axis=1)
    if not finite.all():
        wrong = imageset.printable(str(rows.names[np.argmin(finite)]))
        raise base.InputError(
            f"features must be finite numbers of {job.dtype}; those of {wrong} are not. Use --dtype=float32, or "
            "another checkpoint or layer."
        )
    return parts_lib.Part(rows, [item for item in items if isinstance(item, str)])
