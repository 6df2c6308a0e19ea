"""From file bytes to all the pixels of a picture, at the speed of libjpeg: for feeds that decode in every epoch.

The same pixels as `decode.decode_image` gives where nothing is reduced. Plain JPEG goes through simplejpeg; what is
odd (other formats, CMYK, a rotation in its EXIF, bytes that libjpeg complains about) through Pillow.
"""

import threading

import numpy as np

from simclr_jax.data import decode, extras, imageset

# A picture of more pixels than this side squared comes back from Pillow as it is.
_WHOLE = 1 << 30
_buffers = threading.local()


def picture_size(data: bytes, rules: imageset.Rules = imageset.DEFAULT_RULES) -> tuple[int, int] | None:
    """(height, width) of a plain JPEG by its header alone; None for everything that `decode_full` leaves to Pillow."""
    if not data.startswith(b"\xff\xd8\xff") or _may_be_rotated(data):
        return None
    try:
        height, width, color_space, _ = extras.require("simplejpeg").decode_jpeg_header(data, strict=False)
    except ValueError:
        return None
    allowed = decode.MAX_PIXELS if rules.max_megapixels is None else int(1e6 * rules.max_megapixels)
    plain = color_space in ("YCbCr", "GRAY", "Gray", "RGB") and 0 < height * width <= allowed
    return (height, width) if plain else None


def decode_full(
    data: bytes, *, size: tuple[int, int] | None, rules: imageset.Rules = imageset.DEFAULT_RULES
) -> np.ndarray:
    """The picture in `data`, uint8 [h, w, 3] RGB, in all its pixels.

    The array of a plain JPEG is overwritten by the next call in the same thread.

    Args:
        data: content of a file.
        size: what `picture_size` said of it.
        rules: see `imageset.Rules`.

    Raises:
        DamagedImage: as `decode.decode_image`, whose word it is where libjpeg complains.
    """
    if size is not None:
        try:
            # The slow transform and the smooth upsampling, as Pillow and TensorFlow decode.
            return extras.require("simplejpeg").decode_jpeg(
                data, "RGB", fastdct=False, fastupsample=False, buffer=_buffer(3 * size[0] * size[1])
            )
        except ValueError:
            pass
    return decode.decode_image(data, long_side=_WHOLE, rules=rules).pixels


def _buffer(count: int) -> np.ndarray:
    known = getattr(_buffers, "picture", None)
    if known is None or known.size < count:
        known = _buffers.picture = np.empty(count, np.uint8)
    return known


def _may_be_rotated(data: bytes) -> bool:
    """Whether the EXIF header of a JPEG, if it has one, asks for a rotation or cannot be read."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _orientation(data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]) != 1
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF header; 1 = upright, also where it says nothing; 0 = unreadable."""
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None:
        return 0

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == 0x0112:
            return number(entry + 8, 2)
    return 1
