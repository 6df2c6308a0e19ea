"""A trained encoder to use: images or files in, features out. `loading` makes one of a run, an export or weights."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from simclr_jax import augment, base, data, distributed
from simclr_jax.augment import eval_views, pixels
from simclr_jax.data import imageset
from simclr_jax.distributed import sharding
from simclr_jax.interop import variables
from simclr_jax.models import heads
from simclr_jax.run import embedding, embedding_shares, feature_file, paths, progress

RESIZES = ("tf2", "tf1", *eval_views.FILTERS)
_BATCH = 64
_WITH_DATA_DIR = ("tfds", "pairs", "mix")  # of data.DATASETS; a folder's path is absolute by then
Head = heads.ProjectionHead | heads.LinearHead


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder with its weights: `encoder(images)` gives features, `encoder.embed(folder)` those of files.

    module: the Flax module; `module.apply(variables, views, train=False)` is what a call runs on prepared images.
    variables: {"params", "batch_stats"}, NumPy arrays.
    size: side of the square that every image is brought to, pixels. resize: how; see `embedding.Preparation`.
    step: how many updates it was trained for. source: where it was loaded from.
    head, head_variables: the projection head, None and {} where there is none or only a part of it.
    crop_fraction: share of the shorter side that Pillow's resizing keeps. canvas_size: pixels of the longest side that
        pictures are shrunk to first, where it is not Pillow that resizes.
    """

    module: nn.Module
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    size: int
    resize: str
    step: int
    source: str
    head: Head | None = None
    head_variables: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    crop_fraction: float = 0.875
    canvas_size: int = 256

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the encoder's weights, as in the card of an export."""
        return variables.fingerprint(
            variables.flatten({"encoder": self.variables["params"]}, {"encoder": self.variables["batch_stats"]})
        )

    def __call__(
        self,
        images: np.ndarray | base.Array | Sequence[np.ndarray],
        *,
        batch_size: int = _BATCH,
        layer: str | int = "h",
        num_views: int = 1,
    ) -> np.ndarray:
        """The features of images: float32 [N, D]; [D] for a single image.

        Every image is prepared as in evaluation (central crop, resize; see `embedding.Preparation`), so any size is
        right and nothing has to be scaled or normalised before.

        Args:
            images: [N, H, W, 3] or [H, W, 3], uint8 in [0, 255] or float in [0, 1], or a list of images of any sizes.
            batch_size: images that pass through the network together.
            layer: "h", a layer of the projection head counted from 1, or "z" for its last one.
            num_views: features are averaged over so many views, see `augment.make_eval_views`.

        Raises:
            InputError: images of another layout or type, or none; no such layer.
        """
        if not isinstance(images, list | tuple):
            images = np.asarray(images)
            if images.ndim == 3:
                return self([images], batch_size=batch_size, layer=layer, num_views=num_views)[0]
        if not len(images):
            raise base.InputError("an encoder needs at least one image; got none.")
        how = self.preparation(num_views=num_views)
        images = _checked_list(images) if isinstance(images, list | tuple) else _checked_array(images)
        batch_size = rounded(min(batch_size, len(images)))
        encode = self.encode_batch(how, batch_size, layer=layer)
        results = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            # A plain array is its own canvas.
            prepared = [
                embedding.prepare(how, _as_bytes(image)) if how.is_pillow else (image, image.shape[:2])
                for image in part
            ]
            stacked = embedding.stack([pixels for pixels, _ in prepared], num_rows=batch_size)
            sizes = np.ones((batch_size, 2), np.int32)
            sizes[: len(part)] = [valid for _, valid in prepared]
            results.append(np.asarray(encode(stacked, sizes))[: len(part)])
        return np.concatenate(results)

    def embed(
        self,
        images: str | os.PathLike[str],
        *,
        output: str | os.PathLike[str] | None = None,
        split: str | None = None,
        data_dir: str | None = None,
        batch_size: int = _BATCH,
        layer: str | int = "h",
        num_views: int = 1,
        dtype: str = "float32",
        canvas_size: int | None = None,
        show: bool = False,
        peers: distributed.Peers | None = None,
    ) -> feature_file.Embedding:
        """The features of all pictures in a folder, in class folders or not; or of a data set by its name.

        Pictures are read from their files one batch after the other, so there may be any number of them. Damaged ones
        are left out and named in `meta["skipped"]`.

        Args:
            images: a path, or a name such as "tfds:cifar10" or "digits".
            output: a file `.npz` or `.parquet` to write; what a killed call has done by then lies beside it, and the
                same call goes on from there. None: the features are held in memory.
            split: of a data set, None for "test"; a folder is taken whole.
            data_dir: where prepared TFDS data lie.
            batch_size: images that pass through the network together.
            layer, num_views: as for a call of the encoder.
            dtype: of the features that are kept, "float32" or "float16".
            canvas_size: pixels of the longest side that pictures are shrunk to before they are cropped; None for
                the encoder's own. Pillow's resizing takes pictures whole.
            show: whether stderr gets a line of what was found, and lines of progress.
            peers: the processes of a job, all of which call this: each embeds its share, and all get the same.

        Raises:
            InputError: no such folder or set, nothing in it can be read, the output cannot be written, or a canvas_size
                or data_dir that has no effect here.
        """
        base.check_choice(dtype, embedding.DTYPES, name="dtype")
        if output is not None:
            embedding.check_output(output)
        how = self.preparation(num_views=num_views, canvas_size=canvas_size)
        name = _data_name(images)
        _check_effects(how, name, canvas_size=canvas_size, data_dir=data_dir)
        pictures = data.open_pictures(name, split=split, data_dir=data_dir)
        if show:
            progress.say(pictures.understood)
        batch_size = rounded(min(batch_size, len(pictures.ids)))
        made_by = {"fingerprint": self.fingerprint, "layer": str(layer), "protocol": how.protocol, "dtype": dtype}
        stamp = {**made_by, "images": pictures.key, "head": _digest_of(self.head_variables), "batch_size": batch_size}
        stamp |= {name: self.settings()[name] for name in ("mean", "std")}
        encode = self.encode_batch(how, batch_size, layer=layer)
        job = embedding.Job(pictures, how, encode, batch_size, dtype, stamp)
        origin = {"encoder": self.settings(), "images": name, "split": split, "num_views": num_views}
        origin |= {"canvas_size": canvas_size, "pictures": pictures.key}
        origin |= {} if data_dir is None else {"data_dir": os.path.abspath(data_dir)}
        meta = {**made_by, **origin, "class_names": list(pictures.class_names)}
        if peers is not None and peers.count > 1:
            return embedding_shares.collect(job, meta, output=output, show=show, peers=peers)
        return embedding.collect(job, meta, output=output, show=show)

    def settings(self) -> dict[str, Any]:
        """Where it came from and how it prepares images, as plain values: `loading.reload` makes it again."""
        module = {name: list(getattr(self.module, name, ())) for name in ("mean", "std")}
        own = {name: getattr(self, name) for name in ("step", "size", "resize", "crop_fraction", "canvas_size")}
        return {"source": os.path.abspath(self.source), **own, **module}

    def preparation(self, *, num_views: int = 1, canvas_size: int | None = None) -> embedding.Preparation:
        """How pictures become its input.

        Raises:
            InputError: num_views or canvas_size is out of range.
        """
        eval_views.check_num_views(num_views)
        imageset.check_canvas_size(canvas_size)
        canvas = canvas_size or max(self.canvas_size, self.size)
        return embedding.Preparation(self.size, self.resize, self.crop_fraction, canvas, num_views)

    def encode_batch(
        self, how: embedding.Preparation, batch_size: int, *, layer: str | int = "h"
    ) -> embedding.EncodeBatch:
        """(stacked pictures of a full batch, their sizes) -> features [B, D] on the devices, as `embedding.Job` has it.

        Raises:
            InputError: the encoder has no such layer.
        """
        selector = self._selector(layer)
        encode = _make_encode(self.module, self.head if selector else None, selector, how=how)
        tree = {"encoder": self.variables, "head": self.head_variables if selector else {}}
        mesh = sharding.make_local_mesh()
        return lambda images, sizes: encode(tree, sharding.put_rows(mesh, images), sharding.put_rows(mesh, sizes))

    def encode_places(self, how: embedding.Preparation, batch_size: int) -> embedding.EncodeBatch:
        """As `encode_batch`, what the last group gives for every place of the first view: [B, g * g * D], line by line.

        Its mean over places is h.
        """
        encode = _make_encode_places(self.module, how=how)
        mesh = sharding.make_local_mesh()
        return lambda images, sizes: encode(
            self.variables, sharding.put_rows(mesh, images), sharding.put_rows(mesh, sizes)
        )

    def place_shape(self) -> tuple[int, int]:
        """(g, D): places along a side, and the width of each."""
        views = jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.float32)
        places = jax.eval_shape(functools.partial(_last_group, self.module), dict(self.variables), views)
        return places.shape[1], places.shape[3]

    def _selector(self, layer: str | int) -> int:
        """The activation that `layer` names: 0 for h."""
        num = self.head.num_layers if self.head else 0
        names = {"h": 0, **{str(number): number for number in range(1, num + 1)}, **({"z": num} if num else {})}
        if str(layer) not in names:
            head = f"a projection head of {num} layers" if num else "no whole projection head"
            raise base.InputError(
                f"layer must be one of {', '.join(names)}; got {base.one_line(layer, 40)!r}: {self.source} has {head}."
            )
        return names[str(layer)]


@functools.lru_cache(maxsize=8)
def _make_encode(
    module: nn.Module,
    head: heads.ProjectionHead | heads.LinearHead | None,
    selector: int,
    *,
    how: embedding.Preparation,
) -> Any:
    """One compiled function for all calls of an encoder: (variables, images, sizes) -> the mean of its views' h."""
    mesh = sharding.make_local_mesh()
    view_rows = _make_view_rows(how)

    def encode(trees: base.PyTree, images: base.Array, sizes: base.Array) -> base.Array:
        views = view_rows(images, sizes)
        h = module.apply(trees["encoder"], views.reshape(-1, *views.shape[2:]), train=False)
        if head is not None:
            h = heads.select(head.apply(trees["head"], h, train=False), selector)  # type: ignore[arg-type]
        return jnp.mean(jnp.reshape(h, (*views.shape[:2], -1)), axis=1)  # type: ignore[arg-type]

    return jax.jit(encode, out_shardings=sharding.replicated(mesh))


def _make_view_rows(how: embedding.Preparation) -> Any:
    """(images, sizes) -> the views [B, V, h, w, 3], row by row over the devices."""
    if how.is_pillow:

        def make_views(images: base.Array, sizes: base.Array) -> base.Array:
            return images.astype(jnp.float32) / 255

    else:
        make_views = augment.make_eval_views(image_size=how.size, resize=how.resize, num_views=how.num_views)
    return sharding.map_rows(make_views, sharding.make_local_mesh(), row_args=(True, True))


@functools.lru_cache(maxsize=2)
def _make_encode_places(module: nn.Module, *, how: embedding.Preparation) -> Any:
    mesh = sharding.make_local_mesh()
    view_rows = _make_view_rows(how)

    def encode(tree: base.PyTree, images: base.Array, sizes: base.Array) -> base.Array:
        places = _last_group(module, tree, view_rows(images, sizes)[:, 0])
        return places.reshape(len(places), -1).astype(jnp.float32)

    return jax.jit(encode, out_shardings=sharding.replicated(mesh))


def _last_group(module: nn.Module, tree: Mapping[str, Any], views: base.Array) -> base.Array:
    """What the last layer in front of the mean over places gives, [N, g, g, D]."""
    name = getattr(module, "last_map", "")
    if not name:
        raise base.InputError(
            f"Features of places need an encoder whose h is the mean over places, a ResNet or an EfficientNet; got a "
            f"{type(module).__name__}. Use another run."
        )
    _, state = module.apply(
        tree, views, train=False, mutable=["intermediates"], capture_intermediates=lambda part, _: part.name == name
    )
    return state["intermediates"][name]["__call__"][0]


def rounded(batch_size: int) -> int:
    """A batch size, rounded up so that every device has as many rows."""
    devices = sharding.make_local_mesh().size
    return -(-batch_size // devices) * devices


def _data_name(images: str | os.PathLike[str]) -> str:
    """The name of a data set, or an absolute path."""
    text = os.fspath(images)
    kind, _, rest = text.partition(":")
    if kind == "mix":
        return paths.data_name(text, None, flag="images") or text
    if kind in data.DATASETS and kind != "folder":
        return text
    return paths.absolute(rest if kind == "folder" else text, flag="images")


def _check_effects(how: embedding.Preparation, name: str, *, canvas_size: int | None, data_dir: str | None) -> None:
    """Raises InputError for what would be ignored."""
    if how.is_pillow and canvas_size is not None:
        raise base.InputError(
            f"canvas_size is for the resizing tf2 and tf1, Pillow's takes pictures whole; got {canvas_size} with "
            f"{how.resize}. Leave it out."
        )
    if data_dir is not None and name.partition(":")[0] not in _WITH_DATA_DIR:
        got = imageset.printable(name)
        raise base.InputError(f"data_dir is for data sets on a disk, such as tfds:NAME; images is {got}. Leave it out.")


def _digest_of(tree: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(dict(tree)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _as_bytes(image: np.ndarray) -> np.ndarray:
    """Pixels as Pillow takes them; others than floats are left as they are, to be refused."""
    image = np.asarray(image)
    return np.rint(image * 255).astype(np.uint8) if np.issubdtype(image.dtype, np.floating) else image


def _checked_array(images: np.ndarray) -> np.ndarray:
    pixels.check_images(images)  # type: ignore[arg-type]
    return images


def _checked_list(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(image) for image in images]
    wrong = [list(array.shape) for array in arrays if array.ndim != 3 or array.shape[-1] != 3]
    kinds = sorted({str(array.dtype) for array in arrays})
    if wrong or len(kinds) > 1:
        got = f"one of shape {wrong[0]}" if wrong else f"the types {', '.join(kinds)}"
        raise base.InputError(f"a list of images must hold arrays [H, W, 3] of one type; got {got}. Convert them.")
    return arrays
