"""From file bytes to pixels: JPEG, PNG, WebP and BMP by their magic bytes, damaged and oversized files refused.

The user's folders are not trusted: only these four formats reach a decoder, the header is read before any pixel,
and whatever a decoder raises becomes one line about one file.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras, imageset

DECODER_VERSION = 1  # part of every cache key: raise it when pixels change
MAX_PIXELS = 64 * 2**20
MAX_SIDE = 16 * 2**10
MAX_FILE_BYTES = 256 * 2**20
DEFAULT_CANVAS_SIZE = 256


class DamagedImage(Exception):
    """This one image cannot be used; the message is a short reason. Never leaves the package."""


def image_format(head: bytes) -> str | None:
    """ "JPEG", "PNG", "WEBP" or "BMP" by the first 16 bytes of a file; None for everything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    # "BM" alone also begins ordinary text; the four reserved bytes are zero in every real bitmap.
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "BMP"
    return None


def decode_image(data: bytes, *, long_side: int) -> np.ndarray:
    """The picture in `data`: uint8 [h, w, 3] RGB.

    Rotated as its EXIF orientation says (TensorFlow and TFDS ignore it); transparent pixels over white; the first
    frame of an animation; 16-bit grey by its high byte; CMYK, palette and grey as Pillow converts them.

    Args:
        data: content of a file.
        long_side: the picture will be shrunk to this later: a JPEG at least four times larger may come back
            reduced by 2, 4 or 8, which is much faster and still leaves twice the pixels needed.

    Raises:
        DamagedImage: not an allowed format, damaged, truncated, more than 64 megapixels or 16,384 pixels a side.
    """
    ops = extras.require("PIL.ImageOps")
    image = _open_checked(data)
    try:
        height, width = imageset.fitted_size(image.height, image.width, long_side)
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (2 * width, 2 * height))
        return _to_rgb(ops.exif_transpose(image))
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise DamagedImage(f"damaged or truncated ({type(error).__name__})") from error


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) by the header alone, without EXIF rotation. Raises DamagedImage."""
    image = _open_checked(data)
    return image.height, image.width


def _open_checked(data: bytes) -> Any:
    pillow = extras.require("PIL.Image")
    if not data:
        raise DamagedImage("empty file")
    kind = image_format(data[:16])
    if kind is None:
        raise DamagedImage("not a JPEG, PNG, WebP or BMP file")
    try:
        image = pillow.open(io.BytesIO(data), formats=(kind,))
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise DamagedImage(f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise DamagedImage(f"damaged header ({type(error).__name__})") from error
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE or min(image.size) < 1:
        raise DamagedImage(f"{image.width}x{image.height}: over {MAX_PIXELS} pixels or {MAX_SIDE} a side")
    return image


def _to_rgb(image: Any) -> np.ndarray:
    pillow = extras.require("PIL.Image")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit levels at 255 instead of scaling them.
        grey = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def printable(name: str) -> str:
    """The name safe for one line of a message: control characters escaped, at most 80 characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return escaped if len(escaped) <= 80 else f"{escaped[:38]}...{escaped[-39:]}"


class _Block(NamedTuple):
    indices: list[int]
    images: np.ndarray
    sizes: list[tuple[int, int]]
    labels: list[int]
    skipped: list[str]
    end: int


def decode_split(
    encoded: imageset.Encoded,
    write: Callable[[np.ndarray], None],
    *,
    canvas_size: int,
    max_skipped: float,
    progress: bool,
) -> imageset.ImageSet:
    """Decodes every example, in order, and hands uint8 [n, canvas, canvas, 3] rows of the good ones to `write`.

    Returns:
        The `ImageSet` with its fingerprint, and with an empty `images` array of the right shape but no memory.

    Raises:
        base.InputError: more than ceil(max_skipped * number of files) are damaged, or none is good.
    """
    digest = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    labels: list[int] = []
    ids: list[str] = []
    skipped: list[str] = []
    with contextlib.closing(_decoded_blocks(encoded, canvas_size=canvas_size, progress=progress)) as blocks:
        for block in blocks:
            digest.update(block.images.data)
            write(block.images)
            sizes += block.sizes
            labels += block.labels
            ids += [encoded.ids[i] for i in block.indices]
            skipped += block.skipped
            check_skipped(skipped, num_files=len(encoded.ids), max_skipped=max_skipped, seen=block.end)
    if not ids:
        raise base.InputError(
            f"{encoded.title} must hold at least one readable image; got {len(skipped)} damaged ones: "
            f"{'; '.join(skipped[:3])}. Repair or replace them."
        )
    shape = (len(ids), canvas_size, canvas_size, 3)
    decoded = imageset.ImageSet(
        images=np.broadcast_to(np.uint8(0), shape),
        sizes=np.asarray(sizes, np.int32),
        labels=np.asarray(labels, np.int32),
        class_names=encoded.class_names,
        ids=tuple(ids),
        fingerprint="",
        skipped=tuple(skipped),
    )
    return decoded._replace(fingerprint=imageset.finish_fingerprint(digest, image_set=decoded))


def check_skipped(skipped: list[str], *, num_files: int, max_skipped: float, seen: int) -> None:
    """Raises base.InputError if more than ceil(max_skipped * num_files) files are damaged."""
    allowed = math.ceil(max_skipped * num_files)
    if len(skipped) > allowed:
        raise base.InputError(
            f"at most {allowed} of {num_files} images may be damaged (max_skipped={max_skipped:g}); got {len(skipped)} "
            f"among the first {seen}: {'; '.join(skipped[:3])}{'; ...' if len(skipped) > 3 else ''}. "
            "Repair or remove them, or raise max_skipped."
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
    block = _Block([], images, [], [], [], end)
    for index in range(start, end):
        try:
            data, label = encoded.read(index)
            canvas, size = imageset.fit_to_canvas(decode_image(data, long_side=canvas_size), canvas_size)
        except (DamagedImage, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            block.skipped.append(f"{printable(encoded.ids[index])}: {reason}")
            continue
        images[len(block.indices)] = canvas
        block.indices.append(index)
        block.sizes.append(size)
        block.labels.append(label)
    return block._replace(images=images[: len(block.indices)])
