"""What CLIP's method does beside its loss: the clamp, the decay, the mean over views, SigLIP's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses, methods, optim
from tests.methods import settings, steps


def make(**options):
    return methods.make_clip(steps.TinyEncoder(4), **{**settings.arguments("clip"), **options})


def start(method):
    return jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, 1, 6, 6, 3)))


@pytest.mark.parametrize(("objective", "after"), [("clip", [0.0, 2.0, np.log(100)]), ("siglip", [-1.0, 2.0, 9.0])])
def test_the_scale_of_clip_is_clamped_after_an_update_and_that_of_siglip_is_not(objective, after):
    method = make(objective=objective)
    for value, expected in zip((-1.0, 2.0, 9.0), after, strict=True):
        params, _ = method.update({"logits": {"log_scale": jnp.asarray(value)}, "encoder": 1}, {}, jnp.int32(0))
        assert float(params["logits"]["log_scale"]) == pytest.approx(expected) and params["encoder"] == 1


def test_scale_and_bias_start_as_published_and_are_not_decayed():
    method = make(objective="siglip")
    shapes, _ = start(method)
    assert sorted(shapes["logits"]) == ["bias", "log_scale"] and sorted(start(make())[0]["logits"]) == ["log_scale"]
    masks = optim.weight_mask(shapes), optim.adapted_mask(shapes)
    assert not any(jax.tree.leaves([mask["logits"] for mask in masks]))
    assert masks[0]["text_encoder"]["token_embedding"] and masks[0]["image_projection"]["kernel"]
    assert np.exp(losses.CLIP_INITIAL_LOG_SCALE) == pytest.approx(1 / 0.07)
    assert (np.exp(losses.SIGLIP_INITIAL_LOG_SCALE), losses.SIGLIP_INITIAL_BIAS) == (pytest.approx(10), -10)


@pytest.mark.few(2)
@pytest.mark.parametrize("form", ["dense", "blockwise", "ring"])
@pytest.mark.parametrize("objective", methods.clip.OBJECTIVES)
def test_the_loss_is_the_mean_over_views_in_every_form(objective, form):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(5, 2, 4)), rng.normal(size=(5, 4))
    numbers = {"log_scale": 1.3, "bias": -0.4} if objective == "siglip" else {"log_scale": 1.3}
    outputs = {"image": image, "text": text, **{name: np.full(5, value) for name, value in numbers.items()}}
    outputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), outputs)
    loss, (state, metrics) = make(objective=objective, loss_form=form).loss(outputs, {"kept": 1})
    dense = {"clip": losses.clip, "siglip": losses.siglip}[objective]
    each = [float(dense(outputs["image"][:, v], outputs["text"], **numbers)[0]) for v in (0, 1)]
    # Sums in another order, in float32.
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-5) and state == {"kept": 1}
    assert float(metrics["logit_scale"]) == pytest.approx(np.exp(1.3))


def test_siglip_announces_the_best_that_equal_embeddings_can_have():
    rows, size = jnp.ones((4, 3)), 4
    announced = methods.uninformed_loss({"name": "clip", "objective": "siglip"}, batch_size=size, num_classes=0)
    scanned = [float(losses.siglip(rows, rows, log_scale=0.0, bias=b)[0]) for b in np.linspace(-4, 0, 81)]
    assert announced == pytest.approx(min(scanned), abs=1e-3)


def test_unknown_choices_are_refused_in_one_line():
    for options, message in (
        ({"objective": "x"}, "objective must be one of clip, siglip"),
        ({"loss_form": "x"}, "one of"),
    ):
        with pytest.raises(base.InputError, match=message):
            make(**options)
