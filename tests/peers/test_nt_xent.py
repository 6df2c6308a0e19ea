"""NT-Xent beside three libraries, whose loss is the paper's mean: value and gradient in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import peers
from tests import parity
from tests.losses import test_contrastive as dense

pytestmark = pytest.mark.slow  # for docs/parity.md

# Images, dimensions, temperature.
SIZES = [(4, 8, 0.5), (16, 32, 0.1), (33, 128, 0.05)]


def lightly(hidden, temperature):
    """(loss, gradient) of the rows of view 1 and then view 2."""
    return _torch(peers.lightly_nt_xent(temperature), hidden)


def metric_learning(hidden, temperature):
    """(loss, gradient) of the rows of view 1 and then view 2."""
    return _torch(peers.metric_learning_nt_xent(temperature), hidden)


def _torch(loss_of, hidden):
    import torch

    tensor = torch.tensor(hidden, requires_grad=True)
    loss = loss_of(tensor)
    loss.backward()
    return float(loss.detach()), tensor.grad.numpy()


def optax_loss(hidden, temperature):
    """(loss, gradient) of the rows of view 1 and then view 2."""
    labels = jnp.asarray(np.tile(np.arange(len(hidden) // 2), 2))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        loss = jax.value_and_grad(lambda z: optax.losses.ntxent(z, labels, temperature=temperature))
        return jax.device_get(loss(jnp.asarray(hidden)))


PEERS = {"lightly": lightly, "pytorch_metric_learning": metric_learning, "optax": optax_loss}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("batch_size", "dim", "temperature"), SIZES)
def test_nt_xent_equals_a_library(peer, batch_size, dim, temperature, compare, request):
    if peer != "optax":
        request.getfixturevalue("torchvision")
        pytest.importorskip(peer)
    hidden = np.random.default_rng(batch_size).normal(size=(2 * batch_size, dim))
    with jax.enable_x64(True):
        loss, _, gradient = dense.evaluate(dense.as_pairs(hidden), temperature=temperature)
    value, theirs = PEERS[peer](hidden, temperature)
    tolerance = {"limit": 1e-10, "of": parity.LARGEST, "source": peer.replace("_", "-")}
    compare("mean loss and gradient, f64", loss / 2, value, **tolerance)
    compare("mean loss and gradient, f64", gradient / 2, theirs, **tolerance)
