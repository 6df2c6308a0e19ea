"""Cross entropy beside torch's, and kNN beside lightly's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import losses, probes
from tests import golden, parity
from tests.probes import test_nearest

pytestmark = pytest.mark.slow  # for docs/parity.md


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_equals_torch(smoothing, compare):
    torch = pytest.importorskip("torch")
    arrays = golden.load("losses_other")
    logits, labels = arrays["supervised/logits"].astype(np.float64), arrays["supervised/labels"]
    theirs = torch.tensor(logits, requires_grad=True)
    labels_there = torch.tensor(labels.astype(np.int64))
    value = torch.nn.functional.cross_entropy(theirs, labels_there, label_smoothing=smoothing)
    value.backward()
    with jax.enable_x64(True):

        def mean(logits):
            return jnp.mean(losses.cross_entropy(logits, jnp.asarray(labels), label_smoothing=smoothing))

        loss, gradient = jax.device_get(jax.value_and_grad(mean)(jnp.asarray(logits)))
    tolerance = {"limit": 1e-10, "of": parity.LARGEST, "source": "torch"}
    compare("smoothed cross entropy, f64", loss, float(value.detach()), **tolerance)
    compare("smoothed cross entropy, f64", gradient, theirs.grad.numpy(), **tolerance)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (200, 0.1)])
def test_knn_equals_lightly(k, temperature, compare, torchvision):
    benchmarking = pytest.importorskip("lightly.utils.benchmarking")
    import torch

    train, labels, test, _ = test_nearest._data(num_train=400, num_test=300)
    bank, queries = (torch.nn.functional.normalize(torch.tensor(x.astype(np.float64)), dim=1) for x in (train, test))
    ranked = benchmarking.knn_predict(
        queries, bank.T.contiguous(), torch.tensor(labels), num_classes=5, knn_k=k, knn_t=temperature
    )
    ours = probes.knn(train, labels, test, num_classes=5, k=k, temperature=temperature)
    compare("kNN, share of other classes", np.mean(ours != ranked[:, 0].numpy()), 0.0, source="lightly")
