"""A whole split from file bytes to canvases: in order, by threads, damaged files named and left out."""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import content, decode, extras, imageset, strict


class _Block(NamedTuple):
    indices: list[int]
    images: np.ndarray
    sizes: list[tuple[int, int]]
    labels: list[int]
    contents: list[content.Content]
    skipped: list[str]
    end: int


def decode_split(
    encoded: imageset.Encoded,
    write: Callable[[np.ndarray], None],
    *,
    canvas_size: int,
    max_corrupt_fraction: float,
    progress: bool,
) -> imageset.ImageSet:
    """Decodes every example, in order, and hands uint8 [n, canvas, canvas, 3] rows of the good ones to `write`.

    Returns:
        The `ImageSet` with its fingerprint, and with an empty `images` array of the right shape but no memory.

    Raises:
        base.InputError: more than ceil(max_corrupt_fraction * number of files) are damaged, or none is good.
    """
    digest, count = hashlib.sha256(), len(encoded.ids)
    sizes: list[tuple[int, int]] = []
    labels: list[int] = []
    ids: list[str] = []
    contents: list[content.Content] = []
    skipped: list[str] = []
    with contextlib.closing(_decoded_blocks(encoded, canvas_size=canvas_size, progress=progress)) as blocks:
        for block in blocks:
            digest.update(block.images.data)
            write(block.images)
            sizes += block.sizes
            labels += block.labels
            ids += [encoded.ids[i] for i in block.indices]
            contents += block.contents
            skipped += block.skipped
            check_skipped(skipped, num_files=count, max_corrupt_fraction=max_corrupt_fraction, seen=block.end)
    if not ids:
        raise base.InputError(
            f"{encoded.title} must hold at least one readable image; got {len(skipped)} damaged ones: "
            f"{'; '.join(skipped[:3])}. Repair or replace them."
        )
    decoded = imageset.ImageSet(
        images=np.broadcast_to(np.uint8(0), (len(ids), canvas_size, canvas_size, 3)),
        sizes=np.asarray(sizes, np.int32),
        labels=np.asarray(labels, np.int32),
        class_names=encoded.class_names,
        ids=tuple(ids),
        fingerprint="",
        skipped=tuple(skipped),
        warnings=content.describe(contents, ids),
    )
    return decoded._replace(fingerprint=imageset.finish_fingerprint(digest, image_set=decoded))


def read_labels(encoded: imageset.Encoded, *, max_corrupt_fraction: float) -> np.ndarray:
    """The labels of all examples, int32 [N], out of their records; -1 for one that cannot be read.

    Raises:
        base.InputError: more than ceil(max_corrupt_fraction * number of records) cannot be read.
    """
    count, length = len(encoded.ids), 512
    labels = np.full(count, -1, np.int32)

    def read_block(start: int) -> list[str]:
        skipped = []
        for index in range(start, min(start + length, count)):
            try:
                labels[index] = encoded.read(index)[1]
            except (decode.DamagedImage, OSError) as error:
                skipped.append(f"{imageset.printable(encoded.ids[index])}: {decode.reason(error)}")
        return skipped

    skipped: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        blocks = [pool.submit(read_block, start) for start in range(0, count, length)]
        try:
            for number, block in enumerate(blocks, start=1):
                skipped += block.result()
                seen = min(number * length, count)
                check_skipped(skipped, num_files=count, max_corrupt_fraction=max_corrupt_fraction, seen=seen)
        finally:
            for block in blocks:
                block.cancel()
    return labels


def check_share(max_corrupt_fraction: float) -> None:
    """Raises base.InputError unless the share of damaged files is from 0 to 1."""
    if not 0 <= max_corrupt_fraction <= 1:
        raise base.InputError(
            f"max_corrupt_fraction must be a share from 0 to 1; got {max_corrupt_fraction:g}. Use for example 0.01."
        )


def check_skipped(skipped: list[str], *, num_files: int, max_corrupt_fraction: float, seen: int) -> None:
    """Raises base.InputError if more than ceil(max_corrupt_fraction * num_files) files are damaged."""
    allowed = math.ceil(max_corrupt_fraction * num_files)
    if len(skipped) > allowed:
        raise base.InputError(
            f"at most {allowed} of {num_files} images may be damaged (max_corrupt_fraction={max_corrupt_fraction:g}); "
            f"got {len(skipped)} "
            f"among the first {seen}: {'; '.join(skipped[:3])}{'; ...' if len(skipped) > 3 else ''}. "
            "Repair, convert or remove them, or raise max_corrupt_fraction."
        )


def _decoded_blocks(encoded: imageset.Encoded, *, canvas_size: int, progress: bool) -> Generator[_Block, None, None]:
    """Decoded blocks in order; threads work a few blocks ahead, which bounds memory."""
    count = len(encoded.ids)
    length = max(1, min(256, 2**22 // (3 * canvas_size**2)))
    starts = iter(range(0, count, length))
    num_threads = min(16, os.cpu_count() or 1)
    # A batch job's log gets a line per half minute, a terminal a moving bar.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    bar = extras.require("tqdm").tqdm(
        total=count, desc=encoded.title, unit=" images", disable=not progress, mininterval=interval, file=sys.stderr
    )
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    with bar, warnings.catch_warnings(), pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; refusals are exceptions
        pending: collections.deque[concurrent.futures.Future[_Block]] = collections.deque()
        try:
            while True:
                for start in itertools.islice(starts, 2 * num_threads - len(pending)):
                    end = min(start + length, count)
                    pending.append(pool.submit(_decode_block, encoded, start, end=end, canvas_size=canvas_size))
                if not pending:
                    return
                block = pending.popleft().result()
                bar.update(len(block.indices) + len(block.skipped))
                yield block
        finally:
            for future in pending:
                future.cancel()


def _decode_block(encoded: imageset.Encoded, start: int, *, end: int, canvas_size: int) -> _Block:
    images = np.zeros((end - start, canvas_size, canvas_size, 3), np.uint8)
    block = _Block([], images, [], [], [], [], end)
    read = _read_ahead(encoded, range(start, end))
    for index in range(start, end):
        try:
            data, label = read(index)
            picture = strict.decode_image(data, long_side=canvas_size, rules=encoded.rules)
            canvas, size = imageset.fit_to_canvas(picture.pixels, canvas_size)
        except (decode.DamagedImage, OSError) as error:
            block.skipped.append(f"{imageset.printable(encoded.ids[index])}: {decode.reason(error)}")
            continue
        images[len(block.indices)] = canvas
        block.indices.append(index)
        block.sizes.append(size)
        block.labels.append(label)
        block.contents.append(content.look_at(picture, canvas, size))
    return block._replace(images=images[: len(block.indices)])


def _read_ahead(encoded: imageset.Encoded, indices: range) -> Callable[[int], tuple[bytes, int]]:
    """`encoded.read` for these indices, with one request for all of them where that is cheaper."""
    if encoded.read_block is None:
        return encoded.read
    found = dict(zip(indices, encoded.read_block(indices), strict=True))

    def read(index: int) -> tuple[bytes, int]:
        result = found[index]
        if isinstance(result, Exception):
            raise result
        return result

    return read
