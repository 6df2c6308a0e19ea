"""Rows of whole training steps: our step, method, optimizer and network on the reference's own views and weights.

The reference reports and differentiates a weight-decay term of the loss where our optimizers decay; `_decay_term` and
`_reference_gradient` restate which variables it covers.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parity_rows import table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import base, methods, models, optim, train_step
from tests import golden, oracles

GROUP = "Whole training steps"
# case -> words for the table
CASES = {
    "tiny_r18_b8": "R18 1/16, LARS",
    "tiny_r18_v1head_b8": "R18 1/16, LARS, v1 head",
    "tiny_r18_b4_large_lr": "R18 1/16, LARS, large rate",
    "tiny_r18_momentum_b8": "R18 1/16, Keras Nesterov",
    "r18_cifar_b4": "R18, LARS",
}
FULL_WIDTH = "r18_cifar_b4"
OPTIMIZERS = {"lars": ("lars", False), "momentum": ("sgd_keras", True)}
SMALLEST_NORM = 1e-9


class Step(NamedTuple):
    """What one training step did: metrics, and trees by canonical name."""

    metrics: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    params_before: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    velocity: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def _make_method(arrays: dict[str, np.ndarray], dtype: str) -> base.Method:
    width = float(arrays["config/width_multiplier"])
    return methods.METHODS["simclr"](
        models.make_encoder("resnet18", width_multiplier=width, stem="cifar", dtype=dtype),
        num_classes=int(arrays["num_classes"]),
        num_proj_layers=int(arrays["config/num_proj_layers"]),
        temperature=float(arrays["temperature"]),
        supervised_weight=float(arrays["config/online_linear_eval"]),
        dtype=dtype,
    )


def _load_views(key: jax.Array, source: Any, indices: jax.Array, positions: jax.Array) -> tuple[base.Batch, jax.Array]:
    """The stored views as a batch: [B, S, S, 6] -> [B, 2, S, S, 3]."""
    del key
    stacked, labels = source
    count = len(indices)
    batch = base.Batch(
        image=jnp.zeros((count, 1, 1, 3), jnp.uint8),
        size=jnp.ones((count, 2), jnp.int32),
        label=labels,
        index=indices,
        position=positions,
        mask=jnp.ones(count, bool),
    )
    return batch, jnp.stack(jnp.split(stacked, 2, axis=-1), axis=1)


def _recorder() -> optax.GradientTransformation:
    """Passes the gradient on and keeps it in the optimizer's state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda gradient, state, params=None: (gradient, gradient)
    )


def _start(method: base.Method, tx: optax.GradientTransformation, dtype: str) -> base.TrainState:
    """The state before the first step, with golden weights."""
    views = jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    trees = [jax.tree.map(jnp.asarray, oracles.golden_variables(tree, dtype=np.dtype(dtype))) for tree in shapes]
    return base.TrainState(jnp.zeros((), jnp.int32), *trees, tx.init(trees[0]))


@functools.cache
def run(case: str, dtype: str) -> list[Step]:
    """All recorded steps of a case, made by our production parts in `dtype`."""
    arrays = golden.load(f"train_step_{case}")
    name, nesterov = OPTIMIZERS[str(arrays["config/optimizer"])]
    with jax.enable_x64(dtype == "float64"):
        rates = jnp.asarray(arrays["learning_rates"], dtype)
        decay = float(arrays["weight_decay"])
        inner = optim.make_optimizer(
            name, learning_rate=lambda step: rates[step], weight_decay=decay, nesterov=nesterov
        )
        method, tx = _make_method(arrays, dtype), optax.chain(_recorder(), inner)
        step = jax.jit(train_step.make_train_step(method, tx, _load_views, schedule=lambda step: rates[step]))
        state, history = _start(method, tx, dtype), []
        source = jnp.asarray(arrays["views_channels_stacked"], dtype), jnp.asarray(arrays["labels"])
        indices = jnp.arange(len(source[1]), dtype=jnp.int32)
        for _ in range(len(rates)):
            before = state.params
            state, metrics = step(state, jax.random.key(0), source, indices)
            trees = [state.opt_state[0], before, state.params, optax.tree.get(state.opt_state, "trace")]
            trees.append(state.method_state["batch_stats"])
            history.append(
                Step(jax.device_get(dict(metrics)), *(oracles.named_leaves(jax.device_get(t)) for t in trees))
            )
    return history


def _decays_through_the_loss(arrays: dict[str, np.ndarray], name: str) -> bool:
    if str(arrays["config/optimizer"]) == "lars":
        return name == "supervised_head/dense/kernel"
    return not name.endswith(("/gamma", "/beta"))


def _decay_term(arrays: dict[str, np.ndarray], params: dict[str, np.ndarray]) -> float:
    squares = [np.sum(np.square(w, dtype=float)) for n, w in params.items() if _decays_through_the_loss(arrays, n)]
    return float(arrays["weight_decay"]) / 2 * float(sum(squares))


def _reference_gradient(arrays: dict[str, np.ndarray], step: Step) -> dict[str, np.ndarray]:
    """The gradient as the reference has it: with that of the decay term."""
    decay = float(arrays["weight_decay"])
    covered = {name: float(_decays_through_the_loss(arrays, name)) for name in step.gradient}
    return {name: g + decay * covered[name] * step.params_before[name] for name, g in step.gradient.items()}


def _norms(tree: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> np.ndarray:
    names = arrays["trainable_names"].tolist()
    if set(tree) != set(names):
        raise ValueError(f"variables differ: {sorted(set(tree) ^ set(names))[:3]}")
    return np.array([np.linalg.norm(tree[name].astype(np.float64)) for name in names])


def _numbered(case: str, dtype: str, last: int | None = None) -> Iterator[tuple[dict, int, Step]]:
    arrays = golden.load(f"train_step_{case}")
    for number, step in enumerate(run(case, dtype)[:last], start=1):
        yield arrays, number, step


def _losses(case: str, dtype: str, last: int | None = None) -> Iterator[Case]:
    """Total, contrastive and supervised loss and the decay term of every step."""
    for arrays, number, step in _numbered(case, dtype, last):
        term = _decay_term(arrays, step.params_before)
        ours = {
            "total": step.metrics["loss"] + term,
            # The reference adds the losses of the two directions; ours is their mean.
            "contrastive": 2 * step.metrics["contrastive_loss"],
            "supervised": step.metrics["supervised_loss"],
            "weight_decay": term,
        }
        yield from (Case(value, arrays[f"step{number}/loss_{name}_f64"]) for name, value in ours.items())


def _accuracies(dtype: str) -> Iterator[Case]:
    for case in CASES:
        for arrays, number, step in _numbered(case, dtype):
            yield Case(step.metrics["contrastive_accuracy"], arrays[f"step{number}/contrast_acc_f64"])


def _gradients(case: str, dtype: str, last: int | None = None) -> Iterator[Case]:
    """The norm of every gradient."""
    for arrays, number, step in _numbered(case, dtype, last):
        yield Case(_norms(_reference_gradient(arrays, step), arrays), arrays[f"step{number}/gradient_norms_f64"])


def _global_gradient(case: str, dtype: str) -> Iterator[Case]:
    """The norm over all gradients, first step."""
    for arrays, number, step in _numbered(case, dtype, 1):
        ours = np.linalg.norm(_norms(_reference_gradient(arrays, step), arrays))
        yield Case(ours, np.linalg.norm(arrays[f"step{number}/gradient_norms_f64"]))


def _parameters(case: str, dtype: str) -> Iterator[Case]:
    """Norms of parameters, of their change since the start, and of the velocities, after the first and last step."""
    start = run(case, dtype)[0].params_before
    for arrays, number, step in _numbered(case, dtype):
        change = {name: value - start[name] for name, value in step.params.items()}
        kinds = {"param_norms_after": step.params, "momentum_norms_after": step.velocity}
        if dtype == "float64":
            kinds["param_change_norms_from_start"] = change
        for kind, tree in kinds.items():
            expected = arrays.get(f"step{number}/{kind}_f64")
            # A norm of zero (a learning rate of zero) has no relative error.
            if expected is not None:
                yield Case(_norms(tree, arrays), expected, np.maximum(expected, SMALLEST_NORM))


def _entries(case: str) -> Iterator[Case]:
    """The first 16 entries of every gradient, parameter and statistic that is recorded."""
    for arrays, number, step in _numbered(case, "float64"):
        gradient = _reference_gradient(arrays, step)
        for kind, tree in (("gradient", gradient), ("after", step.params), ("after", step.statistics)):
            for name, value in tree.items():
                stored = arrays.get(f"step{number}/{kind}_first16_f64/{name}")
                if stored is not None:
                    # Gradients that cancel, such as that of a bias before BatchNorm, are compared with their norm.
                    scale = np.maximum(np.abs(stored).max(), np.linalg.norm(value) / np.sqrt(value.size))
                    yield Case(value.ravel()[: stored.size], stored.ravel(), max(scale, SMALLEST_NORM))


def _statistics(case: str) -> Iterator[Case]:
    """Sums of the moving statistics after the last step, against the sum of their sizes."""
    for arrays, number, step in _numbered(case, "float64"):
        if f"step{number}/statistics_sums_after_f64" in arrays:
            ours = [step.statistics[name] for name in arrays["statistics_names"].tolist()]
            sizes = np.array([np.abs(value).sum() for value in ours])
            yield Case([value.sum() for value in ours], arrays[f"step{number}/statistics_sums_after_f64"], sizes)


def _float64_rows() -> list[Row]:
    kinds: list[tuple[str, float, str, Callable]] = [
        ("losses", 1e-6, table.EACH, lambda case: _losses(case, "float64")),
        ("gradient norms", 1e-5, table.EACH, lambda case: _gradients(case, "float64")),
        ("parameter norms", 1e-5, table.EACH, lambda case: _parameters(case, "float64")),
        ("single entries", 1e-5, table.LARGEST, _entries),
        ("statistics", 1e-6, "of sum of sizes", _statistics),
    ]
    return [
        Row(f"{words}: {kind}, f64", "TF2", limit, relative_to, functools.partial(cases, case))
        for case, words in CASES.items()
        for kind, limit, relative_to, cases in kinds
    ]


def _float32_rows() -> list[Row]:
    bind, full = functools.partial, CASES[FULL_WIDTH]
    rows = [
        Row(f"{full}: losses of step 1, f32", "TF2", 1e-4, table.EACH, bind(_losses, FULL_WIDTH, "float32", 1)),
        Row(f"{full}: losses of 3 steps, f32", "TF2", 1e-3, table.EACH, bind(_losses, FULL_WIDTH, "float32")),
        Row(
            f"{full}: whole gradient norm, f32", "TF2", 2e-3, table.EACH, bind(_global_gradient, FULL_WIDTH, "float32")
        ),
        Row(f"{full}: gradient norms, f32", "TF2", 2e-2, table.EACH, bind(_gradients, FULL_WIDTH, "float32", 1)),
    ]
    tiny = "tiny_r18_b8"
    return [
        *rows,
        Row(f"{CASES[tiny]}: losses of step 1, f32", "TF2", 5e-4, table.EACH, bind(_losses, tiny, "float32", 1)),
    ]


ROWS = [
    *_float64_rows(),
    Row("all: contrastive accuracy, f64", "TF2", 0.0, table.EXACT, lambda: _accuracies("float64")),
    *_float32_rows(),
]
