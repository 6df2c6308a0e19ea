"""What is particular to SimCLR as a method; what every method must do is in test_protocol."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from simclr_jax.methods import simclr
from simclr_jax.models import heads, resnet
from tests.methods import steps

ENCODER = steps.TinyEncoder(16)
VIEWS = np.random.default_rng(0).random((3, 2, 8, 8, 3), np.float32)


def shapes(method: base.Method):
    return jax.eval_shape(method.init, jax.random.key(0), jnp.asarray(VIEWS))


def numbers_for(tree, seed: int = 0):
    """Positive numbers in the shape of a tree, without running initialisers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.9, leaf.shape), leaf.dtype), tree)


def test_rows_of_an_image_are_neighbours_in_one_forward_pass():
    method = simclr.make_simclr(ENCODER, num_proj_layers=2, proj_out_dim=5)
    params, state = (numbers_for(tree) for tree in shapes(method))
    outputs, new_state = jax.jit(lambda views: method.embed(params, state, views, None, None))(VIEWS)
    rows = VIEWS.reshape(6, 8, 8, 3)

    @jax.jit
    def direct(rows):
        statistics = state["batch_stats"]
        h, h_state = ENCODER.apply(
            {"params": params["encoder"], "batch_stats": statistics["encoder"]},
            rows,
            train=True,
            mutable=["batch_stats"],
        )
        activations, _ = heads.ProjectionHead(2, 5).apply(
            {"params": params["projection_head"], "batch_stats": statistics["projection_head"]},
            h,
            train=True,
            mutable=["batch_stats"],
        )
        return activations[-1], h_state["batch_stats"]

    z, statistics = direct(rows)
    assert outputs["z"].shape == (3, 2, 5)
    np.testing.assert_array_equal(outputs["z"].reshape(6, 5), z)
    for ours, expected in zip(
        jax.tree.leaves(new_state["batch_stats"]["encoder"]), jax.tree.leaves(statistics), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("loss_scale", [1.0, 2.0])
def test_loss_is_the_scaled_mean_and_the_metrics_hold_the_mean(loss_scale):
    method = simclr.make_simclr(ENCODER, temperature=0.3, loss_scale=loss_scale)
    z = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 6)).astype(np.float32))
    state = {"batch_stats": {}}
    loss, (new_state, metrics) = jax.jit(method.loss)({"z": z}, state)
    mean, expected = jax.jit(lambda z: losses.nt_xent(z, temperature=0.3))(z)
    assert float(loss) == loss_scale * float(mean)
    assert float(metrics["contrastive_loss"]) == float(mean)
    assert {key: float(metrics[key]) for key in expected} == {key: float(value) for key, value in expected.items()}
    assert new_state == state


@pytest.mark.parametrize("num_proj_layers", [0, 1, 4])
def test_the_head_has_the_layers_asked_for(num_proj_layers):
    method = simclr.make_simclr(ENCODER, num_proj_layers=num_proj_layers, proj_out_dim=7)
    params, state = shapes(method)
    assert set(params) == set(state["batch_stats"]) == {"encoder", "projection_head"}
    assert len(params["projection_head"]) == 2 * num_proj_layers
    outputs, new_state = jax.eval_shape(method.embed, params, state, jnp.asarray(VIEWS), None, None)
    assert outputs["z"].shape == (3, 2, 7 if num_proj_layers else ENCODER.num_features)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_bfloat16_activations_leave_everything_outside_in_float32():
    encoder = resnet.ResNet(resnet.BasicBlock, (1,), width_multiplier=1 / 4, stem="cifar", dtype="bfloat16")
    method = simclr.make_simclr(encoder, dtype="bfloat16")
    params, state = shapes(method)
    outputs, new_state = jax.eval_shape(method.embed, params, state, jnp.asarray(VIEWS), None, None)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state, outputs, new_state))} == {jnp.dtype("float32")}


def test_encoder_and_head_start_from_different_keys_and_every_key_gives_other_weights():
    method = simclr.make_simclr(ENCODER)
    init = jax.jit(method.init)
    first, second = (init(jax.random.key(seed), jnp.asarray(VIEWS))[0] for seed in (0, 1))
    assert not np.array_equal(
        first["projection_head"]["dense1"]["kernel"], second["projection_head"]["dense1"]["kernel"]
    )
    assert not np.array_equal(first["encoder"]["dense"]["kernel"], second["encoder"]["dense"]["kernel"])


def test_make_simclr_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(base.InputError, match="temperature must be above 0 and finite; got 0"):
        simclr.make_simclr(ENCODER, temperature=0.0)


def test_make_simclr_refuses_an_unknown_form_of_the_loss():
    with pytest.raises(base.InputError, match="loss_form must be one of auto, dense, blockwise, ring; got 'sparse'"):
        simclr.make_simclr(ENCODER, loss_form="sparse")


# Images, devices, form -> what computes the loss; at d = 128 the gathered projections of 65536 images take 64 MiB.
FORMS = [
    (1024, 1, "auto", losses.nt_xent),
    (1025, 1, "auto", losses.nt_xent_blockwise),
    (4, 1, "blockwise", losses.nt_xent_blockwise),
    (4, 1, "ring", losses.nt_xent_blockwise),
    (8192, 1, "dense", losses.nt_xent),
    (64, 4, "auto", losses.nt_xent_gathered),
    (65536, 4, "auto", losses.nt_xent_gathered),
    (65540, 4, "auto", losses.nt_xent_ring),
    (65540, 4, "blockwise", losses.nt_xent_gathered),
    (64, 4, "ring", losses.nt_xent_ring),
    (64, 4, "dense", losses.nt_xent),
]


@pytest.mark.parametrize(("images", "num_devices", "form", "expected"), FORMS)
def test_the_form_of_the_loss_follows_the_documented_rule(images, num_devices, form, expected):
    device = types.SimpleNamespace(platform="cpu")
    mesh = types.SimpleNamespace(size=num_devices, devices=np.asarray([device] * num_devices))
    for placed in (mesh, None) if num_devices == 1 else (mesh,):
        chosen = simclr._nt_xent(form, placed, (images, 2, 128))
        assert getattr(chosen, "func", chosen) is expected


def test_every_form_of_the_loss_has_the_same_value():
    z = {"z": jnp.asarray(np.random.default_rng(2).normal(size=(5, 2, 6)).astype(np.float32))}
    values = [
        jax.jit(simclr.make_simclr(ENCODER, loss_form=form).loss)(z, {})[0] for form in ("auto", "dense", "blockwise")
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_make_simclr_refuses_an_impossible_head():
    with pytest.raises(base.InputError, match="0 to 4; got 9"):
        simclr.make_simclr(ENCODER, num_proj_layers=9)


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


def with_classifier(**options) -> base.Method:
    options = {"num_proj_layers": 2, "proj_out_dim": 5, "num_classes": 4, "supervised_weight": 0.5, **options}
    return simclr.make_simclr(ENCODER, **options)


@pytest.mark.slow
def test_the_classifier_adds_its_head_and_nothing_else_changes():
    plain, more = simclr.make_simclr(ENCODER, num_proj_layers=2, proj_out_dim=5), with_classifier()
    params, state = jax.jit(plain.init)(jax.random.key(3), jnp.asarray(VIEWS))
    params_more, state_more = jax.jit(more.init)(jax.random.key(3), jnp.asarray(VIEWS))
    head = params_more["supervised_head"]["dense"]
    assert set(params_more) == {*params, "supervised_head"} and set(head) == {"kernel", "bias"}
    for ours, expected in zip(
        jax.tree.leaves(({name: params_more[name] for name in params}, state_more)),
        jax.tree.leaves((params, state)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, expected)
    assert head["kernel"].shape == (ENCODER.num_features, 4) and not head["bias"].any()
    # 64 draws of a normal distribution of 0.01.
    assert 0.006 < float(head["kernel"].std()) < 0.014


@pytest.mark.parametrize(("selector", "width"), [(0, 16), (1, 16), (2, 5), (-1, 5)])
def test_the_classifier_reads_the_selected_activation(selector, width):
    assert ENCODER.num_features == 16
    params, _ = shapes(with_classifier(ft_proj_selector=selector))
    assert params["supervised_head"]["dense"]["kernel"].shape == (width, 4)


@functools.cache
def compiled_with_classifier(selector: int):
    """(params, state, function of the batch that gives ((loss, metrics), gradient))."""
    method = with_classifier(ft_proj_selector=selector)
    params, state = (numbers_for(tree) for tree in shapes(method))

    @jax.jit
    def run(batch):
        def total(params):
            outputs, new_state = method.embed(params, state, jnp.asarray(VIEWS), batch, None)
            loss, (_, metrics) = method.loss(outputs, new_state)
            return loss, metrics

        return jax.value_and_grad(total, has_aux=True)(params)

    return params, state, run


def run_with_classifier(labels, *, selector: int = 0):
    """(params, state, loss, metrics, gradient) of one batch."""
    params, state, run = compiled_with_classifier(selector)
    (loss, metrics), gradient = run(make_batch(labels))
    return params, state, float(loss), {name: float(value) for name, value in metrics.items()}, gradient


def test_the_classifier_sees_all_views_of_the_labelled_images_and_is_weighed_into_the_loss():
    labels = (3, -1, 1)
    params, state, loss, metrics, _ = run_with_classifier(labels)
    assert loss == pytest.approx(2 * metrics["contrastive_loss"] + 0.5 * metrics["supervised_loss"], rel=1e-6)
    statistics = state["batch_stats"]["encoder"]
    apply = jax.jit(functools.partial(ENCODER.apply, train=True, mutable=["batch_stats"]))
    h, _ = apply({"params": params["encoder"], "batch_stats": statistics}, VIEWS.reshape(6, 8, 8, 3))
    head = params["supervised_head"]["dense"]
    logits = np.asarray(h, np.float64) @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"], np.float64)
    values, hits = [], []
    for image, label in enumerate(labels):
        for row in logits[2 * image : 2 * image + 2] if label >= 0 else ():
            values.append(np.log(np.exp(row).sum()) - row[label])
            hits.append(row.argmax() == label)
    assert metrics["supervised_loss"] == pytest.approx(np.mean(values), rel=1e-4)
    assert metrics["supervised_accuracy"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("selector", [0, 1])
def test_no_gradient_passes_the_classifier(selector):
    *_, gradient = run_with_classifier((0, 1, 2), selector=selector)
    *_, without = run_with_classifier((-1, -1, -1), selector=selector)
    for part in ("encoder", "projection_head"):
        for ours, expected in zip(jax.tree.leaves(gradient[part]), jax.tree.leaves(without[part]), strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert np.asarray(gradient["supervised_head"]["dense"]["kernel"]).any()
    assert not np.asarray(without["supervised_head"]["dense"]["kernel"]).any()


def test_a_batch_without_labels_has_no_classification_loss():
    *_, loss, metrics, _ = run_with_classifier((-1, -1, -1))
    assert metrics["supervised_loss"] == metrics["supervised_accuracy"] == 0
    assert loss == pytest.approx(2 * metrics["contrastive_loss"], rel=1e-6)


def test_without_a_classifier_labels_are_not_read():
    method = simclr.make_simclr(ENCODER, num_proj_layers=1, num_classes=4)
    params, state = shapes(method)
    outputs, _ = jax.eval_shape(method.embed, params, state, jnp.asarray(VIEWS), None, None)
    assert "supervised_head" not in params and set(outputs) == {"z"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supervised_weight": -1.0}, "supervised_weight must be at least 0 and finite; got -1.0"),
        ({"supervised_weight": float("nan")}, "supervised_weight must be at least 0"),
        ({"num_classes": 0}, "num_classes of at least 2; got 0"),
        ({"ft_proj_selector": 3}, "selector must be -3 to 2 for a head of 2 layers; got 3"),
    ],
)
def test_make_simclr_refuses_an_impossible_classifier(options, message):
    with pytest.raises(base.InputError, match=message):
        with_classifier(**options)
