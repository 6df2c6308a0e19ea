"""What is particular to supervised training and fine-tuning; what every method must do is in test_protocol."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, methods, optim, train_step
from simclr_jax.methods import simclr, supervised
from simclr_jax.models import heads
from tests.methods import steps

ENCODER = steps.TinyEncoder(16)
VIEWS = np.random.default_rng(0).random((4, 1, 8, 8, 3), np.float32)
HEAD = {"num_proj_layers": 3, "proj_out_dim": 5}


def make_batch(labels) -> base.Batch:
    rows = len(labels)
    return base.Batch(
        image=jnp.zeros((rows, 1, 1, 3), jnp.uint8),
        size=jnp.ones((rows, 2), jnp.int32),
        label=jnp.asarray(labels, jnp.int32),
        index=jnp.arange(rows, dtype=jnp.int32),
        position=jnp.arange(rows, dtype=jnp.int32),
        mask=jnp.ones(rows, bool),
    )


def shapes(method: base.Method):
    return jax.eval_shape(method.init, jax.random.key(0), jnp.asarray(VIEWS))


def numbers_for(tree, seed: int = 0):
    """Numbers of both signs in the shape of a tree, so that ReLUs cut; no initialiser runs."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.3, 0.9, leaf.shape), leaf.dtype), tree)


def avals(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.few(2)
@pytest.mark.parametrize(("selector", "layers", "width"), [(0, 0, 16), (1, 1, 16), (2, 2, 16), (3, 3, 5), (-1, 3, 5)])
def test_the_layers_in_front_of_the_classifier_exist_as_in_a_pretrained_run_and_no_others(selector, layers, width):
    params, state = shapes(supervised.make_supervised(ENCODER, num_classes=7, ft_proj_selector=selector, **HEAD))
    pretrained, pretrained_state = shapes(simclr.make_simclr(ENCODER, **HEAD))
    names = {f"{kind}{layer}" for layer in range(1, layers + 1) for kind in ("dense", "bn")}
    for ours, theirs in ((params, pretrained), (state["batch_stats"], pretrained_state["batch_stats"])):
        assert set(ours["projection_head"]) == names & set(theirs["projection_head"])
        for name, branch in ours["projection_head"].items():
            assert avals(branch) == avals(theirs["projection_head"][name])
        assert avals(ours["encoder"]) == avals(theirs["encoder"])
    assert params["supervised_head"]["dense"]["kernel"].shape == (width, 7)


def test_a_new_classifier_is_zero_and_the_first_update_moves_nothing_else():
    method = supervised.make_supervised(ENCODER, num_classes=7, ft_proj_selector=1, **HEAD)
    params, state = jax.jit(method.init)(jax.random.key(0), jnp.asarray(VIEWS))
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["supervised_head"]))

    @jax.jit
    def total(params):
        outputs, new_state = method.embed(params, state, jnp.asarray(VIEWS), make_batch((6, 0, 3, 3)), None)
        return method.loss(outputs, new_state)

    (loss, (_, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(params)
    assert float(loss) == float(metrics["supervised_loss"]) == pytest.approx(math.log(7), rel=1e-6)
    # Equal logits: the first class is taken, which is right once in four.
    assert float(metrics["supervised_accuracy"]) == 0.25
    head = gradient.pop("supervised_head")
    assert all(leaf.any() for leaf in jax.tree.leaves(head))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


@functools.cache
def gradient_of(selector: int):
    method = supervised.make_supervised(ENCODER, num_classes=7, ft_proj_selector=selector, **HEAD)
    params, state = (numbers_for(tree) for tree in shapes(method))

    def total(params):
        outputs, new_state = method.embed(params, state, jnp.asarray(VIEWS), make_batch((6, -1, 3, 3)), None)
        loss, (new_state, _) = method.loss(outputs, new_state)
        return loss, (outputs, new_state)

    return params, state, *jax.jit(jax.value_and_grad(total, has_aux=True))(params)


@pytest.mark.few(1)
@pytest.mark.parametrize("selector", [0, 1, -1])
def test_everything_that_exists_is_trained(selector):
    _, state, (_, (_, new_state)), gradient = gradient_of(selector)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    dead = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(gradient) if not leaf.any()]
    assert not dead
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state, new_state)), strict=True)]
    assert all(moved)


@pytest.mark.few(1)
@pytest.mark.parametrize("selector", [0, 1, -1])
def test_logits_are_a_linear_map_of_the_selected_activation_of_the_whole_head(selector):
    params, state, (loss, (outputs, _)), _ = gradient_of(selector)
    whole = simclr.make_simclr(ENCODER, **HEAD)
    head_params, head_state = (numbers_for(tree, seed=9) for tree in shapes(whole))
    of_head = {
        "params": {**head_params["projection_head"], **params["projection_head"]},
        "batch_stats": {**head_state["batch_stats"]["projection_head"], **state["batch_stats"]["projection_head"]},
    }
    of_encoder = {"params": params["encoder"], "batch_stats": state["batch_stats"]["encoder"]}
    train = {"train": True, "mutable": ["batch_stats"]}

    @jax.jit
    def activate(images):
        h, _ = ENCODER.apply(of_encoder, images, **train)
        return heads.ProjectionHead(3, 5).apply(of_head, h, **train)[0]

    activations = activate(VIEWS[:, 0])
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["supervised_head"]["dense"])
    logits = np.asarray(activations[selector], np.float64) @ dense["kernel"] + dense["bias"]
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, (6, 0, 3, 3), strict=True)]
    # One image of four is unlabelled. float32 through BatchNorm of four rows.
    np.testing.assert_allclose(outputs["supervised_losses"], [losses[0], 0, losses[2], losses[3]], rtol=2e-4, atol=1e-4)
    assert float(loss) == pytest.approx((losses[0] + losses[2] + losses[3]) / 3, rel=2e-4)


def test_label_smoothing_raises_the_loss_of_a_certain_classifier():
    outputs = {}
    for smoothing in (0.0, 0.5):
        method = supervised.make_supervised(ENCODER, num_classes=3, label_smoothing=smoothing, num_proj_layers=0)
        params, state = (numbers_for(tree) for tree in shapes(method))
        params["supervised_head"]["dense"] = {"kernel": jnp.zeros((16, 3)), "bias": jnp.asarray([10.0, 0.0, 0.0])}
        embed = jax.jit(method.embed, static_argnums=4)
        outputs[smoothing], _ = embed(params, state, jnp.asarray(VIEWS), make_batch((0, 0, 0, 0)), None)
    assert float(outputs[0.0]["supervised_losses"][0]) == pytest.approx(2 * math.exp(-10), rel=1e-3)
    assert float(outputs[0.5]["supervised_losses"][0]) == pytest.approx(10 * 2 * 0.5 / 3, rel=1e-3)


def test_classify_is_the_eval_mode_of_the_trained_network():
    method = supervised.make_supervised(ENCODER, num_classes=7, ft_proj_selector=1, **HEAD)
    params, state = (numbers_for(tree) for tree in shapes(method))
    statistics = jax.tree.map(jnp.abs, state["batch_stats"])
    classify = methods.make_classify(ENCODER, ft_proj_selector=1, **HEAD)
    logits = jax.jit(classify)(params, statistics, VIEWS[:, 0])
    h = ENCODER.apply({"params": params["encoder"], "batch_stats": statistics["encoder"]}, VIEWS[:, 0], train=False)
    part = params["projection_head"]
    norm = statistics["projection_head"]["bn1"]
    x = np.asarray(h, np.float64) @ np.asarray(part["dense1"]["kernel"], np.float64)
    x = (x - norm["mean"]) / np.sqrt(norm["var"] + np.float32(1e-5)) * part["bn1"]["scale"] + part["bn1"]["bias"]
    dense = params["supervised_head"]["dense"]
    expected = np.maximum(x, 0) @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # One image at a time: nothing depends on the rest of the batch.
    np.testing.assert_allclose(jax.jit(classify)(params, statistics, VIEWS[:1, 0]), logits[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("selector", [0, 1])
def test_classify_serves_the_classifier_trained_alongside_simclr(selector):
    method = simclr.make_simclr(ENCODER, num_classes=7, supervised_weight=1.0, ft_proj_selector=selector, **HEAD)
    params, state = (numbers_for(tree) for tree in shapes(method))
    statistics = jax.tree.map(jnp.abs, state["batch_stats"])
    ours = jax.jit(methods.make_classify(ENCODER, ft_proj_selector=selector, **HEAD))(params, statistics, VIEWS[:, 0])
    needed = {f"{kind}{layer}" for layer in range(1, selector + 1) for kind in ("dense", "bn")}

    def keep(tree):
        return {**tree, "projection_head": {k: v for k, v in tree["projection_head"].items() if k in needed}}

    fewer = jax.jit(methods.make_classify(ENCODER, ft_proj_selector=selector, **HEAD))
    np.testing.assert_array_equal(ours, fewer(keep(params), keep(statistics), VIEWS[:, 0]))


def test_classify_takes_trees_without_an_entry_for_an_empty_head():
    method = supervised.make_supervised(ENCODER, num_classes=3, num_proj_layers=3)
    params, state = (numbers_for(tree) for tree in shapes(method))
    statistics = jax.tree.map(jnp.abs, state["batch_stats"])
    assert params.pop("projection_head") == statistics.pop("projection_head") == {}
    logits = jax.eval_shape(methods.make_classify(ENCODER), params, statistics, jnp.asarray(VIEWS[:, 0]))
    assert logits.shape == (4, 3) and logits.dtype == jnp.float32


@pytest.mark.slow
def test_fine_tuning_learns_the_labels_of_a_few_images():
    method = supervised.make_supervised(ENCODER, num_classes=2, ft_proj_selector=1, **HEAD)
    tx = optim.make_optimizer("sgd", learning_rate=0.02, weight_decay=0.0)
    batch = make_batch((0, 1, 1, 0))

    def load_views(key, source, indices, positions):
        return batch, source

    step = jax.jit(train_step.make_train_step(method, tx, load_views, schedule=lambda step: jnp.float32(0.02)))
    state = jax.jit(lambda key: train_step.init_state(method, tx, key, views_shape=VIEWS.shape))(jax.random.key(0))
    for _ in range(30):
        state, metrics = step(state, jax.random.key(0), jnp.asarray(VIEWS), jnp.arange(4, dtype=jnp.int32))
    assert float(metrics["supervised_accuracy"]) == 1.0 and float(metrics["loss"]) < 0.5 * math.log(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes of at least 2; got 1"),
        ({"ft_proj_selector": 4}, "selector must be -4 to 3 for a head of 3 layers; got 4"),
        ({"num_proj_layers": 5}, "0 to 4; got 5"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1; got 1.0"),
    ],
)
def test_make_supervised_refuses_impossible_arguments(options, message):
    with pytest.raises(base.InputError, match=message):
        supervised.make_supervised(ENCODER, **{"num_classes": 3, **options})
