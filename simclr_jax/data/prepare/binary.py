"""CIFAR-10, CIFAR-100 and STL-10 from their binary archives: pixels become PNG files, which lose nothing."""

import io
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from simclr_jax import base
from simclr_jax.data import extras, imageset
from simclr_jax.data.prepare import archives
from simclr_jax.data.prepare import plan as plan_lib

_MAX_BYTES = 2**34  # unpacked; STL-10 has 3 GB


def plan_cifar10(source: pathlib.Path, *, variant: str, work: pathlib.Path, tick: archives.Tick) -> plan_lib.Plan:
    """CIFAR-10 from `cifar-10-binary.tar.gz`, as TFDS's own cifar10:3.0.2.

    Args:
        source: folder that holds the archive, or the folder of its files.
        variant: "".
        work: folder for what is unpacked.
        tick: called now and then.

    Raises:
        base.InputError: the archive is not there, or not what it should be.
    """
    _no_variant(variant, "cifar10")
    files = _find(source, "cifar-10-binary.tar.gz", folder="cifar-10-batches-bin", work=work, tick=tick)
    names = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    labels = {"label": _lines(files, "batches.meta.txt")}
    return _plan_cifar("cifar10", files, names, labels=labels, num_labels=1)


def plan_cifar100(source: pathlib.Path, *, variant: str, work: pathlib.Path, tick: archives.Tick) -> plan_lib.Plan:
    """CIFAR-100 from `cifar-100-binary.tar.gz`, as TFDS's own cifar100:3.0.2; arguments as for `plan_cifar10`.

    Raises:
        base.InputError: the archive is not there, or not what it should be.
    """
    _no_variant(variant, "cifar100")
    files = _find(source, "cifar-100-binary.tar.gz", folder="cifar-100-binary", work=work, tick=tick)
    labels = {
        "label": _lines(files, "fine_label_names.txt"),
        "coarse_label": _lines(files, "coarse_label_names.txt"),
    }
    return _plan_cifar("cifar100", files, {"train": ["train.bin"], "test": ["test.bin"]}, labels=labels, num_labels=2)


def _plan_cifar(
    name: str,
    files: Mapping[str, archives.Member],
    names: Mapping[str, Sequence[str]],
    *,
    labels: Mapping[str, tuple[str, ...]],
    num_labels: int,
) -> plan_lib.Plan:
    """A record is the labels, the coarse one first, one byte each, then the planes red, green, blue of 32x32."""
    length = num_labels + 3072
    splits: dict[str, list[plan_lib.Item]] = {}
    for split, of_split in names.items():
        items = splits.setdefault(split, [])
        for file in of_split:
            member = files[file]
            rows = _rows(member, length)
            _check_labels(rows[:, num_labels - 1], len(labels["label"]), file)
            for row, given in enumerate(rows[:, :num_labels].tolist()):
                place = member.offset + row * length + num_labels
                items.append(
                    plan_lib.Item(f"{split}_{len(items):05d}", member.path, place, 3072, tuple(reversed(given)))
                )
    return plan_lib.Plan(
        name=name,
        version="3.0.2",
        splits=splits,
        labels=labels,
        understood=f"{name} from its binary files",
        name_feature="id",
        shape=(32, 32),
        to_image=_png_of(lambda data: data.reshape(3, 32, 32).transpose(1, 2, 0)),
        expected={"train": 50000, "test": 10000},
        encoding="png",
    )


def plan_stl10(source: pathlib.Path, *, variant: str, work: pathlib.Path, tick: archives.Tick) -> plan_lib.Plan:
    """STL-10 with its 100,000 unlabelled images from `stl10_binary.tar.gz`, as TFDS's own stl10:1.0.0.

    Arguments as for `plan_cifar10`. The split `unlabelled` has labels of -1.

    Raises:
        base.InputError: the archive is not there, or not what it should be.
    """
    _no_variant(variant, "stl10")
    files = _find(source, "stl10_binary.tar.gz", folder="stl10_binary", work=work, tick=tick)
    class_names = _lines(files, "class_names.txt")
    splits = {}
    for split, stem in (("train", "train"), ("test", "test"), ("unlabelled", "unlabeled")):
        member = files[f"{stem}_X.bin"]
        count = len(_rows(member, 27648))
        labels = [-1] * count
        if split != "unlabelled":
            labels = (_rows(files[f"{stem}_y.bin"], 1)[:, 0].astype(int) - 1).tolist()
            _check_labels(np.asarray(labels), len(class_names), f"{stem}_y.bin", count=count)
        splits[split] = [
            plan_lib.Item(f"{split}_{row:06d}", member.path, member.offset + 27648 * row, 27648, (label,))
            for row, label in enumerate(labels)
        ]
    return plan_lib.Plan(
        name="stl10",
        version="1.0.0",
        splits=splits,
        labels={"label": class_names},
        understood="stl10 from its binary files",
        shape=(96, 96),
        # Column by column.
        to_image=_png_of(lambda data: data.reshape(3, 96, 96).transpose(2, 1, 0)),
        expected={"train": 5000, "test": 8000, "unlabelled": 100000},
        encoding="png",
    )


def _png_of(to_pixels: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], plan_lib.Image]:
    def to_image(data: bytes) -> plan_lib.Image:
        stream = io.BytesIO()
        pixels = np.ascontiguousarray(to_pixels(np.frombuffer(data, np.uint8)))
        extras.require("PIL.Image").fromarray(pixels).save(stream, "PNG")
        return plan_lib.Image(stream.getvalue())

    return to_image


class _Files(dict[str, archives.Member]):
    """File name -> where it is; a missing one is the user's to bring."""

    def __missing__(self, name: str) -> archives.Member:
        raise base.InputError(f"the set must have a file {name}; it is missing. Bring the whole archive again.")


def _find(
    source: pathlib.Path, archive: str, *, folder: str, work: pathlib.Path, tick: archives.Tick
) -> Mapping[str, archives.Member]:
    for place in (source / folder, source):
        if any(place.glob("*.bin")):
            files = [path for path in place.iterdir() if path.is_file()]
            return _Files({path.name: archives.Member(path.name, str(path), 0, path.stat().st_size) for path in files})
    path = source / archive
    if not path.is_file():
        raise base.InputError(
            f"the source must hold {archive}, or the folder {folder} of its files; got "
            f"{imageset.printable(str(source))}. Download the archive and put it there."
        )
    members = archives.open_tar(path, work=work, max_bytes=_MAX_BYTES, tick=tick)
    return _Files({member.name.rpartition("/")[2]: member for member in members})


def _rows(member: archives.Member, length: int) -> np.ndarray:
    """uint8 [N, length], not read before it is used."""
    if not member.num_bytes or member.num_bytes % length:
        raise base.InputError(
            f"{member.name} must hold records of {length} bytes; got {member.num_bytes} bytes. Bring it here again."
        )
    shape = (member.num_bytes // length, length)
    return np.memmap(member.path, np.uint8, "r", member.offset, shape)


def _lines(files: Mapping[str, archives.Member], name: str) -> tuple[str, ...]:
    try:
        return tuple(archives.read_member(files[name]).decode().split())
    except UnicodeDecodeError as error:
        raise base.InputError(f"{name} must hold names in UTF-8; it does not. Bring it here again.") from error


def _check_labels(labels: np.ndarray, num_classes: int, name: str, *, count: int | None = None) -> None:
    is_complete = count is None or len(labels) == count
    if not is_complete or labels.min() < 0 or labels.max() >= num_classes:
        raise base.InputError(
            f"{name} must hold a label of {num_classes} classes for every image; it does not. Bring it here again."
        )


def _no_variant(variant: str, name: str) -> None:
    if variant:
        raise base.InputError(f"{name} has no variants; got {variant!r}. Leave it out.")
