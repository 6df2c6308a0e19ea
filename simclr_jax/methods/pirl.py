"""PIRL: an image and its shuffled tiles are both to find the image's own row in a memory of all training images."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import parts, tiles
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree

OBJECTIVES = ("nce", "cross_entropy")


def make_pirl(
    encoder: nn.Module,
    *,
    num_examples: int,
    objective: str = "nce",
    num_negatives: int = 32000,
    proj_out_dim: int = 128,
    temperature: float = 0.07,
    patches_weight: float = 0.5,
    memory_momentum: float = 0.5,
    tile_share: float = 0.85,
    dtype: str = "float32",
) -> base.Method:
    """PIRL as a Method; `embed` returns {"patches", "image": float [B, d], "rows": float [B, 1 + K]}.

    A jigsaw's answer changes with the order of the tiles, and so must a representation that gives it. PIRL asks for
    the opposite: view 2 is cut into 3 x 3 tiles, encoded one by one and put together in a random order, and what comes
    out is to be that of the image, view 1, whatever the order. To keep images apart, both are compared with a memory
    that has one unit vector m_i for every TRAINING image,

        L = w L(patches, m) + (1 - w) L(image, m),

    where L is the noise-contrastive estimation of finding the image's own row against K random ones, or a cross entropy
    over the 1 + K. After the loss m_i <- u(0.5 m_i + 0.5 u(image_i)).

    params are {"encoder", "projection_head", "patch_head", "joint_head"}; method_state has "batch_stats" and "memory":
    {"rows" [n, d], "partition", the constant Z of `losses.pirl_nce`, 0 until the first batch sets it}. Metrics:
    "patches_loss", "image_loss", "projection_spread" of the images. Exact in chunks: the memory is read and written
    once an update, with the whole batch. The scores read B K d numbers. Two views an image.

    Equal embeddings cost ln(1 + K) with "cross_entropy". With "nce" the loss rises at first: Z was fixed among rows
    that were random, and the rows that take their place are alike until the network has learnt to part them.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_examples: n, images of the training split, at most 2^24; `batch["index"]` tells which they are.
        objective: "nce" or "cross_entropy".
        num_negatives: K, drawn for every image with replacement; they may hit its own row.
        proj_out_dim: d.
        temperature: T.
        patches_weight: w.
        memory_momentum: of the memory, in [0, 1).
        tile_share: a tile's side as a share of its cell's.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range.

    Reference: Misra and van der Maaten 2020 (arXiv 1912.01991), equations 3 to 5 and section 3.2; the PIRL recipe of
    VISSL. Deliberate differences: view 2 has the crop of view 1's recipe, theirs is larger; tiles are not augmented
    each by itself; a random draw may repeat a row, as in VISSL.

    Example:
        >>> method = methods.make_pirl(models.make_encoder("resnet18", stem="cifar"), num_examples=50_000)
        >>> _, state = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 48, 48, 3)))
        >>> state["memory"]["rows"].shape
        (50000, 128)
    """
    _check(num_examples, num_negatives, objective=objective, memory_momentum=memory_momentum)
    base.check_number("temperature", temperature, "Use for example 0.07.")
    tiles.check_share(tile_share)
    head = heads.make_mlp((proj_out_dim,), out_bias=True, dtype=dtype)
    of_tiles = 9 * proj_out_dim
    shapes = {"projection_head": lambda width: (2, width), "patch_head": lambda width: (2, width)}
    shapes["joint_head"] = lambda width: (2, of_tiles)
    net = parts.make_parts(encoder, {name: parts.Part(head, shape) for name, shape in shapes.items()})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats = net.init(key, jax.ShapeDtypeStruct((2, *views.shape[2:]), views.dtype))
        rows = jax.random.normal(jax.random.fold_in(key, 99), (num_examples, proj_out_dim), views.dtype)
        memory = {"rows": losses.l2_normalize(rows), "partition": jnp.zeros((), views.dtype)}
        return params, {"batch_stats": batch_stats, "memory": memory}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        cut, order, drawn = (tiles.row_keys(k, batch) for k in jax.random.split(key, 3))
        shown = tiles.cut(cut, views[:, 1], num_side=3, tile_share=tile_share)
        of_image, batch_stats = net.encode((params, method_state["batch_stats"]), views[:, :1])
        image, batch_stats = net.run("projection_head", (params, batch_stats), of_image[:, 0])
        h, batch_stats = net.encode((params, batch_stats), shown)
        v, batch_stats = net.run("patch_head", (params, batch_stats), h.reshape(-1, h.shape[-1]))
        orders = jax.vmap(lambda k: jnp.argsort(jax.random.uniform(k, (9,))))(order)
        v = tiles.reorder(v.reshape(-1, 9, proj_out_dim), orders)
        patches, batch_stats = net.run("joint_head", (params, batch_stats), v.reshape(-1, of_tiles))
        noise = jax.vmap(lambda k: jax.random.randint(k, (num_negatives,), 0, num_examples))(drawn)
        rows = jnp.concatenate([batch["index"][:, None].astype(noise.dtype), noise], axis=1)
        # Floats, as all outputs: chunks differentiate them. Whole numbers up to 2^24 are exact.
        outputs = {"patches": patches, "image": image, "rows": rows.astype(image.dtype)}
        return outputs, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        patches, image, memory = outputs["patches"], outputs["image"], dict(method_state["memory"])
        known = {"memory": memory["rows"], "index": outputs["rows"].astype(jnp.int32), "temperature": temperature}
        if objective == "nce":
            first = losses.pirl_partition(patches, **known).astype(memory["partition"].dtype)
            memory["partition"] = jnp.where(memory["partition"] > 0, memory["partition"], first)
            weighed = {"partition": memory["partition"], "patches_weight": patches_weight}
            value, metrics = losses.pirl_nce(patches, image, **known, **weighed)
        else:
            value, metrics = losses.pirl_cross_entropy(patches, image, **known, patches_weight=patches_weight)
        metrics = {**metrics, "projection_spread": losses.projection_spread(image[:, None])}
        own = known["index"][:, 0]
        memory["rows"] = losses.pirl_remember(memory["rows"], image, own, momentum=memory_momentum)
        return value, ({**method_state, "memory": memory}, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=2, needs=("index",))


def _check(num_examples: int, num_negatives: int, *, objective: str, memory_momentum: float) -> None:
    base.check_choice(objective, OBJECTIVES, name="objective")
    if not 1 <= num_examples <= 2**24:
        raise base.InputError(
            f"num_examples must be 1 to {2**24} for a memory with a row an image; got {num_examples}. Use moco."
        )
    if num_negatives < 1:
        raise base.InputError(f"num_negatives must be at least 1; got {num_negatives}. Use 32000, or 4096 for CIFAR.")
    if not 0 <= memory_momentum < 1:
        raise base.InputError(f"memory_momentum must be at least 0 and below 1; got {memory_momentum}. Use 0.5.")


def uninformed_loss(*, objective: str = "nce", num_negatives: int = 32000, **other: object) -> float | None:
    """ln(1 + K), for settings of `make_pirl`; None for "nce", where the first batch decides."""
    del other
    return math.log(1 + num_negatives) if objective == "cross_entropy" else None
