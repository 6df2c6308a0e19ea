"""What a decoded split is, its identity, and how an image of any size is fitted to the common canvas."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras, order


class ImageSet(NamedTuple):
    """One split, decoded.

    images: uint8 [N, H, W, 3] RGB, in memory or memory-mapped (then read-only).
    sizes: int32 [N, 2], (height, width) of the valid region at the top left of the canvas; zeros fill the rest.
    labels: int32 [N], -1 = unlabelled.
    class_names: `class_names[label]` is the name of a class; empty if the data set has no classes.
    ids: name of every example: the file's path below the data folder, or its index.
    fingerprint: sha256 (hex) of all of the above: equal fingerprints mean equal data, wherever it lies.
    skipped: one line "name: reason" for every damaged file which was left out.
    warnings: what is odd about the split, a sentence each: images without content, copies, a tiny test split ...
        They are shown, and are no part of the fingerprint.
    mix: of which set each example is and how often training visits it, if not once an epoch; no part of the
        fingerprint: whatever does not train meets every example once.
    texts: what is written about every example, one text or several each; () for data without texts. Part of the
        fingerprint.
    tokens: int32 [N, C, L], the same as numbers, see `tokens.pad_texts`; None before a run has a tokenizer.
    """

    images: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    mix: order.Mix | None = None
    texts: tuple[tuple[str, ...], ...] = ()
    tokens: np.ndarray | None = None


class EmptySplit(base.InputError):
    """The data are there, but hold no example in this split."""


class Rules(NamedTuple):
    """How files become 8-bit pixels.

    sixteen_bit_range: the levels (low, high) that become black and white in pictures of more than 8 bits a channel;
        () = all that the type can hold: (0, 65535) for integers, (0, 1) for floats.
    max_megapixels: larger pictures are refused; None = what takes at most 300 MB, by kind: see `decode`.
    """

    sixteen_bit_range: Sequence[float] = ()
    max_megapixels: float | None = None


DEFAULT_RULES = Rules()


class Encoded(NamedTuple):
    """A split before decoding: what it holds and how to get at the bytes. Made by the sources.

    title: how messages call it, for example "folder:photos, split 'train'".
    key: sha256 (hex) of everything the decoded arrays depend on; cheap to compute, names the cache entry.
    class_names: see `ImageSet`.
    ids: see `ImageSet`; one per example, damaged ones included.
    canvas_size: side of the square canvas, asked for only if something must be decoded.
    read: example index -> (file bytes, label); called from several threads.
    read_block: indices -> what `read` returns for each, or the exception that it raises; None where reading one by one
        costs the same.
    rules: how its files are decoded.
    understood: one line to show: what the source found and how the split came about.
    warnings: see `ImageSet`; those which are known before decoding.
    locate, fetch: `read` in two steps, for worker processes: where an example lies is small, and `fetch` can be
        pickled. None: `read` is all there is, which threads can call.
    identity: what the examples are, whatever is decoded of them: equal for equal names, lengths and classes.
    labels: () -> int32 [N], where they are known without reading the examples.
    texts: see `ImageSet`, by example. A mix has none.
    parts, weights: of a mix, the sets whose examples follow one another here, and how often an epoch holds them.
    """

    title: str
    key: str
    class_names: tuple[str, ...]
    ids: Sequence[str]
    canvas_size: Callable[[], int]
    read: Callable[[int], tuple[bytes, int]]
    rules: Rules = DEFAULT_RULES
    understood: str = ""
    warnings: tuple[str, ...] = ()
    locate: Callable[[int], Any] | None = None
    fetch: Callable[[Any], tuple[bytes, int]] | None = None
    identity: str = ""
    labels: Callable[[], np.ndarray] | None = None
    read_block: Callable[[range], Sequence[tuple[bytes, int] | Exception]] | None = None
    parts: tuple["Encoded", ...] = ()
    weights: tuple[float, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()


def finish_fingerprint(digest: "hashlib._Hash", *, image_set: ImageSet) -> str:
    """The fingerprint of a split whose image rows are in `digest` already: 64 hex characters.

    How the rows were cut into `digest.update` calls does not matter, so that a split larger than memory can be hashed.
    """
    names = [list(image_set.images.shape), list(image_set.class_names), list(image_set.ids)]
    digest.update(image_set.sizes.astype("<i4").tobytes())
    digest.update(image_set.labels.astype("<i4").tobytes())
    digest.update(json.dumps(names).encode())
    return digest.hexdigest()


def make_image_set(
    images: np.ndarray, labels: np.ndarray, *, class_names: tuple[str, ...], ids: tuple[str, ...]
) -> ImageSet:
    """An `ImageSet` of equally large images: uint8 [N, H, W, 3] which fill their canvas, int labels [N]."""
    num_images, height, width, _ = images.shape
    sizes = np.tile(np.asarray([[height, width]], np.int32), (num_images, 1))
    labels = labels.astype(np.int32)
    image_set = ImageSet(images, sizes, labels, class_names, ids, "", ())
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    return image_set._replace(fingerprint=finish_fingerprint(digest, image_set=image_set))


def fit_to_canvas(image: np.ndarray, canvas_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The image at the top left of a square canvas, with its (height, width) there.

    An image whose long side exceeds `canvas_size` is shrunk, keeping its aspect ratio, until the long side equals it
    (Lanczos with antialiasing); a smaller image is copied as it is, never enlarged.

    Args:
        image: uint8 [h, w, 3].
        canvas_size: side of the canvas in pixels.

    Returns:
        canvas uint8 [canvas_size, canvas_size, 3], zero outside the image; (height, width), each at least 1.

    Example:
        >>> canvas, size = data.fit_to_canvas(np.zeros((100, 50, 3), np.uint8), 32)
        >>> canvas.shape, size
        ((32, 32, 3), (32, 16))
    """
    height, width = fitted_size(image.shape[0], image.shape[1], canvas_size)
    if (height, width) != image.shape[:2]:
        pillow = extras.require("PIL.Image")
        # reducing_gap: a cheap box reduction first when shrinking more than three times; the result looks the same.
        image = np.asarray(pillow.fromarray(image).resize((width, height), pillow.Resampling.LANCZOS, reducing_gap=3.0))
    canvas = np.zeros((canvas_size, canvas_size, 3), np.uint8)
    canvas[:height, :width] = image
    return canvas, (height, width)


def fitted_size(height: int, width: int, canvas_size: int) -> tuple[int, int]:
    """(height, width) after shrinking the long side to at most `canvas_size`; each at least 1."""
    long_side = max(height, width)
    if long_side <= canvas_size:
        return height, width
    return max(1, round(height * canvas_size / long_side)), max(1, round(width * canvas_size / long_side))


def printable(name: str, limit: int | None = 80) -> str:
    """The name safe for one line of a message: controls and bytes that are not UTF-8 escaped, at most 80 characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in base.as_utf8(name))
    return escaped if limit is None or len(escaped) <= limit else f"{escaped[:38]}...{escaped[-39:]}"


def check_canvas_size(canvas_size: int | None) -> None:
    """Raises base.InputError unless `canvas_size` is None or a whole number from 8 to 4096 (pixels)."""
    if canvas_size is None:
        return
    if isinstance(canvas_size, bool) or not isinstance(canvas_size, int) or not 8 <= canvas_size <= 4096:
        raise base.InputError(
            f"canvas_size must be a whole number of pixels from 8 to 4096; got {canvas_size!r}. "
            "Leave it out to let the data decide."
        )


def check_rules(rules: Rules) -> Rules:
    """The same with numbers as floats. Raises base.InputError for values that no decoding can follow."""
    levels, megapixels = rules.sixteen_bit_range, rules.max_megapixels
    is_pair = isinstance(levels, list | tuple) and len(levels) == 2 and _are_finite(*levels) and levels[0] < levels[1]
    if not is_pair and levels not in ((), []):
        raise base.InputError(
            f"sixteen_bit_range must be two levels, the lower first, or (); got {levels!r}. For 12 bits use (0, 4095)."
        )
    if megapixels is not None and not (_are_finite(megapixels) and megapixels > 0):
        raise base.InputError(
            f"max_megapixels must be a number above 0; got {megapixels!r}. Leave it out for the default."
        )
    return Rules(tuple(map(float, levels)), None if megapixels is None else float(megapixels))


def _are_finite(*values: object) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def subset(image_set: ImageSet, rows: np.ndarray) -> ImageSet:
    """The examples at `rows` (int [M]) as a split of their own; decoded images are read into memory.

    Example:
        >>> data.subset(data.load_split("digits", "train"), np.arange(5)).images.shape
        (5, 32, 32, 3)
    """
    digest = hashlib.sha256(image_set.fingerprint.encode() + np.asarray(rows, "<i8").tobytes())
    images = image_set.images[rows]
    return image_set._replace(
        images=images if not isinstance(images, np.ndarray) else np.asarray(images),  # encoded ones stay on disk
        sizes=image_set.sizes[rows],
        labels=image_set.labels[rows],
        ids=tuple(image_set.ids[row] for row in rows),
        fingerprint=digest.hexdigest(),
        mix=image_set.mix and image_set.mix._replace(parts=image_set.mix.parts[rows]),
        texts=tuple(image_set.texts[row] for row in rows) if image_set.texts else (),
        tokens=None if image_set.tokens is None else image_set.tokens[rows],
    )


def with_texts(image_set: ImageSet, encoded: Encoded) -> ImageSet:
    """A split with the texts of its examples, of which `encoded` may have more: damaged ones were left out."""
    if not encoded.texts:
        return image_set
    by_name = dict(zip(encoded.ids, encoded.texts, strict=True))
    texts = tuple(by_name[name] for name in image_set.ids)
    digest = hashlib.sha256(image_set.fingerprint.encode() + json.dumps(texts).encode())
    return image_set._replace(texts=texts, fingerprint=digest.hexdigest())


def mix_of(encoded: Encoded, ids: Sequence[str]) -> order.Mix | None:
    """How training visits the examples `ids` of a mix, those of `encoded` without damaged ones; None for one set."""
    if not encoded.parts:
        return None
    parts = np.repeat(np.arange(len(encoded.parts), dtype=np.int32), [len(part.ids) for part in encoded.parts])
    if len(ids) < len(parts):
        kept = set(ids)
        parts = parts[[name in kept for name in encoded.ids]]
    return order.Mix(encoded.weights, parts)


def epoch_size(image_set: ImageSet) -> int:
    """Images of an epoch of training: those of the split, of a mix each as often as it comes.

    Example:
        >>> data.epoch_size(data.load_split("digits", "train"))
        1348
    """
    return len(image_set.images) if image_set.mix is None else order.mixed_size(image_set.mix)
