"""Whole training steps beside those recorded from the official codes: the small network of the recordings, and its run.

The recordings' network is a dense layer on every pixel, BatchNorm, ReLU and the mean over pixels, under the method's
own head; see tests/golden/README.md. Names are `encoder/...`, `projector/...`, `predictor/...`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from simclr_jax import base, train_step
from simclr_jax.models import norms
from tests import golden

# Ours -> the recordings'.
MODULES = {"encoder": "encoder", "projection_head": "projector", "predictor": "predictor", "prototypes": "prototypes"}


class TinyEncoder(nn.Module):
    """The recordings' encoder; parameters are of the images' type."""

    width: int
    norm: norms.Norm = norms.Norm()

    @property
    def num_features(self) -> int:
        """As of the encoders in models/."""
        return self.width

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(self.width, use_bias=False, dtype=images.dtype, param_dtype=images.dtype, name="dense")(images)
        x = norms.make_norm(images.dtype.name, train, self.norm)(name="bn")(x)
        return jnp.mean(nn.relu(x), axis=(1, 2))


class Step(NamedTuple):
    """What one step did: its loss, the gradient and the parameters after it by recorded name, the method's state."""

    loss: float
    gradient: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    method_state: Any


def recorder() -> optax.GradientTransformation:
    """Passes the gradient on and keeps it in the optimizer's state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda gradient, state, params=None: (gradient, gradient)
    )


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
    return golden.load(f"family/{name}")


def recorded_name(path: tuple[Any, ...]) -> str:
    module, *rest = (jax.tree_util.keystr((entry,), simple=True) for entry in path)
    return "/".join([MODULES[module], *rest])


def named(tree: base.PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree of parameters by recorded name."""
    return {recorded_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def run(
    method: base.Method, tx: optax.GradientTransformation, arrays: dict[str, np.ndarray], *, views: Any, dtype: str
) -> list[Step]:
    """All steps on `views`, arrays [n, B, V, h, w, 3] (or a tuple of such), from the recorded start."""
    tx = optax.chain(recorder(), tx)
    views = jax.tree.map(lambda x: jnp.asarray(x, dtype), views)
    shapes, method_state = jax.jit(method.init)(jax.random.key(0), jax.tree.map(lambda x: x[0], views))
    params = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(arrays[f"init/{recorded_name(path)}"], dtype).reshape(leaf.shape), shapes
    )
    if "prototypes" in params:  # they are normalised before the first step, here by the method's start
        kernel = params["prototypes"]["kernel"]
        params["prototypes"]["kernel"] = kernel = kernel / jnp.linalg.norm(kernel, axis=0)
        method_state = {name: kernel if name == "prototypes" else x for name, x in method_state.items()}
    if "target" in method_state:  # it starts as a copy
        method_state["target"]["params"] = {name: params[name] for name in method_state["target"]["params"]}
    if "settings/queue_start" in arrays:
        method_state["queue"]["rows"] = jnp.asarray(arrays["settings/queue_start"], dtype)
    state = base.TrainState(jnp.zeros((), jnp.int32), params, method_state, tx.init(params))
    update = jax.jit(train_step.make_update(method, tx))
    history = []
    for number in range(len(jax.tree.leaves(views)[0])):
        state, metrics = update(state, jax.tree.map(lambda x, n=number: x[n], views))
        gradient, after, kept = jax.device_get((state.opt_state[0], state.params, state.method_state))
        history.append(Step(float(metrics["loss"]), named(gradient), named(after), kept))
    return history


def tolerance(arrays: dict[str, np.ndarray], dtype: str) -> float:
    """Of the README: in float32, fifty times what the official code's own float32 run is away from its float64 run."""
    return 1e-9 if dtype == "float64" else max(50 * float(arrays["observed_f32"]), 1e-5)


def check(history: list[Step], arrays: dict[str, np.ndarray], *, tolerance: float, skip: tuple[str, ...] = ()) -> None:
    """Losses, and parameters and gradients but for `skip`, are the recorded ones relative to the largest entry."""
    assert len(history) == len(arrays["loss"])
    np.testing.assert_allclose([step.loss for step in history], arrays["loss"], rtol=tolerance)
    for number, step in enumerate(history):
        for kind, tree in (("gradients", step.gradient), ("params", step.params)):
            # The gradient of a bias in front of BatchNorm is rounding noise.
            for name in sorted(set(tree) - set(skip)):
                expected = arrays[f"{kind}/{name}"][number]
                largest = np.abs(arrays[f"{kind}/{name}"]).max()
                np.testing.assert_allclose(
                    tree[name].reshape(expected.shape),
                    expected,
                    rtol=0,
                    atol=tolerance * largest,
                    err_msg=f"{kind} {name} {number}",
                )
