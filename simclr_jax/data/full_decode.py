"""From file bytes to all the pixels of a picture, at the speed of libjpeg: for feeds that decode in every epoch.

The same pixels as `decode.decode_image` gives where nothing is reduced. Plain JPEG goes through simplejpeg; what is
odd (other formats, CMYK, a rotation in its EXIF) goes through Pillow; bytes that libjpeg complains about are refused.
"""

import threading

import numpy as np

from simclr_jax.data import decode, extras, imageset, strict

_buffers = threading.local()
# A header may promise pixels that are not there: a larger array is not kept by every thread.
_KEPT_BYTES = 2**25


def picture_size(data: bytes, rules: imageset.Rules = imageset.DEFAULT_RULES) -> tuple[int, int] | None:
    """(height, width) of a plain JPEG by its header alone; None for everything that `decode_full` leaves to Pillow."""
    if not data.startswith(b"\xff\xd8\xff") or strict.may_be_rotated(data):
        return None
    try:
        height, width, color_space, _ = extras.require("simplejpeg").decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a KeyError where there is no valid header
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
        DamagedImage: as `strict.decode_image`.
    """
    if size is not None:
        # The slow transform and the smooth upsampling, as Pillow and TensorFlow decode.
        options = {"colorspace": "RGB", "fastdct": False, "fastupsample": False}
        return strict.decode_jpeg(data, size, buffer=_buffer(3 * size[0] * size[1]), **options)
    return strict.decode_image(data, long_side=decode.WHOLE, rules=rules).pixels


def _buffer(count: int) -> np.ndarray:
    if count > _KEPT_BYTES:
        return np.empty(count, np.uint8)
    known = getattr(_buffers, "picture", None)
    if known is None or known.size < count:
        known = _buffers.picture = np.empty(count, np.uint8)
    return known
