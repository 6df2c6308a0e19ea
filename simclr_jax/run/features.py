"""Running a frozen encoder over a split: images in, representation and evaluation images out."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import augment, base, data
from simclr_jax.data import cutting, workers
from simclr_jax.data import streaming as streams
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint, input_pipeline, progress
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

EncodeFn = Callable[[base.PyTree, data.ImageSet], np.ndarray]


class Streaming(NamedTuple):
    """How the pictures of a split that stays encoded become evaluation crops; see `streaming.open_stream`."""

    cuts: cutting.Cuts
    workers: workers.WorkerSettings
    max_corrupt_fraction: float


def evaluation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the images of a run are evaluated: the arguments of `make_encode`, `make_predict` and `evaluation_images`."""
    feed = config_lib.call(input_pipeline.make_settings, config, "feed")
    return {
        "size": config["augment"]["image_size"],
        "resize": config["augment"]["resize"],
        "batch_size": config["probe"]["batch_size"],
        "mesh": sharding.make_mesh(),
        "streaming": Streaming(
            input_pipeline.make_cuts(config, num_views=0), feed.workers, config["data"]["max_corrupt_fraction"]
        ),
    }


def make_encode(
    encoder: nn.Module, *, size: int, resize: str, batch_size: int, mesh: Mesh, streaming: Streaming | None = None
) -> EncodeFn:
    """(variables, image_set) -> h float32 [N, D]: evaluation crops through the encoder with its moving statistics.

    `variables` is {"params": ..., "batch_stats": ...} of the encoder alone; see `make_predict`.
    """

    def encode(variables: base.PyTree, images: base.Array) -> base.Array:
        h = encoder.apply(variables, images, train=False)
        assert isinstance(h, jax.Array)  # no collection is mutable, so nothing comes back beside h
        return h

    return make_predict(encode, size=size, resize=resize, batch_size=batch_size, mesh=mesh, streaming=streaming)


def make_predict(
    fn: Callable[[base.PyTree, base.Array], base.Array],
    *,
    size: int,
    resize: str,
    batch_size: int,
    mesh: Mesh,
    streaming: Streaming | None = None,
) -> EncodeFn:
    """(variables, image_set) -> fn(variables, evaluation crops [n, size, size, 3] in [0, 1]) for all images.

    Compiled once for all splits: the last batch is padded and the padding cut off. Of a split that stays encoded the
    host cuts the crops out of the full resolution, as `streaming` says; they are rounded to uint8. A damaged
    picture has the row of another one of its class.
    """
    sharding.check_batch_size(batch_size, mesh, name="probe.batch_size")
    eval_view = sharding.map_rows(augment.make_eval_view(image_size=size, resize=resize), mesh, row_args=(True, True))

    def predict_rows(variables: base.PyTree, images: base.Array, sizes: base.Array) -> base.Array:
        return fn(variables, eval_view(images, sizes))

    # Replicated, so that every process can read the features of all rows.
    predict = jax.jit(predict_rows, out_shardings=sharding.replicated(mesh))
    predict_crops = jax.jit(
        lambda variables, crops: fn(variables, crops[:, 0].astype("float32") * (1 / 255)),
        out_shardings=sharding.replicated(mesh),
    )

    def predict_all(variables: base.PyTree, image_set: data.ImageSet) -> np.ndarray:
        if data.is_encoded(image_set):
            crops = _crop_batches(image_set, streaming, batch_size=batch_size, mesh=mesh)
            results = [np.asarray(predict_crops(variables, rows))[:count] for rows, count in crops]
            return np.concatenate(results)
        return _over_batches(
            lambda images, sizes: predict(variables, images, sizes), image_set, batch_size=batch_size, mesh=mesh
        )

    return predict_all


def evaluation_images(
    image_set: data.ImageSet,
    *,
    size: int,
    resize: str,
    batch_size: int,
    mesh: Mesh,
    streaming: Streaming | None = None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> np.ndarray:
    """The evaluation crops themselves, uint8 [N, size, size, 3], for baselines on pixels and for pictures.

    `keep` takes the crops of a batch, uint8 [n, size, size, 3], and gives what to keep of them: those of a large split
    take more memory than there is.
    """
    if data.is_encoded(image_set):
        whole = jax.jit(lambda crops: crops[:, 0], out_shardings=sharding.replicated(mesh))
        crops = _crop_batches(image_set, streaming, batch_size=batch_size, mesh=mesh)
        return np.concatenate([keep(np.asarray(whole(rows))[:count]) for rows, count in crops])
    return _over_batches(_make_crop(size, resize, mesh), image_set, batch_size=batch_size, mesh=mesh, keep=keep)


@functools.cache
def _make_crop(size: int, resize: str, mesh: Mesh) -> Callable[[base.Array, base.Array], base.Array]:
    """(images, sizes) -> evaluation crops uint8 [n, size, size, 3]; compiled once for all sets."""
    eval_view = sharding.map_rows(augment.make_eval_view(image_size=size, resize=resize), mesh, row_args=(True, True))
    return jax.jit(
        lambda images, sizes: (eval_view(images, sizes) * 255.0 + 0.5).astype("uint8"),
        out_shardings=sharding.replicated(mesh),
    )


def crops_of_rows(image_set: data.ImageSet, rows: np.ndarray, **how: Any) -> np.ndarray:
    """The evaluation crops of some examples, uint8 [*rows.shape, size, size, 3]; `how` as for `evaluation_images`."""
    batch_size = min(how["batch_size"], len(image_set.images))
    # Whole batches, so that sets of any number of rows share one program.
    padded = np.resize(rows, batch_size * math.ceil(rows.size / batch_size))
    crops = evaluation_images(data.subset(image_set, padded), **how)[: rows.size]
    return crops.reshape(*rows.shape, *crops.shape[1:])


def view_samples(
    make_views: base.MakeViews, image_set: data.ImageSet, *, size: int, num_images: int, key: base.Array
) -> np.ndarray:
    """Evenly spaced images beside views of them: uint8 [M, 1 + V, size, size, 3], the whole image first.

    Small crops come after the views, each in the middle of a white square. Of a split that stays encoded the views are
    cut from canvases, and damaged images are left out.
    """
    rows = np.unique(np.linspace(0, len(image_set.images) - 1, num_images).astype(np.int32))
    chosen = data.decoded(image_set, rows) if data.is_encoded(image_set) else data.subset(image_set, rows)
    images, sizes = chosen.images, chosen.sizes
    views = jax.tree.leaves(jax.jit(make_views)(key, images, sizes, np.arange(len(images), dtype=np.int32)))
    shown = [_framed(np.asarray(x * 255.0 + 0.5).astype(np.uint8), size) for x in views]
    whole = [_fitted(image[:h, :w], size) for image, (h, w) in zip(images, sizes, strict=True)]
    return np.concatenate([np.stack(whole)[:, None], *shown], axis=1)


def encoder_variables(params: Mapping[str, Any], method_state: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's variables out of the trees of any method."""
    return {"params": params["encoder"], "batch_stats": method_state["batch_stats"].get("encoder", {})}


def load_variables(
    workdir: str | pathlib.Path, *, which: str, mesh: Mesh | None = None
) -> tuple[int, base.PyTree, base.PyTree]:
    """(step, params, method_state) of the checkpoint `which` of a run: "latest", "best" or a step number.

    They are whole on every device of `mesh`, as `make_predict` needs them; without one on the first device. In place of
    a damaged latest or best one the one before is taken, and a line says so.

    Raises:
        base.InputError: there is no such checkpoint, or none that is intact.
    """
    scores = workdir_lib.read_scores(pathlib.Path(workdir)) if which == "best" else {}
    folder = pathlib.Path(workdir) / "checkpoints"
    step, state = checkpoint.read_chosen(folder, which, scores=scores, warn=progress.say)
    found = state["params"], state["method_state"]
    return step, *(found if mesh is None else sharding.put_replicated(mesh, found))


def load_encoder_variables(workdir: str | pathlib.Path, *, which: str) -> tuple[int, dict[str, Any]]:
    """(step, variables of the encoder) of a checkpoint, on every device; see `load_variables`."""
    step, params, method_state = load_variables(workdir, which=which, mesh=sharding.make_mesh())
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


def _crop_batches(
    image_set: data.ImageSet, streaming: Streaming | None, *, batch_size: int, mesh: Mesh
) -> Iterator[tuple[base.Array, int]]:
    """(crops [B, 1, size, size, 3], how many are meant) of all pictures, in order; each process cuts its own."""
    assert streaming is not None, "a split that stays encoded comes from a config"
    num_images = len(image_set.images)
    batch_size = mesh.size * math.ceil(min(batch_size, num_images) / mesh.size)
    mine = sharding.local_rows(mesh, batch_size)
    starts = range(0, num_images, batch_size)
    stream = streams.open_stream(
        image_set,
        streaming.cuts,
        # The last batch is padded with the last picture.
        examples_of=lambda number: np.minimum(starts[number] + mine, num_images - 1),
        positions=mine,
        settings=streaming.workers,
        max_corrupt_fraction=streaming.max_corrupt_fraction,
        warn=progress.say,
        num_batches=len(starts),
    )
    with contextlib.closing(stream):
        for number, start in enumerate(starts):
            rows = stream.read(number)
            crops = sharding.put_local_rows(mesh, rows.crops, mine, count=batch_size)
            yield crops, min(batch_size, num_images - start)


def _over_batches(
    fn: Callable[[base.Array, base.Array], base.Array],
    image_set: data.ImageSet,
    *,
    batch_size: int,
    mesh: Mesh,
    keep: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> np.ndarray:
    """`keep` of fn over all images in batches of one shape, rounded up so that every device has as many rows."""
    num_images = len(image_set.images)
    batch_size = mesh.size * math.ceil(min(batch_size, num_images) / mesh.size)
    results = []
    for start in range(0, num_images, batch_size):
        # The last batch is padded with its last image; every process reads only the rows of its own devices.
        rows = np.minimum(np.arange(start, start + batch_size), num_images - 1)
        out = fn(sharding.gather_rows(mesh, image_set.images, rows), sharding.gather_rows(mesh, image_set.sizes, rows))
        results.append(keep(np.asarray(jax.device_get(out))[: num_images - start]))
    return np.concatenate(results)
