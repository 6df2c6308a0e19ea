"""The reference's augmentations as slow float64 NumPy, written from its description; shares no code with the package.

Images are [H, W, 3]. Where the reference takes a discrete decision in float32 (the table entry of a bicubic position),
the decision is taken in float32 here too, because a tie that falls the other way is another table entry.
"""

import math

import numpy as np

CUBIC = {"tf1": -0.75, "tf2": -0.5}


def _cubic(distance: float, a: float) -> float:
    t = abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def bicubic_matrix(extent: int, out_size: int, *, resize: str) -> np.ndarray:
    """Weights [out_size, extent] of TensorFlow's bicubic resizing without anti-aliasing."""
    weights = np.zeros((out_size, extent))
    scale = np.float32(extent) / np.float32(out_size)
    half = np.float32(0.5 if resize == "tf2" else 0.0)
    for i in range(out_size):
        position = np.float32((np.float32(i) + half) * scale) - half
        whole = int(np.floor(position))
        fraction = float(np.rint((position - np.float32(whole)) * np.float32(1024))) / 1024
        taps = {whole + k: _cubic(k - fraction, CUBIC[resize]) for k in (-1, 0, 1, 2)}
        if resize == "tf2":
            inside = {index: tap for index, tap in taps.items() if 0 <= index < extent}
            total = sum(inside.values())
            for index, tap in inside.items():
                weights[i, index] += tap / total
        else:
            for index, tap in taps.items():
                weights[i, min(max(index, 0), extent - 1)] += tap
    return weights


def crop_resize(image: np.ndarray, box: tuple[int, int, int, int], out_size: tuple[int, int], *, resize: str):
    """The window (y, x, height, width) of `image`, resized to out_size; not clipped."""
    y, x, height, width = box
    window = image[y : y + height, x : x + width].astype(np.float64)
    rows, columns = (bicubic_matrix(n, m, resize=resize) for n, m in zip((height, width), out_size, strict=True))
    return np.stack([rows @ window[..., c] @ columns.T for c in range(3)], axis=-1)


def round_half_even(value: float) -> int:
    return round(value)  # Python's rounding of a float is to the even neighbour


def center_crop(height: int, width: int, *, fraction: float = 0.875) -> tuple[int, int, int, int]:
    """(y, x, side, side) of the central square that keeps `fraction` of the shorter side."""
    side = round_half_even(fraction * min(height, width))
    return math.floor((height - side + 1) / 2), math.floor((width - side + 1) / 2), side, side


def crop_extent(aspect: float, pick: float, height: int, width: int, *, min_area: float) -> tuple[int, int] | None:
    """One attempt of the crop sampler in float64: (height, width), or None if the attempt fails.

    `pick` in [0, 1) chooses the crop height from the integers allowed by the area range (min_area, 1).
    """
    area = height * width
    tallest = round_half_even(math.sqrt(area / aspect))
    if round_half_even(tallest * aspect) > width:
        tallest = math.floor((width + 0.5 - 1e-7) / aspect)
        tallest -= round_half_even(tallest * aspect) > width
    tallest = min(tallest, height)
    lowest = min(round_half_even(math.sqrt(min_area * area / aspect)), tallest)
    tall = lowest + math.floor(pick * (tallest - lowest + 1))
    wide = round_half_even(tall * aspect)
    if tall * wide < min_area * area:
        tall += 1
        wide = round_half_even(tall * aspect)
    if tall * wide > area:
        tall -= 1
        wide = round_half_even(tall * aspect)
    legal = min_area * area <= tall * wide <= area and 0 < tall <= height and 0 < wide <= width
    return (tall, wide) if legal and tall * wide >= 0.1 * area else None


def blur(image: np.ndarray, sigma: float, *, kernel_size: int) -> np.ndarray:
    """`image` convolved with a normalised Gaussian of 2 * (kernel_size // 2) + 1 taps; zeros outside the image."""
    radius = int(kernel_size / 2)
    taps = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    out = image.astype(np.float64)
    for axis in (1, 0):
        total = np.zeros_like(out)
        for k, tap in zip(range(-radius, radius + 1), taps, strict=True):
            for i in range(out.shape[axis]):
                if 0 <= i + k < out.shape[axis]:
                    total[(slice(None),) * axis + (i,)] += tap * np.take(out, i + k, axis=axis)
        out = total
    return out


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    image = image.astype(np.float64)
    mean = image.mean(axis=(0, 1))
    return (image - mean) * factor + mean


def grey(image: np.ndarray) -> np.ndarray:
    luma = image.astype(np.float64) @ np.array([0.2989, 0.5870, 0.1140])
    return np.repeat(luma[..., None], 3, axis=-1)


def _hue_of(pixel: np.ndarray) -> float:
    """Hue in sixths of a turn, in [0, 6); 0 for a grey pixel."""
    red, green, blue = (float(x) for x in pixel)
    span = max(pixel) - min(pixel)
    if span == 0:
        return 0.0
    if red == max(pixel):
        return ((green - blue) / span) % 6
    return (blue - red) / span + 2 if green == max(pixel) else (red - green) / span + 4


def _from_hue(hue: float, low: float, top: float) -> tuple[float, float, float]:
    sector = math.floor(hue % 6) % 6
    part = hue % 6 - sector
    rising, falling = low + (top - low) * part, top - (top - low) * part
    return (
        (top, rising, low),
        (falling, top, low),
        (low, top, rising),
        (low, falling, top),
        (rising, low, top),
        (top, low, falling),
    )[sector]


def _pixel_by_pixel(image: np.ndarray, change) -> np.ndarray:
    pixels = image.astype(np.float64).reshape(-1, 3)
    return np.array([change(pixel) for pixel in pixels]).reshape(image.shape)


def hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Hue shifted by `turns`; the largest and the smallest channel of every pixel stay."""
    return _pixel_by_pixel(image, lambda p: _from_hue(_hue_of(p) + 6 * turns, float(min(p)), float(max(p))))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """HSV saturation times `factor`, limited to [0, 1]; a pixel whose value is <= 0 has saturation 0."""

    def change(pixel: np.ndarray) -> tuple[float, float, float]:
        value = float(max(pixel))
        share = (value - float(min(pixel))) / value if value > 0 else 0.0
        share = min(max(share * factor, 0.0), 1.0)
        return _from_hue(_hue_of(pixel), value * (1 - share), value)

    return _pixel_by_pixel(image, change)


def jitter(image: np.ndarray, order, *, brightness: float, contrasts: float, saturations: float, turns: float, form):
    """The four operations in `order` (0 brightness, 1 contrast, 2 saturation, 3 hue), a clip to [0, 1] behind each."""
    operations = (
        lambda x: x * brightness if form == "multiply" else x + brightness,
        lambda x: contrast(x, contrasts),
        lambda x: saturation(x, saturations),
        lambda x: hue(x, turns),
    )
    image = image.astype(np.float64)
    for operation in order:
        image = np.clip(operations[operation](image), 0.0, 1.0)
    return image
