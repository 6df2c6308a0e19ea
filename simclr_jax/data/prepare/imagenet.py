"""ImageNet-1k from its official tar files, read in place, and Imagenette from its archive."""

import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from simclr_jax import base, units
from simclr_jax.data import decode, extras, imageset, kinds
from simclr_jax.data.prepare import archives
from simclr_jax.data.prepare import plan as plan_lib

_TRAIN, _VAL, _DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_TESTS = ("ILSVRC2012_img_test_v10102019.tar", "ILSVRC2012_img_test.tar")
_MAX_DEVKIT_BYTES = 2**28
_MAX_IMAGENETTE_BYTES = 2**33
# Config of TFDS -> the folder inside of the archive of that name.
_IMAGENETTES = {
    "full-size-v2": "imagenette2", "320px-v2": "imagenette2-320", "160px-v2": "imagenette2-160",
    "full-size": "imagenette", "320px": "imagenette-320", "160px": "imagenette-160",
}  # fmt: skip


def plan_imagenet(source: pathlib.Path, *, variant: str, work: pathlib.Path, tick: archives.Tick) -> plan_lib.Plan:
    """ImageNet-1k (ILSVRC 2012), as TFDS's own imagenet2012:5.1.0.

    Args:
        source: folder that holds `ILSVRC2012_img_train.tar` or `ILSVRC2012_img_val.tar` or both; the second needs
            `ILSVRC2012_devkit_t12.tar.gz`, which says what its images are. With `ILSVRC2012_img_test*.tar` the test
            images (label -1) are prepared too.
        variant: "".
        work: folder for what is unpacked.
        tick: called now and then.

    Raises:
        base.InputError: the archives are not there, or not what they should be.

    Reference: tensorflow_datasets, imagenet2012. The two dozen CMYK files and the PNG called .JPEG become JPEGs of RGB
        of quality 100 as there, but are found by their content instead of from a list, and by Pillow.
    """
    if variant:
        raise base.InputError(f"imagenet2012 has no variants; got {variant!r}. Leave it out.")
    splits: dict[str, list[plan_lib.Item]] = {}
    wnids: Sequence[str] | None = None
    val_labels: list[int] | None = None
    if (source / _DEVKIT).is_file():
        wnids, val_labels = _read_devkit(source / _DEVKIT, work=work, tick=tick)
    if (source / _TRAIN).is_file():
        splits["train"], wnids = _plan_train(source / _TRAIN, wnids, tick=tick)
    if (source / _VAL).is_file():
        splits["validation"] = _plan_validation(source / _VAL, val_labels, tick=tick)
    tests = [source / name for name in _TESTS if (source / name).is_file()]
    if tests:
        members = archives.list_members(tests[0], tick=tick)
        splits["test"] = [_item(member, -1) for member in members if member.name.endswith(".JPEG")]
    if not splits or wnids is None:
        raise base.InputError(
            f"the source must hold {_TRAIN}, or {_VAL} with {_DEVKIT}; got {imageset.printable(str(source))}. Download "
            "them from image-net.org and put them there."
        )
    return plan_lib.Plan(
        name="imagenet2012",
        version="5.1.0",
        splits=splits,
        labels={"label": tuple(wnids)},
        understood=f"imagenet2012 from the official archives: {', '.join(splits)}",
        name_feature="file_name",
        to_image=as_rgb_jpeg,
        expected={"train": 1281167, "validation": 50000, "test": 100000},
        encoding="jpeg",
    )


def _plan_train(
    path: pathlib.Path, known: Sequence[str] | None, *, tick: archives.Tick
) -> tuple[list[plan_lib.Item], Sequence[str]]:
    """The archive holds one archive for each class, called after its WordNet id."""
    inner = [member for member in archives.list_members(path, tick=tick) if re.fullmatch(r"n\d{8}\.tar", member.name)]
    names = sorted(member.name.removesuffix(".tar") for member in inner)
    if not names or (known is not None and not set(names) <= set(known)):
        raise base.InputError(
            f"{_TRAIN} must hold an archive for each class, such as n01440764.tar; got {len(names)} of them. Bring it "
            "here again."
        )
    wnids = names if known is None else known
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    items = [
        _item(image, label_of[member.name.removesuffix(".tar")])
        for member in inner
        for image in archives.list_members(path, tick=tick, within=(member.offset, member.num_bytes))
        if image.name.endswith(".JPEG")
    ]
    return items, wnids


def _plan_validation(path: pathlib.Path, labels: Sequence[int] | None, *, tick: archives.Tick) -> list[plan_lib.Item]:
    if labels is None:
        raise base.InputError(
            f"{_VAL} needs {_DEVKIT} beside it, which says what its images are; it is not there. Download it from "
            "image-net.org and put it there."
        )
    members = [member for member in archives.list_members(path, tick=tick) if member.name.endswith(".JPEG")]
    found = []
    for member in members:
        number = re.search(r"(\d{8})\.JPEG$", member.name)
        if not number or not 1 <= int(number[1]) <= len(labels):
            raise base.InputError(
                f"{_VAL} must hold images 1 to {len(labels)} of the devkit; got {imageset.printable(member.name)}. "
                "Bring both here again."
            )
        found.append(_item(member, labels[int(number[1]) - 1]))
    return found


def _item(member: archives.Member, label: int) -> plan_lib.Item:
    name = member.name.rpartition("/")[2]
    return plan_lib.Item(name, member.path, member.offset, member.num_bytes, (label,))


def _read_devkit(path: pathlib.Path, *, work: pathlib.Path, tick: archives.Tick) -> tuple[list[str], list[int]]:
    """(WordNet ids of the 1,000 classes in their order, label of each validation image)."""
    files = {
        member.name.rpartition("/")[2]: member
        for member in archives.open_tar(path, work=work, max_bytes=_MAX_DEVKIT_BYTES, tick=tick)
    }
    try:
        truth = archives.read_member(files["ILSVRC2012_validation_ground_truth.txt"]).split()
        meta = extras.require("scipy.io").loadmat(
            io.BytesIO(archives.read_member(files["meta.mat"])), squeeze_me=True, variable_names=["synsets"]
        )
        synsets = np.atleast_1d(meta["synsets"])
        # Numbers from 1; those of no leaf are the inner nodes of the tree.
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        wnids = sorted(wnid_of.values())
        label_of = {number: wnids.index(wnid) for number, wnid in wnid_of.items()}
        return wnids, [label_of[int(number)] for number in truth]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise base.InputError(
            f"{_DEVKIT} must hold ILSVRC2012_validation_ground_truth.txt and meta.mat; got "
            f"{base.one_line(repr(error), 80)}. Bring it here again."
        ) from error


def as_rgb_jpeg(data: bytes) -> plan_lib.Image:
    """The image as it is if it is a JPEG of RGB or grey, else a JPEG of quality 100 of its pixels.

    Raises:
        decode.DamagedImage: it cannot be read.
    """
    kind = kinds.image_format(data[: kinds.HEAD_BYTES])
    if kind == "JPEG" and decode.num_channels(data) != 4:
        return plan_lib.Image(data)
    pixels = decode.decode_image(data, long_side=decode.WHOLE).pixels
    stream = io.BytesIO()
    extras.require("PIL.Image").fromarray(pixels).save(stream, "JPEG", quality=100)
    return plan_lib.Image(stream.getvalue(), f"{kind if kind != 'JPEG' else 'CMYK'} to a JPEG of RGB")


def plan_imagenette(source: pathlib.Path, *, variant: str, work: pathlib.Path, tick: archives.Tick) -> plan_lib.Plan:
    """Imagenette from `imagenette2.tgz` (`imagenette2-320.tgz`, `imagenette2-160.tgz`), as TFDS's own imagenette:1.0.0.

    Args:
        source: folder that holds the archive, or the folder that is inside of it.
        variant: "full-size-v2", "320px-v2", "160px-v2" (of the second version), "full-size", "320px", "160px"; "" for
            the first of them that is there.
        work: folder for what is unpacked.
        tick: called now and then.

    Raises:
        base.InputError: the archive is not there, or not what it should be.
    """
    if variant:
        base.check_choice(variant, _IMAGENETTES, name="the variant of imagenette")
    for chosen in [variant] if variant else _IMAGENETTES:
        stem = _IMAGENETTES[chosen]
        if (source / stem / "train").is_dir():
            found = [
                archives.Member(path.relative_to(source).as_posix(), str(path), 0, path.stat().st_size)
                for path in sorted((source / stem).glob("*/n*/*.JPEG"))
            ]
        elif (source / f"{stem}.tgz").is_file():
            found = archives.open_tar(source / f"{stem}.tgz", work=work, max_bytes=_MAX_IMAGENETTE_BYTES, tick=tick)
        else:
            continue
        return _plan_imagenette(chosen, found)
    wanted = f"{_IMAGENETTES[variant or 'full-size-v2']}.tgz"
    raise base.InputError(
        f"the source must hold {wanted} or the folder that is inside of it; got {imageset.printable(str(source))}. "
        "Download the archive and put it there."
    )


def _plan_imagenette(config: str, members: Sequence[archives.Member]) -> plan_lib.Plan:
    places = [re.fullmatch(r"(?:\./)?[^/]+/(train|val)/(n\d{8})/([^/]+\.JPEG)", member.name) for member in members]
    wnids = sorted({place[2] for place in places if place})
    splits: dict[str, list[plan_lib.Item]] = {"train": [], "validation": []}
    for member, place in zip(members, places, strict=True):
        if place:
            items = splits["train" if place[1] == "train" else "validation"]
            items.append(_item(member, wnids.index(place[2])))
    if not splits["train"] or not splits["validation"]:
        raise base.InputError(
            "imagenette must hold train/CLASS/NAME.JPEG and val/CLASS/NAME.JPEG; got "
            f"{units.counted(len(members), 'other file')}. Bring the archive here again."
        )
    return plan_lib.Plan(
        name="imagenette",
        version="1.0.0",
        config=config,
        splits=splits,
        labels={"label": tuple(wnids)},
        understood=f"imagenette/{config}",
        to_image=as_rgb_jpeg,
        expected={"train": 9469, "validation": 3925} if config.endswith("v2") else {},
        encoding="jpeg",
    )
