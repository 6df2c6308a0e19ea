"""The classifier's scores row by row and their reduction, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.methods import classifier


def make_batch(labels, mask) -> base.Batch:
    rows = len(labels)
    return base.Batch(
        image=jnp.zeros((rows, 1, 1, 3), jnp.uint8),
        size=jnp.ones((rows, 2), jnp.int32),
        label=jnp.asarray(labels, jnp.int32),
        index=jnp.arange(rows, dtype=jnp.int32),
        position=jnp.arange(rows, dtype=jnp.int32),
        mask=jnp.asarray(mask),
    )


LOGITS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
BATCH = make_batch([2, -1, 0, 3, 1], [True, True, True, False, True])


def test_padding_and_unlabelled_rows_do_not_count():
    outputs = classifier.score_rows(jnp.asarray(LOGITS), BATCH)
    np.testing.assert_array_equal(outputs["labelled"], [1, 0, 1, 0, 1])
    loss, metrics = classifier.reduce_rows(outputs)
    values, hits = [], []
    for image, label in ((0, 2), (2, 0), (4, 1)):
        for row in LOGITS[image].astype(np.float64):
            values.append(np.log(np.exp(row).sum()) - row[label])
            hits.append(row.argmax() == label)
    assert float(loss) == float(metrics["supervised_loss"]) == pytest.approx(np.mean(values), rel=1e-6)
    assert float(metrics["supervised_accuracy"]) == pytest.approx(np.mean(hits), rel=1e-6)


@pytest.mark.slow
def test_scores_of_parts_of_a_batch_are_the_scores_of_the_batch():
    whole = classifier.score_rows(jnp.asarray(LOGITS), BATCH)
    parts = [
        classifier.score_rows(jnp.asarray(LOGITS[rows]), jax.tree.map(lambda leaf, rows=rows: leaf[rows], BATCH))
        for rows in (slice(0, 2), slice(2, 5))
    ]
    for name, expected in whole.items():
        assert expected.shape == (5,) and expected.dtype == jnp.float32
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


def test_logits_are_a_matrix_product_in_the_type_of_the_parameters():
    features = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    head = classifier.init_classifier(
        jax.random.key(0), features, num_classes=3, kernel_init=jax.nn.initializers.normal(0.5)
    )
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    head["dense"]["bias"] += 0.25
    expected = x.astype(np.float64) @ np.asarray(head["dense"]["kernel"], np.float64) + 0.25
    logits = classifier.classify({"supervised_head": head}, jnp.asarray(x))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", [0, 1, -3])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(base.InputError, match=f"num_classes of at least 2; got {num_classes}"):
        classifier.check_num_classes(num_classes)
