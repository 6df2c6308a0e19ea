"""BLIP's matching loss and its hard negatives, against loops in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses, methods
from simclr_jax.methods import blip
from tests.methods import settings, steps

B, D = 4, 3


def make(**options):
    return methods.make_blip(steps.TinyEncoder(4), **{**settings.arguments("blip"), **options})


def negative(scores, own: int, draw: float) -> int:
    """The column that a draw falls on, of a row of similarities without its own."""
    others = [column for column in range(len(scores)) if column != own]
    chances = np.exp(scores[others]) / np.exp(scores[others]).sum()
    reached = 0.0
    for column, chance in zip(others, chances, strict=True):
        reached += chance
        if draw < reached:
            return column
    raise AssertionError("a draw is below 1")


@pytest.mark.slow
def test_the_loss_is_that_of_pairs_and_of_the_negatives_that_the_draws_choose():
    rng = np.random.default_rng(0)
    image, text, kernel = rng.normal(size=(B, D)), rng.normal(size=(B, D)), rng.normal(size=D)
    draws, bias, scale = rng.random((B, 2)), 0.3, 2.5
    outputs = {"image": image[:, None], "text": text, "log_scale": np.full(B, np.log(scale)), "draws": draws}
    outputs |= {"matching_kernel": np.tile(kernel, (B, 1)), "matching_bias": np.full(B, bias)}
    outputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), outputs)
    value, (_, metrics) = make(matching_weight=0.7).loss(outputs, {})
    image, text = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (image, text))
    total, right = 0.0, 0
    for row in range(B):
        other_text = negative(scale * image[row] @ text.T, row, draws[row, 0])
        other_image = negative(scale * image @ text[row], row, draws[row, 1])
        for a, b, belongs in ((row, row, 1), (row, other_text, 0), (other_image, row, 0)):
            logit = (image[a] * text[b] * kernel).sum() + bias
            answer = 1 / (1 + np.exp(-logit))
            total -= np.log(answer if belongs else 1 - answer) / (3 * B)
            right += (answer > 0.5) == bool(belongs)
    contrastive, _ = losses.clip(outputs["image"][:, 0], outputs["text"], log_scale=np.log(scale))
    assert float(metrics["matching_loss"]) == pytest.approx(total, rel=1e-5)
    assert float(metrics["matching_accuracy"]) == pytest.approx(right / (3 * B))
    assert float(value) == pytest.approx(float(contrastive) + 0.7 * total, rel=1e-5)


def test_negatives_are_drawn_as_often_as_they_are_similar_and_never_the_own_one():
    similarity, num = np.random.default_rng(1).normal(size=(3, 3)) * 2, 4000
    places = (np.arange(num) + 0.5) / num
    drawn = jax.vmap(lambda place: blip.draw_negatives(jnp.asarray(similarity), jnp.full(3, place)))(
        jnp.asarray(places)
    )
    for row in range(3):
        chances = np.exp(similarity[row]) * (np.arange(3) != row)
        shares = np.bincount(np.asarray(drawn)[:, row], minlength=3) / num
        # Evenly spread draws miss a share by two halves of their distance at most.
        np.testing.assert_allclose(shares, chances / chances.sum(), atol=1.5 / num)
    ends = jnp.asarray([0.0, 1 - 2.0**-23, 0.0])
    assert (np.asarray(blip.draw_negatives(jnp.asarray(similarity), ends)) != np.arange(3)).all()


def test_a_negative_weight_is_refused():
    with pytest.raises(base.InputError, match=r"matching_weight must be at least 0; got -1.0"):
        make(matching_weight=-1.0)
