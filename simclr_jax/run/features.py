"""Running a frozen encoder over a split: images in, representation and evaluation images out."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import augment, base, data
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint
from simclr_jax.run import workdir as workdir_lib

EncodeFn = Callable[[base.PyTree, data.ImageSet], np.ndarray]


def evaluation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the images of a run are evaluated: the arguments of `make_encode`, `make_predict` and `evaluation_images`."""
    return {
        "size": config["augment"]["image_size"],
        "resize": config["augment"]["resize"],
        "batch_size": config["probe"]["batch_size"],
        "mesh": sharding.make_mesh(),
    }


def make_encode(encoder: nn.Module, *, size: int, resize: str, batch_size: int, mesh: Mesh) -> EncodeFn:
    """(variables, image_set) -> h float32 [N, D]: evaluation crops through the encoder with its moving statistics.

    `variables` is {"params": ..., "batch_stats": ...} of the encoder alone; see `make_predict`.
    """

    def encode(variables: base.PyTree, images: base.Array) -> base.Array:
        h = encoder.apply(variables, images, train=False)
        assert isinstance(h, jax.Array)  # no collection is mutable, so nothing comes back beside h
        return h

    return make_predict(encode, size=size, resize=resize, batch_size=batch_size, mesh=mesh)


def make_predict(
    fn: Callable[[base.PyTree, base.Array], base.Array], *, size: int, resize: str, batch_size: int, mesh: Mesh
) -> EncodeFn:
    """(variables, image_set) -> fn(variables, evaluation crops [n, size, size, 3] in [0, 1]) for all images.

    Compiled once for all splits: the last batch is padded and the padding cut off.
    """
    sharding.check_batch_size(batch_size, mesh, name="probe.batch_size")
    eval_view = sharding.map_rows(augment.make_eval_view(image_size=size, resize=resize), mesh, row_args=(True, True))

    def predict_rows(variables: base.PyTree, images: base.Array, sizes: base.Array) -> base.Array:
        return fn(variables, eval_view(images, sizes))

    # Replicated, so that every process can read the features of all rows.
    predict = jax.jit(predict_rows, out_shardings=sharding.replicated(mesh))
    return lambda variables, image_set: _over_batches(
        lambda images, sizes: predict(variables, images, sizes), image_set, batch_size=batch_size, mesh=mesh
    )


def evaluation_images(image_set: data.ImageSet, *, size: int, resize: str, batch_size: int, mesh: Mesh) -> np.ndarray:
    """The evaluation crops themselves, uint8 [N, size, size, 3], for baselines on pixels and for pictures."""
    eval_view = sharding.map_rows(augment.make_eval_view(image_size=size, resize=resize), mesh, row_args=(True, True))
    crop = jax.jit(
        lambda images, sizes: (eval_view(images, sizes) * 255.0 + 0.5).astype("uint8"),
        out_shardings=sharding.replicated(mesh),
    )
    return _over_batches(crop, image_set, batch_size=batch_size, mesh=mesh)


def view_samples(
    make_views: base.MakeViews, image_set: data.ImageSet, *, size: int, num_images: int, key: base.Array
) -> np.ndarray:
    """Evenly spaced images beside views of them: uint8 [M, 1 + V, size, size, 3], the whole image first.

    Small crops come after the views, each in the middle of a white square.
    """
    rows = np.unique(np.linspace(0, len(image_set.images) - 1, num_images).astype(np.int32))
    images, sizes = np.asarray(image_set.images[rows]), np.asarray(image_set.sizes[rows])
    views = jax.tree.leaves(jax.jit(make_views)(key, images, sizes, np.arange(len(rows), dtype=np.int32)))
    shown = [_framed(np.asarray(x * 255.0 + 0.5).astype(np.uint8), size) for x in views]
    whole = [_fitted(image[:h, :w], size) for image, (h, w) in zip(images, sizes, strict=True)]
    return np.concatenate([np.stack(whole)[:, None], *shown], axis=1)


def encoder_variables(params: Mapping[str, Any], method_state: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's variables out of the trees of any method."""
    return {"params": params["encoder"], "batch_stats": method_state["batch_stats"].get("encoder", {})}


def load_variables(workdir: str | pathlib.Path, *, which: str) -> tuple[int, base.PyTree, base.PyTree]:
    """(step, params, method_state) of the checkpoint `which` of a run: "latest", "best" or a step number.

    Raises:
        base.InputError: there is no such checkpoint, or it is damaged.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    if not checkpoint.saved_steps(folder):
        raise base.InputError(f"A trained run has a checkpoint; none in {folder}. Train it first.")
    with checkpoint.open_checkpoints(folder, read_only=True) as checkpoints:
        steps = sorted(checkpoints.all_steps())
        if which == "best":
            step = checkpoint.best_step(checkpoints, workdir_lib.read_scores(pathlib.Path(workdir)))
        elif which == "latest":
            step = steps[-1]
        elif which.isdigit() and int(which) in steps:
            step = int(which)
        else:
            listed = ", ".join(map(str, steps))
            raise base.InputError(f"checkpoint must be latest, best or one of the steps {listed}; got {which!r}.")
        state = checkpoint.restore_any(checkpoints, step=step)
    return step, state["params"], state["method_state"]


def load_encoder_variables(workdir: str | pathlib.Path, *, which: str) -> tuple[int, dict[str, Any]]:
    """(step, variables of the encoder) of a checkpoint; see `load_variables`."""
    step, params, method_state = load_variables(workdir, which=which)
    return step, encoder_variables(params, method_state)


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image, scaled to touch a white square of `size` pixels: uint8 [size, size, 3]."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(image), (size, size), color=(255, 255, 255)))


def _framed(views: np.ndarray, size: int) -> np.ndarray:
    """[M, V, h, h, 3] in the middle of white squares of `size` pixels."""
    room = size - views.shape[2]
    border = (max(room // 2, 0), max(room - room // 2, 0))
    return np.pad(views, ((0, 0), (0, 0), border, border, (0, 0)), constant_values=255)[:, :, :size, :size]


def _over_batches(
    fn: Callable[[base.Array, base.Array], base.Array], image_set: data.ImageSet, *, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """fn over all images in batches of one shape, rounded up so that every device has as many rows."""
    num_images = len(image_set.images)
    batch_size = mesh.size * math.ceil(min(batch_size, num_images) / mesh.size)
    results = []
    for start in range(0, num_images, batch_size):
        # The last batch is padded with its last image; every process reads only the rows of its own devices.
        rows = np.minimum(np.arange(start, start + batch_size), num_images - 1)
        out = fn(sharding.gather_rows(mesh, image_set.images, rows), sharding.gather_rows(mesh, image_set.sizes, rows))
        results.append(np.asarray(jax.device_get(out))[: num_images - start])
    return np.concatenate(results)
