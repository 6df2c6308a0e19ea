"""LARS and its companions with SimCLR's exclusions, as Optax transformations."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax import base
from simclr_jax.optim import masks, norms, schedule

PyTree = base.PyTree


def _scale_by_trust_ratio(mask: masks.Mask, coefficient: float = 1e-3) -> optax.GradientTransformation:
    """Multiplies the updates of adapted kernels by coefficient |W| / |update|, or by 1 where a norm is 0.

    `optax.scale_by_trust_ratio`, which reads every array twice more to have a gradient at 0 that nobody takes here; on
    an accelerator its two hundred norms take as many kernels again.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(updates)
        if not leaves:
            return updates, state
        of_updates, of_params = (jnp.sqrt(norms.sums_of_squares(tree)) for tree in (leaves, jax.tree.leaves(params)))
        usable = (of_updates > 0) & (of_params > 0)
        ratios = jnp.where(usable, coefficient * of_params / jnp.where(usable, of_updates, 1.0), 1.0)
        scaled = [leaf * ratios[i].astype(leaf.dtype) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, scaled), state

    adapt = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.masked(adapt, mask=mask)


RATE_PLACES = ("inside", "outside")


def make_lars(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    rate_place: str = "inside",
    vector_rate_factor: float = 1.0,
    decay_mask: masks.Mask = masks.weight_mask,
    adapt_mask: masks.Mask = masks.adapted_mask,
) -> optax.GradientTransformation:
    """LARS, the optimizer of SimCLR's large batches: every layer's step is in proportion to the layer's weights.

    Weights are decayed and get the trust ratio 0.001 |W| / |g + wd W|, or 1 where a norm is 0. Parameters of
    normalisations and biases get neither, only momentum and the full learning rate.

    Args:
        learning_rate: a number, or a function of the number of updates made (see `make_schedule`).
        weight_decay: coefficient wd of the decay, at least 0; 1e-6 for ImageNet, 1e-4 for CIFAR-10.
        momentum: share of the old velocity that is kept, in [0, 1).
        nesterov: look-ahead momentum.
        rate_place: "inside": the velocity takes in learning rate times gradient, as in SimCLR's code. "outside": the
            learning rate multiplies the velocity, as in the codes of BYOL, MoCo v3, Barlow Twins and VICReg. They
            differ while the rate changes.
        vector_rate_factor: multiplies the rate of what is no weight (biases and normalisations); 0.024 in Barlow Twins.
        decay_mask: which parameters are decayed, a tree of bools or a function from the parameters to one.
        adapt_mask: which parameters get the trust ratio, likewise.

    Raises:
        InputError: rate_place is neither.

    Reference: You et al. 2017; SimCLR section 2.2; lars_optimizer.py and build_optimizer in model.py of the code; for
    "outside" optimizers.py of deepmind-research byol, moco-v3 optimizer.py, LARS in main.py of barlowtwins and vicreg.
    Deliberate differences: the reference excludes by name ("batch_normalization", "bias"), here shapes tell, which is
    the same for its networks; it decays the supervised kernel by a term of the loss, here the optimizer does (same
    gradient, but the reported loss has no such term). Its option classic_momentum=False is `make_lars_popular`.

    Example:
        >>> from simclr_jax import optim
        >>> tx = optim.make_lars(0.3, weight_decay=1e-6)
        >>> state = tx.init({"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)})
    """
    base.check_choice(rate_place, RATE_PLACES, name="rate_place")
    last = optax.scale_by_learning_rate(learning_rate), optax.trace(momentum, nesterov=nesterov)
    links = [
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        _scale_by_trust_ratio(adapt_mask),
        *(last if rate_place == "inside" else reversed(last)),
    ]
    if vector_rate_factor != 1:
        links.append(optax.masked(optax.scale(vector_rate_factor), mask=masks.not_weight))
    return optax.chain(*links)


def make_larc(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """LARC, the layer-wise rates of SwAV: every parameter is decayed and adapted, biases and normalisations included.

    g becomes 0.001 |W| / (|g| + wd |W| + 1e-8) (g + wd W), with the norm of g before its decay; where a norm is 0 it
    stays g, without decay. Momentum follows, and the learning rate multiplies the velocity. Arguments as in
    `make_lars`.

    A bias in front of BatchNorm has a gradient that is 0 but for rounding, which this rule blows up to a full step:
    leave such biases out of the network.

    Reference: apex.parallel.LARC with clip=False around torch's SGD, as in swav main_swav.py.

    Example:
        >>> tx = optim.make_larc(0.6, weight_decay=1e-6)
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, structure = jax.tree.flatten(updates)
        if not gradients:
            return updates, state
        weights = jax.tree.leaves(params)
        of_gradients, of_weights = (jnp.sqrt(norms.sums_of_squares(tree)) for tree in (gradients, weights))
        usable = (of_gradients > 0) & (of_weights > 0)
        ratios = 1e-3 * of_weights / (of_gradients + weight_decay * of_weights + 1e-8)
        adapted = [
            jnp.where(usable[i], ratios[i].astype(g.dtype) * (g + weight_decay * w), g)
            for i, (g, w) in enumerate(zip(gradients, weights, strict=True))
        ]
        return jax.tree.unflatten(structure, adapted), state

    return optax.chain(
        optax.GradientTransformation(lambda params: optax.EmptyState(), update),
        optax.trace(momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def make_lars_popular(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay_mask: masks.Mask = masks.weight_mask,
    adapt_mask: masks.Mask = masks.adapted_mask,
) -> optax.GradientTransformation:
    """LARS with trust ratio and learning rate applied after the momentum: lr 0.001 |W| / |v| v for a velocity v.

    A changed learning rate acts at once on the whole velocity. Arguments are those of `make_lars`.

    Reference: lars_optimizer.py of the code with classic_momentum=False, which none of its recipes uses. Deliberate
    difference: the decay of the supervised kernel, see `make_lars`.

    Example:
        >>> tx = optim.make_lars_popular(0.3, weight_decay=1e-6)
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.trace(momentum, nesterov=nesterov),
        _scale_by_trust_ratio(adapt_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def make_sgd(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay_mask: masks.Mask | None = masks.not_normalization,
) -> optax.GradientTransformation:
    """Momentum SGD with L2 decay in the gradient of everything but normalisations' parameters (biases included).

    Args:
        learning_rate: a number, or a function of the number of updates made.
        weight_decay: coefficient of the decay, at least 0.
        momentum: share of the old velocity that is kept, in [0, 1).
        nesterov: look-ahead momentum.
        decay_mask: which parameters are decayed, a tree of bools or a function from the parameters to one; None for
            all, which is torch's SGD.

    Reference: add_weight_decay and MomentumOptimizer in model.py (TF1) of the code, which sets nesterov=True.
    Deliberate differences: the decay is added to the gradient, not to the loss; the learning rate stays outside the
    velocity, as in TF1 (for TF2 see `make_sgd_keras`).

    Example:
        >>> tx = optim.make_sgd(0.1, weight_decay=1e-4, nesterov=True)
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
    )


def make_sgd_keras(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay_mask: masks.Mask = masks.not_normalization,
) -> optax.GradientTransformation:
    """`make_sgd` with the learning rate inside the velocity, which differs from it while the rate changes.

    Reference: add_weight_decay and the Keras SGD in build_optimizer of tf2/model.py, which sets nesterov=True.
    Deliberate difference: the decay is added to the gradient, not to the loss.

    Example:
        >>> tx = optim.make_sgd_keras(0.1, weight_decay=1e-4, nesterov=True)
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum, nesterov=nesterov),
    )


def make_adamw(
    learning_rate: base.Schedule | float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    nesterov: bool = False,
    decay_mask: masks.Mask = masks.weight_mask,
) -> optax.GradientTransformation:
    """Adam with decoupled decay on weights only, for small batches and transformers.

    Args:
        learning_rate: a number, or a function of the number of updates made.
        weight_decay: coefficient of the decay, at least 0; each update takes off learning_rate * weight_decay * W.
        momentum: Adam's b1, in [0, 1).
        b2: share of the old mean of squares that is kept, in [0, 1); 0.98 in CLIP.
        eps: added to the root of that mean, above 0; 1e-6 in CLIP.
        nesterov: NAdam's look-ahead.
        decay_mask: which parameters are decayed, a tree of bools or a function from the parameters to one.

    Reference: Loshchilov and Hutter 2019. Deliberate difference: the reference code has Adam with an L2 term in the
    loss, which Adam's scaling would weaken.

    Example:
        >>> tx = optim.make_adamw(1e-3, weight_decay=1e-4)
    """
    adamw = optax.adamw(
        learning_rate, b1=momentum, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask, nesterov=nesterov
    )

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        # Optax raises a float to the power of the integer step, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return adamw.update(updates, state, params)

    return optax.GradientTransformation(adamw.init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "lars": make_lars,
    "larc": make_larc,
    "lars_popular": make_lars_popular,
    "sgd": make_sgd,
    "sgd_keras": make_sgd_keras,
    "adamw": make_adamw,
}


DECAYED = ("usual", "all")
# What single optimizers have beside the settings of all: whose it is, and the value that others must leave it at.
_OWN_SETTINGS = {
    "rate_place": ("lars", "inside"),
    "vector_rate_factor": ("lars", 1.0),
    "b2": ("adamw", 0.999),
    "eps": ("adamw", 1e-8),
}


def make_optimizer(
    name: str = "lars",
    *,
    learning_rate: base.Schedule | float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    rate_place: str = "inside",
    vector_rate_factor: float = 1.0,
    b2: float = 0.999,
    eps: float = 1e-8,
    decayed: str = "usual",
    constant_rate_for: str = "",
) -> optax.GradientTransformation:
    """The optimizer `name` of OPTIMIZERS; see the functions named there.

    Args:
        name: "lars", "larc" or "sgd", their variants "lars_popular" or "sgd_keras", or "adamw".
        learning_rate: by number of updates made, or a constant.
        weight_decay: coefficient of the decay; which parameters it reaches depends on the optimizer.
        momentum: share of the old velocity that is kept; Adam's b1.
        nesterov: look-ahead momentum.
        rate_place, vector_rate_factor: of "lars", see `make_lars`.
        b2, eps: of "adamw", see `make_adamw`.
        decayed: "usual": the parameters that the optimizer's own docstring names; "all": every one, biases and
            normalisations included.
        constant_rate_for: a module of the method, such as "predictor" for SimSiam, whose rate stays that of the first
            update; "" for none. Needs a schedule without warm-up.

    Raises:
        InputError: unknown name or choice, negative weight_decay, momentum or b2 outside [0, 1), eps not above 0,
            or a setting that the optimizer does not have.

    Example:
        >>> tx = optim.make_optimizer("lars", learning_rate=0.3, weight_decay=1e-6)
    """
    base.check_choice(name, OPTIMIZERS, name="name")
    base.check_choice(decayed, DECAYED, name="decayed")
    schedule.check_range("weight_decay", weight_decay, low=0.0, remedy="1e-4, or 0.0 for none")
    schedule.check_range("momentum", momentum, low=0.0, high=1.0, remedy="0.9")
    schedule.check_range("vector_rate_factor", vector_rate_factor, low=0.0, remedy="1.0")
    schedule.check_range("b2", b2, low=0.0, high=1.0, remedy="0.999, or 0.98 as in CLIP")
    if not eps > 0:
        raise base.InputError(f"eps must be above 0; got {eps}. Use 1e-8, or 1e-6 as in CLIP.")
    settings: dict[str, Any] = {"weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
    own = {"rate_place": rate_place, "vector_rate_factor": vector_rate_factor, "b2": b2, "eps": eps}
    settings |= {key: value for key, value in own.items() if value != _OWN_SETTINGS[key][1]}
    settings |= {"decay_mask": None} if decayed == "all" and name != "larc" else {}
    refused = sorted(set(settings) - set(inspect.signature(OPTIMIZERS[name]).parameters))
    if refused:
        owner = _OWN_SETTINGS[refused[0]][0]
        raise base.InputError(
            f"{refused[0]} is a setting of the optimizer {owner}; got {name}. Leave it at its default."
        )
    if not constant_rate_for:
        return OPTIMIZERS[name](learning_rate, **settings)
    rates = {"scheduled": learning_rate, "constant": _first_rate(learning_rate)}
    labels = masks.labels_by_module({constant_rate_for: "constant"}, otherwise="scheduled")
    return optax.partition({label: OPTIMIZERS[name](rate, **settings) for label, rate in rates.items()}, labels)


def _first_rate(learning_rate: base.Schedule | float) -> base.Schedule | float:
    """The rate of the first update, at every update."""
    if not callable(learning_rate):
        return learning_rate
    return lambda step: learning_rate(jnp.zeros_like(step))
