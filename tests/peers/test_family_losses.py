"""The losses of the family beside lightly's, alive: value and gradient in float64 by the projections of both views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import losses
from tests import parity

# For docs/parity.md; lightly copies tensors in a way that torch warns of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default::UserWarning")]

NUM_IMAGES, DIM, NUM_PROTOTYPES, QUEUE = 12, 8, 6, 16


def _queue() -> np.ndarray:
    rows = np.random.default_rng(5).normal(size=(QUEUE, DIM))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Ours of views [B, 2, d]; what theirs is called with is in `theirs` below.
OURS = {
    "Barlow Twins": lambda z: losses.barlow_twins(z, redundancy_weight=0.005)[0],
    "VICReg": lambda z: losses.vicreg(z)[0],
    "SimSiam": lambda z: losses.simsiam(z, jax.lax.stop_gradient(z))[0],
    "DCL": lambda z: losses.dcl(z, temperature=0.1)[0],
    "DCLW": lambda z: losses.dclw(z, temperature=0.1, sigma=0.5)[0],
    "MoCo": lambda z: losses.moco(z[:, 0], jax.lax.stop_gradient(z[:, 1]), jnp.asarray(_queue()), temperature=0.1)[0],
    "SwAV": lambda z: losses.swav(z[..., :NUM_PROTOTYPES], temperature=0.1, epsilon=0.5)[0],
}


def theirs(name: str, one, two):
    """lightly's loss of two tensors [B, d], in the sum or mean that ours has."""
    from lightly import loss as lightly

    if name == "SimSiam":
        cosine = lightly.NegativeCosineSimilarity()
        return (cosine(one, two.detach()) + cosine(two, one.detach())) / 2
    if name == "MoCo":
        import torch

        loss = lightly.NTXentLoss(temperature=0.1, memory_bank_size=(QUEUE, DIM)).double()
        loss.memory_bank.bank = torch.tensor(_queue()).double()
        return loss(one, two.detach())
    if name == "SwAV":
        crops = [one[:, :NUM_PROTOTYPES], two[:, :NUM_PROTOTYPES]]
        return lightly.SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.5)(crops, [])
    made = {"Barlow Twins": "BarlowTwinsLoss", "VICReg": "VICRegLoss", "DCL": "DCLLoss", "DCLW": "DCLWLoss"}[name]
    return getattr(lightly, made)()(one, two)


@pytest.mark.parametrize("name", OURS)
def test_a_loss_of_the_family_equals_lightlys(name, compare, torchvision):
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightly")
    z = np.random.default_rng(3).normal(size=(NUM_IMAGES, 2, DIM))
    with jax.enable_x64(True):
        loss, gradient = jax.device_get(jax.value_and_grad(OURS[name])(jnp.asarray(z)))
    tensor = torch.tensor(z, requires_grad=True)
    value = theirs(name, tensor[:, 0], tensor[:, 1])
    value.backward()
    tolerance = {"limit": 1e-9, "of": parity.LARGEST, "source": "lightly"}
    compare(f"{name}, loss, f64", loss, float(value.detach()), **tolerance)
    compare(f"{name}, gradient, f64", gradient, tensor.grad.numpy(), **tolerance)
