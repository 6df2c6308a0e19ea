"""`load_split`: the one way to a decoded data set, by name."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from simclr_jax import base
from simclr_jax.data import (
    blocks,
    cache,
    decode,
    digits,
    encoded,
    folder,
    imageset,
    mixture,
    order,
    pairs,
    photo_patches,
    strict,
    tfds_source,
)


class DataSet(NamedTuple):
    """A row of `DATASETS`; one of `load` and `open` is given.

    form: how the name is written, shown to users, for example "folder:PATH".
    splits: valid split names; empty if the source checks them itself.
    load: split -> ImageSet, for a built-in set.
    open: (rest of the name, split, *, data_dir, canvas_size, rules) -> Encoded, for a set on disk.
    """

    form: str
    splits: tuple[str, ...]
    load: Callable[[str], imageset.ImageSet] | None = None
    open: Callable[..., imageset.Encoded] | None = None


def _open_mix(rest: str, split: str, **how: Any) -> imageset.Encoded:
    def open_part(name: str, split: str) -> imageset.Encoded:
        encoded_part = open_split(name, split, **how)
        assert encoded_part is not None
        return encoded_part

    return mixture.open_mix(parts_of(f"mix:{rest}"), split, open_part=open_part)


DATASETS = {
    "photo-patches": DataSet("photo-patches", ("train", "test"), load=photo_patches.load_photo_patches),
    "digits": DataSet("digits", ("train", "test"), load=digits.load_digits),
    "tfds": DataSet("tfds:NAME[/CONFIG]", (), open=tfds_source.open_tfds),
    "folder": DataSet("folder:PATH", folder.SPLITS, open=folder.open_folder),
    "pairs": DataSet("pairs:FILE.csv|.parquet|FOLDER|SHARDS.tar", pairs.SPLITS, open=pairs.open_pairs),
    "mix": DataSet("mix:SET*WEIGHT,SET*WEIGHT", (), open=_open_mix),
}


_LENIENT = "bytes lost in the middle of a JPEG are not noticed without simplejpeg (pip install 'simclr-jax[data]')"


def load_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    max_corrupt_fraction: float = 0.01,
    max_megapixels: float | None = None,
    sixteen_bit_range: Sequence[float] = (),
    max_cache_gigabytes: float | None = None,
    progress: bool = True,
    stream_above: float = math.inf,
) -> imageset.ImageSet:
    """One split of a data set, decoded.

    Args:
        name: "photo-patches", "digits", "tfds:NAME[/CONFIG]", "folder:PATH", "pairs:PATH" of pictures with texts (a
            table, a folder or WebDataset shards), or "mix:SET*WEIGHT,SET*WEIGHT" of sets on disk, of which training
            visits the examples of each WEIGHT times an epoch (1 where none is given).
        split: "train" or "test"; for a folder also "all"; for tfds any expression such as "train[:10%]".
        data_dir: where prepared TFDS data lie, or where a relative folder begins; None for the usual places.
        cache_dir: where decoded images of tfds and folder sets are kept; None for `cache.default_folder()`, "" for
            nowhere (they are then held in memory).
        canvas_size: images are shrunk to fit a square of this many pixels; None for the long side of the largest
            image, at most 256.
        max_corrupt_fraction: from 0 to 1; damaged files are left out and named as long as they are at most
            ceil(max_corrupt_fraction * number of files): at least one is tolerated unless this is 0.
        max_megapixels, sixteen_bit_range: how files are decoded, see `imageset.Rules`.
        max_cache_gigabytes: what may lie in the cache, see `cache.load_or_decode`.
        progress: whether stderr gets a line of what was understood, a progress bar of the decoding, and a line for
            damaged files and for each of `ImageSet.warnings`.
        stream_above: a tfds or folder split whose decoded pictures take more bytes stays encoded: its `images` are
            `encoded.EncodedImages`, and nothing but labels is read.

    Raises:
        base.InputError: an unknown name or split, missing or unreadable data, too many damaged files, a missing
            package, or a value out of range.

    Example:
        >>> data.load_split("digits", "train").images.shape
        (1348, 32, 32, 3)
    """
    blocks.check_share(max_corrupt_fraction)
    cache.check_limit(max_cache_gigabytes)
    rules = imageset.Rules(sixteen_bit_range, max_megapixels)
    encoded_split = open_split(name, split, data_dir=data_dir, canvas_size=canvas_size, rules=rules)
    if encoded_split is None:
        return _load_built_in(name, split, canvas_size)
    if progress:
        _say(encoded_split.understood)
    if _is_larger(encoded_split, stream_above, canvas_size=canvas_size):
        labels = cache.load_or_read_labels(
            encoded_split, cache_dir=cache_dir, max_corrupt_fraction=max_corrupt_fraction
        )
        return imageset.with_texts(encoded.make_encoded_set(encoded_split, labels), encoded_split)
    image_set = cache.load_or_decode(
        encoded_split,
        cache_dir=cache_dir,
        max_corrupt_fraction=max_corrupt_fraction,
        max_gigabytes=max_cache_gigabytes,
        progress=progress,
    )
    image_set = imageset.with_texts(image_set, encoded_split)
    lenient = () if strict.is_available() else (_LENIENT,)
    image_set = image_set._replace(warnings=encoded_split.warnings + image_set.warnings + lenient)
    if progress:
        _say_what_is_odd(image_set, encoded_split)
    return image_set


def _is_larger(split: imageset.Encoded, num_bytes: float, *, canvas_size: int | None) -> bool:
    """Whether the decoded pictures of a split take more bytes; `canvas_size` is that of `load_split`."""

    def takes_more(side: int) -> bool:
        return len(split.ids) * 3 * side**2 > num_bytes

    # To know the canvas exactly all files of a folder may have to be read, small ones.
    return num_bytes < 0 or (takes_more(canvas_size or decode.DEFAULT_CANVAS_SIZE) and takes_more(split.canvas_size()))


def _load_built_in(name: str, split: str, canvas_size: int | None) -> imageset.ImageSet:
    load = _row(name, split).load
    assert load is not None
    image_set = load(split)
    if canvas_size not in (None, image_set.images.shape[1]):
        raise base.InputError(
            f"canvas_size applies to tfds and folder sets; {name} has images of {image_set.images.shape[1]} pixels; "
            f"got {canvas_size}. Leave it out."
        )
    return image_set


def has_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    max_corrupt_fraction: float = 0.01,
    max_megapixels: float | None = None,
    sixteen_bit_range: Sequence[float] = (),
    max_cache_gigabytes: float | None = None,
) -> bool:
    """Whether the data set has examples in this split, for those who can do without; nothing is decoded.

    Arguments as for `load_split`; the cache is not looked at.

    Raises:
        base.InputError: an unknown data set, or one that is missing or cannot be read.

    Example:
        >>> data.has_split("digits", "test")
        True
    """
    del cache_dir, max_corrupt_fraction, max_cache_gigabytes
    rules = imageset.Rules(sixteen_bit_range, max_megapixels)
    try:
        open_split(name, split, data_dir=data_dir, canvas_size=canvas_size, rules=rules)
    except imageset.EmptySplit:
        return False
    return True


def parts_of(name: str) -> tuple[mixture.Part, ...]:
    """The sets that a name is of, with their weights: one, or those of a mix.

    Raises:
        base.InputError: the name of a mix that cannot be one.

    Example:
        >>> data.parts_of("mix:folder:photos*2,tfds:cifar10")
        (Part(name='folder:photos', weight=2.0), Part(name='tfds:cifar10', weight=1.0))
    """
    kind, _, rest = name.partition(":")
    if kind != "mix":
        return (mixture.Part(name, 1.0),)
    on_disk = {kind: row.form for kind, row in DATASETS.items() if row.open and kind not in ("mix", "pairs")}
    return mixture.parse(rest, names=DATASETS, on_disk=on_disk)


def ids_tell_images(name: str) -> bool:
    """Whether equal ids in two splits of a data set are one image; TFDS numbers each split from 0.

    Example:
        >>> data.ids_tell_images("mix:folder:photos*2,tfds:cifar10")
        False
    """
    return not any(part.name.startswith("tfds:") for part in parts_of(name))


def _row(name: str, split: str) -> DataSet:
    row = DATASETS.get(name.partition(":")[0])
    if row is None or (":" in name) != (":" in row.form):
        forms = ", ".join(row.form for row in DATASETS.values())
        raise base.InputError(f"the data set must be one of {forms}; got {imageset.printable(name)!r}. Choose one.")
    if row.splits and split not in row.splits:
        raise base.InputError(
            f"the split of {row.form} must be one of {', '.join(row.splits)}; got {imageset.printable(split)!r}. "
            "Choose one."
        )
    return row


def open_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> imageset.Encoded | None:
    """The split before decoding; None for a built-in set. Arguments as for `load_split`.

    Raises:
        base.InputError: an unknown name or split, missing data, or a value out of range.
    """
    imageset.check_canvas_size(canvas_size)
    rules = imageset.check_rules(rules)
    row = _row(name, split)
    if row.open is None:
        return None
    return row.open(name.partition(":")[2], split, data_dir=data_dir, canvas_size=canvas_size, rules=rules)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_what_is_odd(image_set: imageset.ImageSet, split: imageset.Encoded) -> None:
    """Damaged files, and what else the user should know, also of a split that was decoded long ago."""
    skipped = image_set.skipped
    if skipped:
        dots = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        _say(
            f"{split.title}: {len(skipped)} of {len(split.ids)} images cannot be read and are left out: "
            f"{'; '.join(skipped[:5])}{dots}"
        )
    for warning in image_set.warnings:
        _say(f"{split.title}: warning: {warning}")


# Published sizes of sets that few have prepared on the machine where they plan: images, classes, side (None: mixed).
_PUBLISHED = {
    ("tfds:imagenet2012", "train"): (1281167, 1000, None),
    ("tfds:imagenet2012", "validation"): (50000, 1000, None),
    ("tfds:cifar10", "train"): (50000, 10, 32),
    ("tfds:cifar100", "train"): (50000, 100, 32),
}


class Description(NamedTuple):
    """What a split holds: images, classes, side of the canvas in pixels, and images of an epoch of training."""

    num_images: int
    num_classes: int
    canvas_size: int
    epoch_size: int


def describe_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    canvas_size: int | None = None,
    max_corrupt_fraction: float = 0.01,
    max_megapixels: float | None = None,
    sixteen_bit_range: Sequence[float] = (),
    max_cache_gigabytes: float | None = None,
) -> Description:
    """How large a split is, without decoding it.

    Arguments as for `load_split`; the cache is not looked at. For well-known sets these are the published numbers, and
    nothing has to be on this machine.

    Raises:
        base.InputError: an unknown name or split, or data that are neither known nor here.

    Example:
        >>> data.describe_split("digits", "train")
        Description(num_images=1348, num_classes=10, canvas_size=32, epoch_size=1348)
    """
    del cache_dir, max_corrupt_fraction, max_cache_gigabytes
    known = _PUBLISHED.get((name, split))
    if known:
        imageset.check_canvas_size(canvas_size)
        num_examples, num_classes, side = known
        side = canvas_size or side or decode.DEFAULT_CANVAS_SIZE
        return Description(num_examples, num_classes, side, num_examples)
    rules = imageset.Rules(sixteen_bit_range, max_megapixels)
    found = open_split(name, split, data_dir=data_dir, canvas_size=canvas_size, rules=rules)
    if found is not None:
        mix = imageset.mix_of(found, found.ids)
        count = len(found.ids)
        length = count if mix is None else order.mixed_size(mix)
        return Description(count, len(found.class_names), found.canvas_size(), length)
    image_set = load_split(name, split, canvas_size=canvas_size)
    count = len(image_set.images)
    return Description(count, len(image_set.class_names), image_set.images.shape[1], count)
