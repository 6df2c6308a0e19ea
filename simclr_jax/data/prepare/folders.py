"""A folder of pictures as a data set: read as `folder:PATH` reads it, with the same splits and classes."""

import importlib.util
import pathlib
import re

from simclr_jax import base
from simclr_jax.data import extras, folder
from simclr_jax.data.prepare import plan as plan_lib


def plan_folder(source: pathlib.Path, *, name: str = "") -> plan_lib.Plan:
    """The images of a folder, class folders or none, in the splits `train` and `test` (see `layout.understand`).

    Args:
        source: the folder.
        name: of the data set; "" for one made of the folder's name.

    Raises:
        base.InputError: the folder is missing, cannot be read or understood, or `name` is not one.
    """
    if name and not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise base.InputError(
            f"the name of a data set must be small letters, digits and _; got {name!r}. Use for example my_photos."
        )
    name = name or name_of(source)
    _check_free(name)
    found, understood = folder.understand(str(source))
    class_names = folder.class_names_of(found)
    label_of = {class_name: label for label, class_name in enumerate(class_names)} | {"": -1}
    splits: dict[str, list[plan_lib.Item]] = {}
    for file in found.files:
        labels = (label_of[file.class_name],) if class_names else ()
        item = plan_lib.Item(file.name, file.path, 0, file.num_bytes, labels, file.mtime_ns)
        splits.setdefault(file.split, []).append(item)
    return plan_lib.Plan(
        name=name,
        version="1.0.0",
        splits=splits,
        labels={"label": class_names} if class_names else {},
        understood="; ".join([understood, *found.warnings]),
        name_feature="name",
    )


def name_of(source: pathlib.Path) -> str:
    """A name that TFDS takes, made of the folder's: small letters, digits and _."""
    plain = re.sub(r"[^a-z0-9]+", "_", source.resolve().name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"images_{plain}".rstrip("_")


def _check_free(name: str) -> None:
    """TFDS would look for its own data set of that name, with its own classes and version."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return
    try:
        extras.require("tensorflow_datasets").builder_cls(name)
    except Exception:  # it has none, and says so at length
        return
    raise base.InputError(
        f"the name of a data set must be free; TFDS has a data set of its own called {name}. Choose another name."
    )
