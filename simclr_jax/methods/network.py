"""The networks that methods share: an encoder with the layers of the projection head in use, or with a stack of MLPs.

params and batch_stats are {"encoder", "projection_head", ...}; a head without variables is {}. params may hold more.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import heads, norms

Array = jax.Array
PyTree = base.PyTree
Activations = tuple[Any, ...]


class Network(NamedTuple):
    """An encoder with a projection head, as two pure functions.

    init: (key, views) -> (params, batch_stats, shapes of the activations); of the views [B, V, h, w, 3] (of several
        sizes: the first) only the shape is read.
    apply: (params, batch_stats, images [N, h, w, 3], train) -> (activations, batch_stats). `activations` are h [N, D],
        the output of layer 1, ..., up to the last layer in use. With `train` the batch's own BatchNorm statistics are
        used and the moving averages move on.
    """

    init: Callable[[Array, Any], tuple[PyTree, PyTree, Activations]]
    apply: Callable[[PyTree, PyTree, Array, bool], tuple[Activations, PyTree]]


def num_layers_before(head: heads.ProjectionHead, selector: int) -> int:
    """How many layers of `head` the activation `selector` needs: 0 for h, head.num_layers for z.

    Raises:
        InputError: `selector` counts beyond the head's layers.
    """
    positions: Any = range(head.num_layers + 1)
    return int(heads.select(positions, selector))


def make_network(encoder: nn.Module, head: heads.ProjectionHead, *, num_layers: int) -> Network:
    """`encoder` and the first `num_layers` layers of `head`; later layers have no variables.

    The head normalises as the encoder does, whatever it was made with.
    """
    head = heads.with_norm_of(head, encoder)
    used = {f"{kind}{layer}" for layer in range(1, num_layers + 1) for kind in ("dense", "bn")}

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree, Activations]:
        encoder_key, head_key = jax.random.split(key)
        images = jax.ShapeDtypeStruct((2, *views.shape[2:]), views.dtype)
        h = _shape_of_h(encoder, encoder_key, images)
        activations, _ = jax.eval_shape(lambda x: head.init_with_output(head_key, x, train=False), h)
        # Only the initialisers run, one compilation per shape of a parameter; the network itself is never computed.
        # A head without layers has no variables at all.
        of_encoder = encoder.lazy_init(encoder_key, images, train=False)
        of_head = head.lazy_init(head_key, h, train=False) if used else {}
        params, batch_stats = (
            {"encoder": of_encoder.get(kind, {}), "projection_head": _only(used, of_head.get(kind, {}))}
            for kind in ("params", "batch_stats")
        )
        return params, batch_stats, activations[: num_layers + 1]

    def apply(params: PyTree, batch_stats: PyTree, images: Array, train: bool) -> tuple[Activations, PyTree]:
        # Trees that come from a file have no entry for a head without variables.
        variables = {
            name: {"params": params.get(name, {}), "batch_stats": batch_stats.get(name, {})}
            for name in ("encoder", "projection_head")
        }
        h, encoder_update = encoder.apply(variables["encoder"], images, train=train, mutable=["batch_stats"])
        whole = _with_unused_layers(head, h, variables["projection_head"])
        activations, head_update = head.apply(whole, h, train=train, mutable=["batch_stats"])
        new = {
            "encoder": encoder_update.get("batch_stats", {}),
            "projection_head": _only(
                set(variables["projection_head"]["batch_stats"]), head_update.get("batch_stats", {})
            ),
        }
        return activations[: num_layers + 1], new

    return Network(init, apply)


def make_stack(encoder: nn.Module, stack: Mapping[str, heads.MLP]) -> Network:
    """`encoder` and MLPs on top of each other, in the order and under the names of `stack`.

    The activations are (h, output of the first MLP, ...). The MLPs normalise as the encoder does. A part of the stack
    runs on the trees of the whole, which serves a target network that has no predictor.
    """
    stack = {name: heads.with_norm_of(head, encoder) for name, head in stack.items()}

    def init(key: Array, views: Any) -> tuple[PyTree, PyTree, Activations]:
        encoder_key, head_key = jax.random.split(key)
        shape = jax.tree.leaves(views)[0].shape
        x: Any = jax.ShapeDtypeStruct((2, *shape[2:]), jax.tree.leaves(views)[0].dtype)
        # As in `make_network`, only the initialisers run.
        variables = {"encoder": encoder.lazy_init(encoder_key, x, train=False)}
        activations = [_shape_of_h(encoder, encoder_key, x)]
        for number, (name, head) in enumerate(stack.items()):
            own_key = jax.random.fold_in(head_key, number)
            variables[name] = head.lazy_init(own_key, activations[-1], train=False)
            x, _ = jax.eval_shape(lambda x, h=head, k=own_key: h.init_with_output(k, x, train=False), activations[-1])
            activations.append(x)
        params, batch_stats = (
            {name: of_module.get(kind, {}) for name, of_module in variables.items()}
            for kind in ("params", "batch_stats")
        )
        return params, batch_stats, tuple(activations)

    def apply(params: PyTree, batch_stats: PyTree, images: Array, train: bool) -> tuple[Activations, PyTree]:
        activations, new = [images], dict[str, Any]()
        for name, module in {"encoder": encoder, **stack}.items():
            trees = params.get(name, {}), batch_stats.get(name, {})
            x, new[name] = apply_part(module, trees, activations[-1], train=train)
            activations.append(x)
        return tuple(activations[1:]), {**batch_stats, **new}

    return Network(init, apply)


def apply_part(module: nn.Module, trees: tuple[PyTree, PyTree], x: Array, *, train: bool) -> tuple[Any, PyTree]:
    """(output, batch_stats) of one module of a network, with its own (params, batch_stats)."""
    variables = dict(zip(("params", "batch_stats"), trees, strict=True))
    y, updates = module.apply(variables, x, train=train, mutable=["batch_stats"])
    return y, updates.get("batch_stats", {})


def with_bn_groups(encoder: nn.Module, num_groups: int, grouping: str) -> nn.Module:
    """`encoder` with BatchNorm in groups of rows, see `layers.BatchNorm`; with 1 group, as it is.

    Raises:
        InputError: num_groups is below 1, or the encoder has no field `norm` of this package.
    """
    norm = getattr(encoder, "norm", None)
    if num_groups < 1 or (num_groups > 1 and not isinstance(norm, norms.Norm)):
        raise base.InputError(
            f"bn_splits must be at least 1, and 1 for an encoder that is not of this package; got {num_groups}."
        )
    if num_groups == 1 or not isinstance(norm, norms.Norm):
        return encoder
    return encoder.clone(norm=norm._replace(num_groups=num_groups, grouping=grouping))


BN_PER = ("view", "batch")


def check_bn_per(bn_per: str) -> None:
    """Raises InputError unless `bn_per` is one of BN_PER."""
    base.check_choice(bn_per, BN_PER, name="bn_per", remedy="Use view.")


def apply_to_views(
    net: Network, trees: tuple[PyTree, PyTree], views: Array, *, bn_per: str
) -> tuple[Activations, PyTree]:
    """The network of (params, batch_stats) in training on views [B, V, h, w, 3]: activations [B, V, ...], statistics.

    Args:
        bn_per: over what BatchNorm takes its statistics. "view": one pass a view, view 1 first, each with the
            statistics of its own B images, so that the moving averages move V times. "batch": one pass of all B V views
            together.
    """
    check_bn_per(bn_per)
    params, batch_stats = trees
    if bn_per == "batch":
        # Merging the axes keeps an image's views neighbours, hence on its device; view-major rows would move them all.
        activations, batch_stats = net.apply(params, batch_stats, views.reshape(-1, *views.shape[2:]), True)
        return jax.tree.map(lambda x: x.reshape(*views.shape[:2], *x.shape[1:]), activations), batch_stats
    by_view = []
    for view in range(views.shape[1]):
        activations, batch_stats = net.apply(params, batch_stats, views[:, view], True)
        by_view.append(activations)
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *by_view), batch_stats


def apply_to_crops(
    modules: tuple[nn.Module, heads.MLP], trees: tuple[PyTree, PyTree], groups: Sequence[Array]
) -> tuple[Array, PyTree]:
    """Encoder and projection head in training on crops of several sizes: z [B, V, d] of all of them, statistics.

    `groups` are arrays [B, V_i, h_i, w_i, 3], one a size. Crops of one size pass the encoder together, in the order of
    the groups, so that its moving averages move once a group; all crops pass the head together.
    """
    (encoder, head), (params, batch_stats) = modules, trees
    head, batch_stats, parts = heads.with_norm_of(head, encoder), dict(batch_stats), []
    for crops in groups:
        own = params["encoder"], batch_stats["encoder"]
        images = crops.reshape(-1, *crops.shape[2:])
        h, batch_stats["encoder"] = apply_part(encoder, own, images, train=True)
        parts.append(h.reshape(*crops.shape[:2], -1))
    h = jnp.concatenate(parts, axis=1)
    own = params["projection_head"], batch_stats["projection_head"]
    z, batch_stats["projection_head"] = apply_part(head, own, h.reshape(-1, h.shape[-1]), train=True)
    return z.reshape(*h.shape[:2], -1), batch_stats


def _shape_of_h(encoder: nn.Module, key: Array, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Raises InputError for a module that does not do what this package asks of an encoder."""
    parameters = inspect.signature(type(encoder).__call__).parameters
    if "train" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        raise base.InputError(
            "An encoder is called as encoder(images, train=True or False); "
            f"{type(encoder).__name__}.__call__ has no argument train. Add one, used or not."
        )
    h, _ = jax.eval_shape(lambda x: encoder.init_with_output(key, x, train=False), images)
    if getattr(h, "ndim", None) != 2:
        shapes = jax.tree.map(lambda leaf: list(leaf.shape), h)
        raise base.InputError(
            f"An encoder must return one vector an image, [N, D]; {type(encoder).__name__} returns {shapes} for "
            f"images {list(images.shape)}. Take the mean over the pixels, and leave out a classifier."
        )
    return h


def _only(names: set[str], tree: PyTree) -> PyTree:
    return {name: branch for name, branch in tree.items() if name in names}


def _with_unused_layers(head: heads.ProjectionHead, h: Array, variables: PyTree) -> PyTree:
    """`variables` with zeros for the layers that have none: nobody reads their output, so XLA leaves them out."""
    if len(variables["params"]) == 2 * head.num_layers:
        return variables
    shapes = jax.eval_shape(lambda key, h: head.init(key, h, train=False), jax.random.key(0), h)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # GroupNorm has no batch_stats.
    return {kind: {**zeros.get(kind, {}), **variables[kind]} for kind in variables}
