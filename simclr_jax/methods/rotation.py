"""Rotation: by how many quarter turns was the image turned?"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import network, parts
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree

NUM_TURNS = 4


def make_rotation(encoder: nn.Module, *, proj_hidden_dim: int = 0, dtype: str = "float32") -> base.Method:
    """RotNet as a Method; `embed` returns {"logits"}, float [B, 4, 4]: of an image all four turns, four answers each.

    An image is shown upright and turned by 90, 180 and 270 degrees, and a classifier says which it is,

        L = -1/4 sum over turns r of log softmax(g(f(turn_r(x))))_r,

    which asks for what is up in an object: eyes above mouths, sky above grass. Things that look the same from all sides
    teach it nothing, and a photograph's habits (light from above, blurred backgrounds below) tell it much.

    params are {"encoder", "task_head"}. Metrics: "task_accuracy". Exact in chunks. One view an image is used. Equal
    embeddings give ln 4.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of a hidden layer with BatchNorm and ReLU in front of the classifier; 0 for none.
        dtype: type of the head's activations.

    Raises:
        InputError: a value is out of range.

    Reference: Gidaris et al. 2018 (arXiv 1803.07728), equations 2 and 3. Deliberate differences: their network in
    network is any encoder here, and its head one linear layer; they evaluate a middle layer, the second of four blocks,
    which is where their features are best, here as for all methods the encoder's output is evaluated.

    Example:
        >>> method = methods.make_rotation(models.make_encoder("resnet18", stem="cifar"))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'task_head']
    """
    hidden = (proj_hidden_dim,) if proj_hidden_dim else ()
    net = network.make_stack(encoder, {"task_head": heads.make_mlp((*hidden, NUM_TURNS), out_bias=True, dtype=dtype)})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, _ = net.init(key, views)
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        if views.shape[2] != views.shape[3]:
            raise base.InputError(
                f"views must be square to be turned; got {views.shape[2]} x {views.shape[3]} pixels. Crop them."
            )
        turned = jnp.stack([jnp.rot90(views[:, 0], turns, axes=(1, 2)) for turns in range(NUM_TURNS)], axis=1)
        trees = params, method_state["batch_stats"]
        (_, logits), batch_stats = network.apply_to_views(net, trees, turned, bn_per="batch")
        return {"logits": logits}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        logits = outputs["logits"]
        turns = jnp.broadcast_to(jnp.arange(NUM_TURNS, dtype=jnp.int32), logits.shape[:2])
        value, metrics = parts.solve(logits, turns)
        return value, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=1)


def uninformed_loss(**other: object) -> float:
    """ln 4."""
    del other
    return math.log(NUM_TURNS)
