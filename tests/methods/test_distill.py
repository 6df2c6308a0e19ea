"""Distillation: the loss is the written one, the teacher is fixed, and labels count as much as they are asked to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, methods, optim, train_step
from tests.methods import settings, steps

VIEWS = jnp.asarray(np.random.default_rng(0).random((4, 2, 6, 6, 3), np.float32))
LABELS = jnp.asarray([0, 1, 2, -1], jnp.int32)


def make(**options) -> base.Method:
    return methods.make_distill(steps.TinyEncoder(5), **settings.arguments("distill"), **options)


def run(method: base.Method, num_steps: int = 1, rate: float = 0.5):
    tx = optim.make_optimizer("sgd", learning_rate=rate, weight_decay=0.0, momentum=0.0)
    state = jax.jit(lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=VIEWS.shape))()
    update, history, start = jax.jit(train_step.make_update(method, tx)), [], state
    for _ in range(num_steps):
        state, metrics = update(state, VIEWS, labels=LABELS)
        history.append(jax.device_get(metrics))
    return start, state, history


def test_the_loss_is_the_cross_entropy_with_the_teachers_answers_and_falls():
    temperature, method = 0.5, make(temperature=0.5)
    start, state, history = run(method, num_steps=150)
    # The student starts at zero: its cross entropy with anything is ln C.
    assert history[0]["loss"] == pytest.approx(np.log(3), rel=1e-6)
    teacher = settings.arguments("distill")["teacher"]
    given = start.method_state["teacher"]
    classify = jax.jit(teacher.classify)
    told = np.asarray(classify(given["params"], given["batch_stats"], VIEWS.reshape(-1, 6, 6, 3)), np.float64)
    outputs, _ = jax.jit(method.embed)(state.params, state.method_state, VIEWS, batch(), jax.random.key(1))
    share = np.exp(told / temperature) / np.exp(told / temperature).sum(axis=1, keepdims=True)
    entropy = -np.mean(np.sum(share * np.log(share), axis=1))
    # The entropy of the teacher's answers is the lowest possible value; the student comes nearer to it.
    assert entropy - 1e-5 <= float(outputs["distillation_losses"].mean()) <= entropy + 0.7 * (np.log(3) - entropy)
    assert history[-1]["loss"] < history[0]["loss"]


def batch() -> base.Batch:
    rows = jnp.arange(4, dtype=jnp.int32)
    image, size, mask = jnp.zeros((4, 1, 1, 3), jnp.uint8), jnp.ones((4, 2), jnp.int32), jnp.ones(4, bool)
    return base.Batch(image=image, size=size, label=LABELS, index=rows, position=rows, mask=mask)


@pytest.mark.slow
def test_the_teacher_stays_as_it_was():
    start, state, _ = run(make(), num_steps=2)
    for before, after in zip(
        jax.tree.leaves(start.method_state["teacher"]), jax.tree.leaves(state.method_state["teacher"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_labels_count_by_their_weight():
    _, _, (plain,) = run(make(label_weight=0.0))
    how = {"label_weight": 0.25, "loss_scale": 2.0}
    _, _, (mixed,) = run(make(**how))
    announced = methods.uninformed_loss({"name": "distill", **how}, batch_size=4, num_classes=3)
    assert mixed["loss"] == pytest.approx(announced, rel=1e-6), "the student's logits are all zero at first"
    assert plain["loss"] == plain["distillation_loss"]
    expected = 0.75 * mixed["distillation_loss"] + 0.25 * mixed["supervised_loss"]
    assert mixed["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"), [({"label_weight": 1.5}, "label_weight must be 0 to 1"), ({"temperature": 0.0}, "above 0")]
)
def test_mistakes_are_refused(options, message):
    with pytest.raises(base.InputError, match=message):
        make(**options)
