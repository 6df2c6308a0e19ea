"""A trained encoder to use: from a run or an export to a function from images to features."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from simclr_jax import base, data, models
from simclr_jax.distributed import sharding
from simclr_jax.interop import card, torchvision, variables
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, identity, paths
from simclr_jax.run import workdir as workdir_lib

_CARD = "card.json"
# Canvases of lists of images come in steps of so many pixels, so that few of them need a program of their own.
_STEP = 64


class Embedding(NamedTuple):
    """Features of a set of images, row by row.

    features: float32 [N, D].
    names: of the images, the path below the folder for a folder's.
    labels: int32 [N], -1 where an image has none.
    class_names: `class_names[label]`.
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder with its weights: `encoder(images)` gives features, `encoder.embed(folder)` those of files.

    module: the Flax module; `module.apply(variables, views, train=False)` is what a call runs on prepared images.
    variables: {"params", "batch_stats"}, NumPy arrays.
    size: side of the square that every image is brought to, pixels. resize: its bicubic, "tf2" or "tf1".
    step: how many updates it was trained for. source: where it was loaded from.
    """

    module: nn.Module
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    size: int
    resize: str
    step: int
    source: str

    def __call__(self, images: np.ndarray | base.Array | Sequence[np.ndarray], *, batch_size: int = 256) -> np.ndarray:
        """The features of images: float32 [N, D]; [D] for a single image.

        Every image is prepared as in evaluation (central crop, bicubic resize; see `augment.make_eval_view`), so any
        size is right and nothing has to be scaled or normalised before.

        Args:
            images: [N, H, W, 3] or [H, W, 3], uint8 in [0, 255] or float in [0, 1], or a list of images of any sizes.
            batch_size: images that pass through the network together.

        Raises:
            InputError: images of another layout or type, or none.
        """
        if not isinstance(images, list | tuple):
            images = np.asarray(images)
            if images.ndim == 3:
                return self([images], batch_size=batch_size)[0]
        if not len(images):
            raise base.InputError("an encoder needs at least one image; got none.")
        canvases, sizes = _on_one_canvas(images) if isinstance(images, list | tuple) else (images, _sizes(images))
        return self._encode(canvases, sizes, batch_size=batch_size)

    def embed(
        self, folder: str | os.PathLike[str], *, split: str | None = None, batch_size: int = 256, **settings: Any
    ) -> Embedding:
        """The features of all pictures in a folder, in class folders or not; or of a data set by its name.

        Args:
            folder: a path, or a name such as "tfds:cifar10" or "digits".
            split: None for all pictures of a folder; of other data sets "train", "test" and so on.
            batch_size: images that pass through the network together.
            settings: more arguments of `data.load_split`, such as `data_dir` or `canvas_size`.

        Raises:
            InputError: no such folder or set, or nothing in it can be read.
        """
        text = os.fspath(folder)
        name = text if text.partition(":")[0] in data.DATASETS else f"folder:{paths.absolute(text, flag='folder')}"
        whole = split or ("all" if name.startswith("folder:") else "test")
        image_set = data.load_split(name, whole, **settings)
        h = self._encode(image_set.images, image_set.sizes, batch_size=batch_size)
        return Embedding(h, tuple(image_set.ids), np.asarray(image_set.labels), tuple(image_set.class_names))

    def _encode(self, images: np.ndarray, sizes: np.ndarray, *, batch_size: int) -> np.ndarray:
        encode = _make_encode(self.module, self.size, self.resize, batch_size)
        rows = data.ImageSet(images, sizes, np.full(len(images), -1, np.int32), (), (), "", ())
        return encode(self.variables, rows)


@functools.lru_cache(maxsize=8)
def _make_encode(module: nn.Module, size: int, resize: str, batch_size: int) -> features.EncodeFn:
    """One compiled function for all calls of an encoder; the devices share a batch, which is rounded up for them."""
    mesh = sharding.make_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    return features.make_encode(module, size=size, resize=resize, batch_size=batch_size, mesh=mesh)


def _sizes(images: np.ndarray) -> np.ndarray:
    return np.tile(np.asarray(images.shape[1:3], np.int32), (len(images), 1))


def _on_one_canvas(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(images with zeros around them [N, H, W, 3], their sizes [N, 2])."""
    arrays = [np.asarray(image) for image in images]
    wrong = [list(array.shape) for array in arrays if array.ndim != 3 or array.shape[-1] != 3]
    kinds = sorted({str(array.dtype) for array in arrays})
    if wrong or len(kinds) > 1:
        got = f"one of shape {wrong[0]}" if wrong else f"the types {', '.join(kinds)}"
        raise base.InputError(f"a list of images must hold arrays [H, W, 3] of one type; got {got}. Convert them.")
    sizes = np.asarray([array.shape[:2] for array in arrays], np.int32)
    height, width = -(-sizes.max(axis=0) // _STEP) * _STEP
    canvases = np.zeros((len(arrays), height, width, 3), arrays[0].dtype)
    for canvas, array in zip(canvases, arrays, strict=True):
        canvas[: array.shape[0], : array.shape[1]] = array
    return canvases, sizes


def load(path: str | os.PathLike[str], *, checkpoint: str = "latest") -> Encoder:
    """The encoder of a trained run, or of what `simclr-jax export` wrote.

    Args:
        path: the workdir of a run, or the folder of an export.
        checkpoint: of a run: "latest", "best" (by kNN while training) or a step number.

    Raises:
        InputError: neither is there, or no such checkpoint.

    Example::

        encoder = simclr_jax.load("runs/demo")
        features = encoder(images)
    """
    folder = pathlib.Path(paths.typed(os.fspath(path), flag="path"))
    if (folder / _CARD).is_file():
        return _load_export(folder)
    if not workdir_lib.has_config(folder):
        raise base.InputError(
            f"path must be the folder of a run (it holds config.json) or of an export ({_CARD}); got {folder}."
        )
    config = identity.read_config(folder)
    step, encoder_variables = features.load_encoder_variables(folder, which=checkpoint)
    return Encoder(
        config_lib.call(models.make_encoder, config, "encoder"),
        encoder_variables,
        size=config["augment"]["image_size"],
        resize=config["augment"]["resize"],
        step=step,
        source=str(folder),
    )


def _load_export(folder: pathlib.Path) -> Encoder:
    content = json.loads((folder / _CARD).read_text(encoding="utf-8"))
    flax, torch = folder / "variables.safetensors", folder / "encoder.safetensors"
    if content.get("format") != card.FORMAT or not (flax.is_file() or torch.is_file()):
        raise base.InputError(
            f"An export holds {_CARD} of the format {card.FORMAT} with {flax.name} or {torch.name}; {folder} does not. "
            "Export again, with --format=flax."
        )
    by_name = variables.load(flax) if flax.is_file() else torchvision.from_torchvision(variables.load(torch))
    params, batch_stats = variables.unflatten(variables.only(by_name, "encoder"))
    return Encoder(
        models.make_encoder(**content["encoder"]["arguments"]),
        features.encoder_variables(params, {"batch_stats": batch_stats}),
        size=content["preprocessing"]["size"],
        resize=content["preprocessing"]["resize"],
        step=content["training"]["step"],
        source=str(folder),
    )
