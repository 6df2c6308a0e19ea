"""`load_split`: the one way to a decoded data set, by name."""

import os
from collections.abc import Callable
from typing import NamedTuple

from simclr_jax import base
from simclr_jax.data import cache, decode, digits, folder, imageset, photo_patches, tfds_source


class DataSet(NamedTuple):
    """A row of `DATASETS`; one of `load` and `open` is given.

    form: how the name is written, shown to users, for example "folder:PATH".
    splits: valid split names; empty if the source checks them itself.
    load: split -> ImageSet, for a built-in set.
    open: (rest of the name, split, *, data_dir, canvas_size, progress) -> Encoded, for a set on disk.
    """

    form: str
    splits: tuple[str, ...]
    load: Callable[[str], imageset.ImageSet] | None = None
    open: Callable[..., imageset.Encoded] | None = None


DATASETS = {
    "photo-patches": DataSet("photo-patches", ("train", "test"), load=photo_patches.load_photo_patches),
    "digits": DataSet("digits", ("train", "test"), load=digits.load_digits),
    "tfds": DataSet("tfds:NAME[/CONFIG]", (), open=tfds_source.open_tfds),
    "folder": DataSet("folder:PATH", folder.SPLITS, open=folder.open_folder),
}


def load_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    max_skipped: float = 0.01,
    progress: bool = True,
) -> imageset.ImageSet:
    """One decoded split of a data set.

    Args:
        name: "photo-patches", "digits", "tfds:NAME[/CONFIG]" or "folder:PATH".
        split: "train" or "test"; for a folder also "all"; for tfds any expression such as "train[:10%]".
        data_dir: where prepared TFDS data lie, or where a relative folder begins; None for the usual places.
        cache_dir: where decoded images of tfds and folder sets are kept; None for `cache.default_folder()`, "" for
            nowhere (they are then held in memory).
        canvas_size: images are shrunk to fit a square of this many pixels; None for the long side of the largest
            image, at most 256.
        max_skipped: from 0 to 1; damaged files are left out and named as long as they are at most
            ceil(max_skipped * number of files): at least one is tolerated unless this is 0.
        progress: whether decoding shows a progress bar on stderr.

    Raises:
        base.InputError: an unknown name or split, missing or unreadable data, too many damaged files, a missing
            package, or a value out of range.
    """
    imageset.check_canvas_size(canvas_size)
    if not 0 <= max_skipped <= 1:
        raise base.InputError(f"max_skipped must be a share from 0 to 1; got {max_skipped:g}. Use for example 0.01.")
    source, colon, rest = name.partition(":")
    row = DATASETS.get(source)
    if row is None or bool(colon) != (":" in row.form):
        forms = ", ".join(row.form for row in DATASETS.values())
        raise base.InputError(f"the data set must be one of {forms}; got {decode.printable(name)!r}. Choose one.")
    if row.splits and split not in row.splits:
        raise base.InputError(
            f"the split of {row.form} must be one of {', '.join(row.splits)}; got {decode.printable(split)!r}. "
            "Choose one."
        )
    if row.open is not None:
        encoded = row.open(rest, split, data_dir=data_dir, canvas_size=canvas_size, progress=progress)
        return cache.load_or_decode(encoded, cache_dir=cache_dir, max_skipped=max_skipped, progress=progress)
    assert row.load is not None
    image_set = row.load(split)
    if canvas_size not in (None, image_set.images.shape[1]):
        raise base.InputError(
            f"canvas_size applies to tfds and folder sets; {name} has images of {image_set.images.shape[1]} pixels; "
            f"got {canvas_size}. Leave it out."
        )
    return image_set


# Published sizes of sets that few have prepared on the machine where they plan: images, classes, side (None: mixed).
_PUBLISHED = {
    ("tfds:imagenet2012", "train"): (1281167, 1000, None),
    ("tfds:imagenet2012", "validation"): (50000, 1000, None),
    ("tfds:cifar10", "train"): (50000, 10, 32),
    ("tfds:cifar100", "train"): (50000, 100, 32),
}


def describe_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    max_skipped: float = 0.01,
) -> tuple[int, int, int]:
    """(images, classes, side of the canvas in pixels) of a split, without decoding it; arguments as for `load_split`.

    For well-known sets these are the published numbers, and nothing has to be on this machine.

    Raises:
        base.InputError: an unknown name or split, or data that are neither known nor here.
    """
    imageset.check_canvas_size(canvas_size)
    known = _PUBLISHED.get((name, split))
    if known:
        num_examples, num_classes, side = known
        return num_examples, num_classes, canvas_size or side or decode.DEFAULT_CANVAS_SIZE
    source, _, rest = name.partition(":")
    row = DATASETS.get(source)
    if row is not None and row.open is not None:
        encoded = row.open(rest, split, data_dir=data_dir, canvas_size=canvas_size, progress=False)
        return len(encoded.ids), len(encoded.class_names), encoded.canvas_size()
    image_set = load_split(
        name, split, data_dir=data_dir, cache_dir=cache_dir, canvas_size=canvas_size, max_skipped=max_skipped
    )
    return len(image_set.images), len(image_set.class_names), image_set.images.shape[1]
