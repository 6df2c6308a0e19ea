"""A split whose pictures stay encoded until a batch needs them: it stands where a decoded one does."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simclr_jax.data import cache, imageset


class EncodedImages:
    """In the place of `ImageSet.images` [N, H, W, 3]: pictures of any size, read and decoded when they are used.

    `encoded` is the whole split, `rows` int64 [N] the examples of it that are meant. `images[rows]` takes some of them.
    """

    def __init__(self, encoded: imageset.Encoded, rows: np.ndarray):
        self.encoded, self.rows = encoded, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "EncodedImages":
        return EncodedImages(self.encoded, self.rows[rows])

    def place(self, row: int) -> Any:
        """Where example `row` lies, for `fetch`."""
        index = int(self.rows[row])
        return index if self.encoded.locate is None else self.encoded.locate(index)

    @property
    def fetch(self) -> Callable[[Any], tuple[bytes, int]]:
        """Place -> (bytes, label)."""
        return self.encoded.fetch or self.encoded.read


def make_encoded_set(encoded: imageset.Encoded, labels: np.ndarray) -> imageset.ImageSet:
    """An `ImageSet` of the split as it lies on disk.

    Its fingerprint covers names, lengths, classes and labels, not pixels; sizes are 0, as no picture has been opened.

    Args:
        encoded: the split.
        labels: int32 [N].
    """
    digest = hashlib.sha256(b"encoded" + encoded.identity.encode() + labels.astype("<i4").tobytes())
    return imageset.ImageSet(
        images=EncodedImages(encoded, np.arange(len(encoded.ids))),  # type: ignore[arg-type]
        sizes=np.zeros((len(encoded.ids), 2), np.int32),
        labels=labels,
        class_names=encoded.class_names,
        ids=tuple(encoded.ids),
        fingerprint=digest.hexdigest(),
        skipped=(),
        warnings=encoded.warnings,
        mix=imageset.mix_of(encoded, encoded.ids),
    )


def is_encoded(image_set: imageset.ImageSet) -> bool:
    """Whether the pictures are decoded only when they are used.

    Example:
        >>> data.is_encoded(data.load_split("digits", "train"))
        False
    """
    return isinstance(image_set.images, EncodedImages)


def decoded(image_set: imageset.ImageSet, rows: np.ndarray) -> imageset.ImageSet:
    """Some examples of a split that stays encoded, on canvases in memory; those that are damaged are left out.

    Args:
        image_set: the split.
        rows: int [M], the examples.

    Raises:
        base.InputError: none of them can be read.

    Example:
        >>> streamed = data.load_split("folder:photos", "train", stream_above=-1)         # doctest: +SKIP
        >>> data.decoded(streamed, np.arange(5)).images.shape                             # doctest: +SKIP
        (5, 256, 256, 3)
    """
    images = image_set.images
    assert isinstance(images, EncodedImages)
    whole, examples = images.encoded, images.rows[rows]
    part = whole._replace(
        ids=[whole.ids[example] for example in examples],
        read=lambda number: whole.read(int(examples[number])),
        read_block=None,  # takes neighbours
        parts=(),  # counts all of them
    )
    return cache.load_or_decode(part, cache_dir="", max_corrupt_fraction=1.0, progress=False)


def replacement(index: int, attempt: int, num_examples: int) -> int:
    """The example that stands in for a damaged one: a hash of its number, the same in every epoch and on every host."""
    text = f"{index}/{attempt}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % num_examples


def names_of(image_set: imageset.ImageSet, rows: Sequence[int] | np.ndarray) -> list[str]:
    """The names of some examples, fit for messages."""
    return [imageset.printable(image_set.ids[int(row)]) for row in rows]
