"""CLIP: a picture and what is written about it are two views of one thing.

SimCLR compares two crops of a picture, and has to decide by augmentation what does not matter. A caption decides by
itself: it names what people find worth naming. So one network reads pictures, another one texts, each with a linear
projection, and NT-Xent becomes a choice across the two: find the text of picture i among all texts of the batch, and
the picture of text i among all pictures,
    L = [CE(S) + CE(S^T)] / 2,  S_ij = exp(s) cos(image_i, text_j).
The scale exp(s), 1 / temperature, is learnt; it starts at 1 / 0.07 and is kept from exceeding 100, where the loss would
begin to be about single mistakes. SigLIP asks of every pair by itself whether it belongs together, which needs no sum
over the batch and a bias, as nearly all pairs do not. Equal embeddings have ln B, and ln B + (B - 1) ln(B / (B - 1)) at
best.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses, models
from simclr_jax.methods import network
from simclr_jax.models import heads, text

Array = jax.Array
PyTree = base.PyTree

OBJECTIVES = ("clip", "siglip")
LOSS_FORMS = ("auto", "dense", "blockwise", "ring")
# What of the parameters belongs to texts; a run that starts from pictures alone begins with new ones.
OF_TEXTS = ("image_projection", "text_encoder", "text_projection", "logits", "captioner", "matching")


def make_clip(
    encoder: nn.Module,
    *,
    vocab_size: int = 49408,
    text_length: int = 77,
    text_width: int = 512,
    text_num_layers: int = 12,
    text_num_heads: int = 8,
    text_attention: str = "causal",
    text_activation: str = "gelu",
    proj_out_dim: int = 512,
    objective: str = "clip",
    loss_form: str = "auto",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> base.Method:
    """CLIP as a Method; `embed` returns {"image" [B, V, d], "text" [B, d], "log_scale" [B], "bias" [B]}.

    Texts are batch["text"], int32 [B, L]. The usual number of views is 1; of several, each is compared with the text,
    and the loss is their mean. params are {"encoder", "image_projection", "text_encoder", "text_projection", "logits":
    {"log_scale", for SigLIP "bias"}}, method_state is {"batch_stats": {"encoder"}}. Projections have no bias.
    Metrics: "image_to_text_accuracy", "text_to_image_accuracy", "logit_scale". Exact in chunks.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        vocab_size, text_length: of the tokens; the run's tokenizer decides.
        text_width, text_num_layers, text_num_heads, text_attention, text_activation: see `models.make_text_tower`.
        proj_out_dim: d.
        objective: "clip" or "siglip".
        loss_form: always exact. "dense" holds all similarities; "blockwise" a tile of them, and on several devices
            gathers the projections once; "ring" hands them round instead. "auto" is dense up to 1024 pairs on one
            device, else blockwise, and the ring where gathered projections would take more than 64 MiB.
        dtype: type of the text tower's activations.
        mesh: the devices that split the batch; None for one device.

    Raises:
        InputError: a number is out of range or a choice unknown.

    Reference: Radford et al. 2021 (arXiv 2103.00020), figure 3 and section 2.5; ClipLoss and train_one_epoch of
    open_clip, which clamps the log scale to [0, ln 100] after every update. Zhai et al. 2023 (arXiv 2303.15343) for
    SigLIP, without a clamp. Zhai et al. 2022 (arXiv 2111.07991): with `train.freeze_encoder` it is their LiT.

    Example:
        >>> sizes = {"vocab_size": 100, "text_length": 8, "text_width": 16, "text_num_layers": 1, "text_num_heads": 2}
        >>> method = methods.make_clip(models.make_encoder("resnet18", stem="cifar"), **sizes)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'image_projection', 'logits', 'text_encoder', 'text_projection']
    """
    base.check_choice(objective, OBJECTIVES, name="objective")
    base.check_choice(loss_form, LOSS_FORMS, name="loss_form")
    tower = models.make_text_tower(
        vocab_size=vocab_size,
        length=text_length,
        width=text_width,
        num_layers=text_num_layers,
        num_heads=text_num_heads,
        attention=text_attention,
        activation=text_activation,
        dtype=dtype,
    )
    heads.make_mlp((proj_out_dim,))  # checks the width
    towers = make_towers(encoder, tower, proj_out_dim=proj_out_dim, objective=objective)

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        h, batch_stats = towers.encode(params, method_state["batch_stats"], views)
        of_text: Any = tower.apply({"params": params["text_encoder"]}, batch["text"])
        return outputs_of(params, h, of_text), {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        numbers = {name: outputs[name][0] for name in _starts(objective)}
        find = functools.partial(_form(objective, loss_form, mesh, outputs["text"].shape), **numbers)
        views = range(outputs["image"].shape[1])
        found = [find(outputs["image"][:, view], outputs["text"]) for view in views]
        value, metrics = jax.tree.map(lambda *x: sum(x) / len(views), *found)
        return value, (method_state, {**metrics, "logit_scale": jnp.exp(numbers["log_scale"])})

    def update(params: PyTree, method_state: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        del step
        if objective == "siglip":
            return params, method_state
        log_scale = losses.clamp_log_scale(params["logits"]["log_scale"])
        return {**params, "logits": {"log_scale": log_scale}}, method_state

    return base.Method(init=towers.init, embed=embed, loss=loss, update=update, needs=("text",))


class Towers(NamedTuple):
    """Both networks. init: as of a Method. encode: (params, batch_stats, views) -> (h [B, V, D], batch_stats)."""

    init: base.Init
    encode: Callable[[PyTree, PyTree, Array], tuple[Array, PyTree]]


def make_towers(encoder: nn.Module, tower: text.TextTower, *, proj_out_dim: int, objective: str) -> Towers:
    """What CLIP and the methods on top of it have in common; see `make_clip`."""
    images_only = network.make_stack(encoder, {})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, (h,) = images_only.init(key, views)
        keys = (jax.random.fold_in(key, number) for number in (2, 3, 4))
        tokens = jax.ShapeDtypeStruct((2, tower.length), jnp.int32)
        params["text_encoder"] = tower.lazy_init(next(keys), tokens)["params"]
        for name, width in (("image_projection", h.shape[1]), ("text_projection", tower.width)):
            kernel = width**-0.5 * jax.random.normal(next(keys), (width, proj_out_dim), h.dtype)
            params[name] = {"kernel": kernel}
        params["logits"] = {name: jnp.asarray(value, h.dtype) for name, value in _starts(objective).items()}
        return params, {"batch_stats": batch_stats}

    def encode(params: PyTree, batch_stats: PyTree, views: Array) -> tuple[Array, PyTree]:
        (h,), batch_stats = network.apply_to_views(images_only, (params, batch_stats), views, bn_per="batch")
        return h, batch_stats

    return Towers(init, encode)


def outputs_of(params: PyTree, h: Array, of_text: Array) -> dict[str, Array]:
    """What the loss of CLIP reads, of representations [B, V, D] and texts [B, W]."""
    return {
        "image": project(h, params["image_projection"]),
        "text": project(of_text, params["text_projection"]),
        # The loss sees no parameters: a row of outputs carries them.
        **{name: jnp.broadcast_to(value, len(h)) for name, value in params["logits"].items()},
    }


def project(h: Array, tree: PyTree) -> Array:
    """The projections [..., d] of h [..., D] by a head {"kernel"}, or {"kernel", "bias"} as CLIP's ResNets have it."""
    z = jnp.matmul(h, tree["kernel"], precision=jax.lax.Precision.HIGHEST)
    return z + tree["bias"] if "bias" in tree else z


def uninformed_loss(*, batch_size: int, objective: str = "clip", **other: object) -> float:
    """ln B; of SigLIP the least that equal embeddings can have, for settings of `make_clip`."""
    del other
    rest = (batch_size - 1) * math.log(batch_size / (batch_size - 1)) if objective == "siglip" else 0.0
    return math.log(batch_size) + rest


def _starts(objective: str) -> dict[str, float]:
    """What the logits have besides cosines, as it starts."""
    if objective == "clip":
        return {"log_scale": losses.CLIP_INITIAL_LOG_SCALE}
    return {"log_scale": losses.SIGLIP_INITIAL_LOG_SCALE, "bias": losses.SIGLIP_INITIAL_BIAS}


def _form(objective: str, form: str, mesh: jax.sharding.Mesh | None, shape: tuple[int, ...]) -> Callable[..., Any]:
    """(image, text, **numbers) -> (loss, metrics) in the form that `make_clip` documents, for rows of this shape."""
    forms: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "clip": (losses.clip, losses.clip_blockwise),
        "siglip": (losses.siglip, losses.siglip_blockwise),
    }
    dense, tiled = forms[objective]
    several = mesh is not None and mesh.size > 1
    if form == "dense" or (form == "auto" and not several and shape[0] <= 1024):
        return dense
    # A tile should fill the device and not leave its cache: 1 MB on a CPU, 16 MB elsewhere.
    block_size = 512 if mesh is None or base.platform(mesh) == "cpu" else 2048
    ring = form == "ring" or (form == "auto" and 4 * math.prod(shape) > 2**26)
    return functools.partial(tiled, block_size=block_size, mesh=mesh, exchange="ring" if ring else "gather")
