"""From file bytes to pixels: the formats of `kinds.READ` by their magic bytes, damaged and oversized files refused.

The user's folders are not trusted: only these formats reach a decoder, the header is read before any pixel, and
whatever a decoder raises becomes one line about one file.
"""

import contextlib
import io
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import extras, imageset, kinds

DECODER_VERSION = 3  # part of every cache key: raise it when pixels change
MAX_PIXELS = 64 * 10**6
# What a picture of this many pixels takes is at most 300 MB and two seconds, whatever it holds: libwebp and libavif
# keep several whole pictures of their own, and a file of 2 kB may ask for the largest.
_MAX_PIXELS_OF = {"WEBP": 14 * 10**6, "AVIF": 16 * 10**6, "PNG": 32 * 10**6, "TIFF": 36 * 10**6, "GIF": 40 * 10**6}
# libjpeg keeps all coefficients of a JPEG with several scans, and four colours of one for print.
_MAX_PIXELS_OF |= {"progressive JPEG": 64 * 10**6, "CMYK JPEG": 48 * 10**6}
_STRIP_PIXELS = 2**20  # are converted at a time
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


_ORIENTATION = 0x0112
# What EXIF's orientations ask to be done to the pixels [h, w, 3].
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x[:, ::-1].transpose(1, 0, 2),
}


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
    image = _open_checked(data, rules)
    is_large = image.width * image.height > _LARGE_PIXELS
    try:
        with _one_at_a_time if is_large else contextlib.nullcontext():
            has_more = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            if image.format in ("JPEG", "MPO"):
                _reduce(image, long_side)
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            pixels, levels = _to_rgb(image, rules)
            if turn is not None:
                image.close()
                pixels = np.ascontiguousarray(turn(pixels))
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
    check_size(image.size, jpeg_kind(data) if kind == "JPEG" else kind, rules.max_megapixels)
    return image


def jpeg_kind(data: bytes) -> str:
    """ "JPEG", "progressive JPEG" or "CMYK JPEG", by the header of its frame: what decoding takes differs."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 10 < len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            is_progressive, colors = marker in (0xC2, 0xC6, 0xCA, 0xCE), data[at + 9]
            return "CMYK JPEG" if colors == 4 else "progressive JPEG" if is_progressive else "JPEG"
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return "JPEG"


def check_size(size: tuple[int, int], kind: str, max_megapixels: float | None) -> None:
    """Raises DamagedImage for a picture of `size` (width, height) that is empty or too large for its kind."""
    width, height = size
    if width < 1 or height < 1:
        raise DamagedImage(f"{width}x{height} pixels")
    allowed = MAX_JPEG_PIXELS if kind == "JPEG" else _MAX_PIXELS_OF.get(kind, MAX_PIXELS)
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
    """The pixels, strip by strip: whole pictures in between would take several times the memory."""
    image.load()
    width, height = image.size  # before: of a JPEG, what it is reduced to
    is_deep = image.mode.startswith(("I", "F"))
    low, high = rules.sixteen_bit_range or _FULL_RANGES.get(image.mode, _SIXTEEN_BITS)
    pixels, levels = np.empty((height, width, 3), np.uint8), list[tuple[float, float]]()
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        if is_deep:
            pixels[top : top + rows], found = _scaled(strip, low=low, high=high)
            levels.append(found)
        else:
            pixels[top : top + rows] = _flat(strip)
    if not is_deep:
        return pixels, None
    return pixels, (min(pair[0] for pair in levels), max(pair[1] for pair in levels), low, high)


def _scaled(image: Any, *, low: float, high: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Grey of more than 8 bits between two levels, which Pillow would clip at 255; and the levels that there are."""
    values = np.asarray(image).astype(np.float64)
    largest = float(np.finfo(np.float32).max)
    values = np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest)
    grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return grey[..., None], (float(values.min()), float(values.max()))


def _flat(image: Any) -> np.ndarray:
    """RGB, transparent pixels over white."""
    if image.has_transparency_data:
        pillow = extras.require("PIL.Image")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
