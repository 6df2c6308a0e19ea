"""Windows of whole pictures, resized on the host: the reference's bicubic exactly, or OpenCV's, which is faster.

The exact one is `augment.resizing` again: the same four taps an output pixel, as two sparse products in float32, then
clipped to [0, 255] and rounded to uint8. Rounding is the one deliberate difference from views that are cut on the
device: half a level of 255 at most. The clip comes before the flip and the colour jitter there, not after.
"""

import functools
import math
import threading
from collections.abc import Callable
from types import ModuleType

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras

# Name -> what it means; of OpenCV's bicubic docs/data.md gives the measured deviation.
METHODS = ("exact", "opencv")
_CUBIC_PARAMETER = {"tf2": -0.5, "tf1": -0.75}
_scratch = threading.local()

# Output rows that are made together; at 224 pixels 224 and 56 were 8 % slower.
_BLOCK = 112

Box = tuple[int, int, int, int]
Taps = tuple[np.ndarray, np.ndarray]


def check_method(method: object) -> None:
    """Raises base.InputError unless `method` is one of METHODS."""
    base.check_choice(method, METHODS, name="crop_method", remedy="Use exact.")


@functools.cache
def opencv() -> ModuleType:
    """OpenCV without threads of its own: ours already take every core.

    Raises:
        base.InputError: it is not installed.
    """
    cv2 = extras.require("cv2")
    cv2.setNumThreads(0)
    return cv2


def crop(picture: np.ndarray, box: Box, *, out: np.ndarray, method: str = "exact", resize: str = "tf2") -> None:
    """Cuts `box` out of a picture and resizes it into `out`.

    Args:
        picture: uint8 [H, W, 3].
        box: (y, x, height, width), inside the picture.
        out: uint8 [size, size, 3], contiguous; receives the result.
        method: "exact": the reference's bicubic without antialiasing. "opencv": `cv2.resize` with INTER_CUBIC, which
            has another kernel (a = -0.75).
        resize: "tf2" or "tf1", of the exact method; see `augment.resize_weights`.

    Reference: TensorFlow's ResizeBicubic kernel, including its rounding of the position to 1/1024 pixel.
    """
    y, x, height, width = box
    window = picture[y : y + height, x : x + width]
    cv2, size = opencv(), len(out)
    if method == "opencv":
        cv2.resize(window, (size, size), dst=out, interpolation=cv2.INTER_CUBIC)
        return
    # Rows first, a part of the output at a time, which stays in the cache; then columns, in transposed layout, so that
    # both products run over whole lines. Arrays are kept by each thread: fresh ones cost more to map than to fill.
    columns = resize_taps(width, size, resize)
    for part, (first, last), taps in _parts(height, size, resize):
        lines = _array("lines", (last - first, width, 3))
        lines[...] = window[first:last]
        count = part.stop - part.start
        flat = _product(lines, taps, _array("flat", (count, width, 3)))
        upright = cv2.transpose(flat, dst=_array("upright", (width, count, 3)))
        small = _product(upright, columns, _array("small", (size, count, 3)))
        cv2.threshold(small, 0, 0, cv2.THRESH_TOZERO, dst=small)
        # Rounds to the nearest level and stops at 255.
        levels = cv2.convertScaleAbs(small, dst=_array("levels", small.shape, np.uint8))
        cv2.transpose(levels, dst=out[part])


@functools.lru_cache(maxsize=4096)
def _parts(extent: int, out_size: int, resize: str) -> list[tuple[slice, tuple[int, int], Taps]]:
    """`resize_taps` cut into blocks of output pixels: (pixels, (first, last + 1) source pixel, their own taps)."""
    index, weights = resize_taps(extent, out_size, resize)
    parts = []
    for start in range(0, out_size, _BLOCK):
        part = slice(start, min(start + _BLOCK, out_size))
        own = slice(4 * part.start, 4 * part.stop)
        first, last = int(index[own].min()), int(index[own].max()) + 1
        parts.append((part, (first, last), (index[own] - np.int32(first), weights[own])))
    return parts


@functools.lru_cache(maxsize=4096)
def resize_taps(extent: int, out_size: int, resize: str) -> Taps:
    """The matrix of `augment.resize_weights` for a window of `extent` pixels, by its entries.

    Returns:
        (source pixels int32 [4 * out_size], weights float32 [4 * out_size]), four an output pixel.
    """
    row, scale = np.arange(out_size, dtype=np.float32), np.float32(extent) / np.float32(out_size)
    half = np.float32(0.5 if resize == "tf2" else 0.0)
    position = np.maximum((row + half) * scale, np.float32(0)) - half
    whole = np.floor(position)
    f = np.rint((position - whole) * np.float32(1024)) * np.float32(1 / 1024)
    g, a = np.float32(1) - f, np.float32(_CUBIC_PARAMETER[resize])

    def near(t: np.ndarray) -> np.ndarray:
        return ((a + np.float32(2)) * t - (a + np.float32(3))) * t * t + np.float32(1)

    taps = np.stack([a * f * g * g, near(f), near(g), a * g * f * f], axis=1)
    index = whole.astype(np.int32)[:, None] + np.arange(-1, 3, dtype=np.int32)
    if resize == "tf2":
        taps = np.where((index >= 0) & (index < extent), taps, np.float32(0))
        taps = taps / taps.sum(axis=1, keepdims=True, dtype=np.float32)
    return np.clip(index, 0, extent - 1).ravel(), taps.ravel()


def _product(x: np.ndarray, taps: Taps, out: np.ndarray) -> np.ndarray:
    """`out` [size, ...] = the sparse matrix of `resize_taps` times `x` [extent, ...]; both float32 and contiguous."""
    size, (index, weights) = len(out), taps
    out.fill(0)
    _sparse_product()(size, len(x), out[0].size, _ends(size), index, weights, x.reshape(-1), out.reshape(-1))
    return out


@functools.cache
def _sparse_product() -> Callable[..., None]:
    # The public product of SciPy makes a fresh array every time, which takes half as long again.
    try:
        from scipy.sparse import _sparsetools

        return _sparsetools.csr_matvecs
    except (ImportError, AttributeError):  # it is not part of SciPy's interface
        return _public_product


def _public_product(
    size: int, extent: int, width: int, ends: np.ndarray, index: np.ndarray, weights: np.ndarray, *flat: np.ndarray
) -> None:
    """The same by the public product: adds to the second of `flat` the matrix [size, extent] times the first."""
    x, out = flat
    matrix = extras.require("scipy.sparse").csr_matrix((weights, index, ends), shape=(size, extent))
    out += (matrix @ x.reshape(extent, width)).ravel()


@functools.cache
def _ends(size: int) -> np.ndarray:
    return np.arange(0, 4 * size + 1, 4, dtype=np.int32)


def _array(name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """A contiguous array of this shape with any content, the same memory each time in one thread."""
    count = math.prod(shape)
    known = getattr(_scratch, name, None)
    if known is None or known.size < count:
        known = np.empty(count, dtype)
        setattr(_scratch, name, known)
    return known[:count].reshape(shape)
