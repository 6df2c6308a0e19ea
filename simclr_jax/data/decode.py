"""From file bytes to pixels: the formats of `kinds.READ` by their magic bytes, damaged and oversized files refused.

The user's folders are not trusted: only these formats reach a decoder, the header is read before any pixel, and
whatever a decoder raises becomes one line about one file.
"""

import contextlib
import io
import threading
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import extras, imageset, kinds

DECODER_VERSION = 3  # part of every cache key: raise it when pixels change
MAX_PIXELS = 64 * 10**6
# A JPEG is decoded at an eighth of its size where the canvas allows it; telephones make 108 and 200 megapixels.
MAX_JPEG_PIXELS = 256 * 10**6
MAX_FILE_BYTES = 256 * 2**20
DEFAULT_CANVAS_SIZE = 256
# As `long_side`: no picture is that long, and nothing is reduced.
WHOLE = 1 << 30
_FULL_RANGES = {"F": (0.0, 1.0)}
_SIXTEEN_BITS = (0.0, 65535.0)
# Pictures from this size on are decoded one after the other, else sixteen threads would need sixteen times the memory.
_LARGE_PIXELS = 32 * 10**6
_MAX_CHANNELS = 4  # RGBA or CMYK
_one_at_a_time = threading.Lock()


class DamagedImage(Exception):
    """This one image cannot be used; the message is a short reason. Never leaves the package."""


def reason(error: Exception) -> str:
    """Why a file cannot be used, in a few words: of a `DamagedImage`, or of an OSError while it was read."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class Picture(NamedTuple):
    """A decoded file.

    pixels: uint8 [h, w, 3] RGB.
    levels: of a picture of more than 8 bits: its lowest and highest level, and those shown as black and white; else
        None.
    has_more: whether the file holds further pages or frames.
    """

    pixels: np.ndarray
    levels: tuple[float, float, float, float] | None
    has_more: bool


def decode_image(data: bytes, *, long_side: int, rules: imageset.Rules = imageset.DEFAULT_RULES) -> Picture:
    """The picture in `data`.

    Rotated as its EXIF orientation says (TensorFlow and TFDS ignore it); transparent pixels over white; the first
    page or frame; grey of more than 8 bits by `rules.sixteen_bit_range` (colours of 16 bits by their high byte, as
    Pillow reads them); CMYK, palette and grey as Pillow converts them.

    Args:
        data: content of a file.
        long_side: the picture will be shrunk to this later: a JPEG at least four times larger may come back
            reduced by 2, 4 or 8, which is much faster and still leaves twice the pixels needed (all that are
            needed, where twice as many would be over `MAX_PIXELS`).
        rules: see `imageset.Rules`.

    Raises:
        DamagedImage: not an allowed format, damaged, truncated, or more pixels than `rules` allow.
    """
    ops = extras.require("PIL.ImageOps")
    image = _open_checked(data, rules)
    is_large = image.width * image.height > _LARGE_PIXELS
    try:
        with _one_at_a_time if is_large else contextlib.nullcontext():
            has_more = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            if image.format in ("JPEG", "MPO"):
                _reduce(image, long_side)
            pixels, levels = _to_rgb(ops.exif_transpose(image), rules)
            return Picture(pixels, levels, has_more)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise DamagedImage(f"damaged or truncated ({type(error).__name__})") from error


def image_size(data: bytes, rules: imageset.Rules = imageset.DEFAULT_RULES) -> tuple[int, int]:
    """(height, width) by the header alone, without EXIF rotation. Raises DamagedImage."""
    image = _open_checked(data, rules)
    return image.height, image.width


def num_channels(data: bytes, rules: imageset.Rules = imageset.DEFAULT_RULES) -> int:
    """Channels of the file by its header alone: 1 grey or palette, 3 colours, 4 CMYK or RGBA. Raises DamagedImage."""
    return len(_open_checked(data, rules).getbands())


def max_file_bytes(rules: imageset.Rules) -> int:
    """The largest file that is read: `MAX_FILE_BYTES`, or 8 bytes for each pixel that `rules` ask for."""
    return max(MAX_FILE_BYTES, int(8e6 * (rules.max_megapixels or 0)))


def _open_checked(data: bytes, rules: imageset.Rules) -> Any:
    pillow = extras.require("PIL.Image")
    if not data:
        raise DamagedImage("empty file")
    kind = kinds.image_format(data[: kinds.HEAD_BYTES])
    if kind is None:
        raise DamagedImage(kinds.why_not_read(data[: kinds.HEAD_BYTES]))
    channels = kinds.tiff_channels(data) if kind == "TIFF" else 0
    if channels > _MAX_CHANNELS:  # Pillow would take the first three, if it can
        raise DamagedImage(f"{channels} channels, of which none is known to be red (save three as an 8-bit PNG)")
    pillow.init()
    if kind not in pillow.OPEN:
        raise DamagedImage(f"{kind}, which this version of Pillow does not read (pip install -U pillow)")
    try:
        # Not `Image.open`: its own limit on pixels knows nothing of a JPEG's reduction; ours is below.
        image = pillow.OPEN[kind][0](io.BytesIO(data), "")
    except Exception as error:
        odd = ", or of an unusual kind: save it as 8-bit PNG" if kind == "TIFF" else ""
        raise DamagedImage(f"damaged header ({type(error).__name__}){odd}") from error
    check_size(image.size, kind, rules.max_megapixels)
    return image


def check_size(size: tuple[int, int], kind: str, max_megapixels: float | None) -> None:
    """Raises DamagedImage for a picture of `size` (width, height) that is empty or too large for its kind."""
    width, height = size
    if width < 1 or height < 1:
        raise DamagedImage(f"{width}x{height} pixels")
    allowed = MAX_JPEG_PIXELS if kind == "JPEG" else MAX_PIXELS
    if max_megapixels is not None:
        allowed = int(1e6 * max_megapixels)
    if width * height > allowed:
        raise DamagedImage(
            f"{width}x{height} are {width * height / 1e6:.0f} megapixels, above {allowed / 1e6:.0f} for {kind} "
            "(shrink it, or raise max_megapixels)"
        )


def _reduce(image: Any, long_side: int) -> None:
    """Lets libjpeg leave out detail that the canvas cannot hold."""
    height, width = imageset.fitted_size(image.height, image.width, long_side)
    # Reducing by s leaves less than twice what is asked for in each direction.
    twice_is_small = 16 * height * width <= MAX_PIXELS or image.width * image.height <= MAX_PIXELS
    image.draft(None, (2 * width, 2 * height) if twice_is_small else (width, height))


def _to_rgb(image: Any, rules: imageset.Rules) -> tuple[np.ndarray, tuple[float, float, float, float] | None]:
    pillow = extras.require("PIL.Image")
    if image.mode.startswith(("I", "F")):
        # Pillow would clip levels at 255 instead of scaling them.
        values = np.asarray(image).astype(np.float64)
        largest = float(np.finfo(np.float32).max)
        values = np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest)
        low, high = rules.sixteen_bit_range or _FULL_RANGES.get(image.mode, _SIXTEEN_BITS)
        grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1), (float(values.min()), float(values.max()), low, high)
    if image.has_transparency_data:
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB")), None
