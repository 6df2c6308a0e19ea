"""What an evaluation in the middle of a training may and may not do to it."""

import contextlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, data, probes
from simclr_jax.run import config as config_lib
from simclr_jax.run import goodput, progress, training_loop


def evaluate(encode):
    """`_evaluate` of a run whose features are `encode(variables, split)`; returns the accuracy that it logs."""
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.asarray([0, 1, 0, 1], np.int32)
    split = data.ImageSet(images, np.full((4, 2), 8, np.int32), labels, ("a", "b"), tuple("wxyz"), "", ())
    run = types.SimpleNamespace(
        config=config_lib.load_file("smoke").to_dict(),
        train_set=split._replace(fingerprint="train"),
        test_set=split._replace(fingerprint="test"),
        probe=types.SimpleNamespace(knn_k=1, knn_temperature=0.1, knn_weights="similarity"),
        encode=encode,
        measure=lambda state, train_h: ({"uniformity": -1.0}, probes.Signs()),
        measure_recall=None,
        num_steps=10,
    )
    logged = []
    reader = types.SimpleNamespace(
        paused=contextlib.nullcontext,
        waiting=lambda step, *, what: contextlib.nullcontext(),
        rows=[],
        clock=goodput.Clock(),
        write_evaluation=lambda step, accuracy, *, scores: logged.append((accuracy, scores)),
    )
    state = base.TrainState(jnp.int32(5), {"encoder": {}}, {"batch_stats": {}}, ())
    scores = {}
    training_loop._evaluate(run, reader, state, scores)
    ((accuracy, label_free),) = logged
    assert label_free == {"uniformity": -1.0} and scores == ({} if accuracy is None else {5: accuracy})
    return accuracy


def test_only_a_knn_that_cannot_be_computed_lets_the_training_go_on(monkeypatch):
    h = np.eye(4, dtype=np.float32)
    assert evaluate(lambda variables, split: h) == 1.0

    def unreadable(variables, split):
        if split.fingerprint == "test":
            raise base.InputError("the disk is gone")
        return h

    with pytest.raises(base.InputError, match="the disk is gone"):
        evaluate(unreadable)

    def impossible(*values, **settings):
        raise base.InputError("k is too large")

    said = []
    monkeypatch.setattr(probes, "knn_accuracy", impossible)
    monkeypatch.setattr(progress, "say", said.append)
    assert evaluate(lambda variables, split: h) is None
    assert said[0] == "step 5: kNN could not be measured, the training goes on: k is too large"
