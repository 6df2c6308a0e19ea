"""CLIP's loss in tiles beside the recorded values and the dense form, SigLIP's beside a float64 loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

CLIP = family.load("loss_clip")
CASES = family.cases(CLIP, "image")


@functools.cache
def results(dtype: str, cases: tuple[str, ...]):
    def form(case):
        return losses.clip_blockwise(case["image"], case["text"], log_scale=case["log_scale"], block_size=4)

    return family.run(CLIP, cases, form, inputs=("image", "text", "log_scale"), dtype=dtype)


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES))
def test_clip_in_tiles_equals_the_reference_with_the_gradient_of_its_scale(case, dtype, compare):
    family.check(
        CLIP, case, results(dtype, family.program(CASES, case))[case], dtype=dtype, compare=(compare, "CLIP in tiles")
    )


def test_siglip_equals_its_loop():
    rng = np.random.default_rng(0)
    given = (*rng.normal(size=(2, 5, 3)), np.asarray(1.5), np.asarray(-2.0))
    family.check_oracle(lambda i, t, s, b: losses.siglip(i, t, log_scale=s, bias=b), family_oracles.siglip, *given)


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize("block_size", [3, 1, 5, 16])
def test_tiles_of_any_size_give_loss_metrics_and_gradients_of_the_dense_forms(block_size):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        image, text = jnp.asarray(rng.normal(size=(2, 10, 4)))
        text, scale, bias = text + 0.8 * image, jnp.asarray(1.2), jnp.asarray(-0.7)

        def both(form):
            return jax.jit(jax.value_and_grad(form, argnums=(0, 1, 2, 3), has_aux=True))(image, text, scale, bias)

        def clip(form, **tiles):
            return lambda i, t, s, b: form(i, t, log_scale=s, **tiles)

        def siglip(form, **tiles):
            return lambda i, t, s, b: form(i, t, log_scale=s, bias=b, **tiles)

        pairs = [(clip, losses.clip, losses.clip_blockwise), (siglip, losses.siglip, losses.siglip_blockwise)]
        for wrap, dense, tiled in pairs:
            expected, ours = both(wrap(dense)), both(wrap(tiled, block_size=block_size))
            assert 0 < expected[0][1]["image_to_text_accuracy"] < 1
            for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_a_learnt_batch_keeps_its_digits_in_float32():
    """Own pairs far above all others: the loss is e-12, not the 0 of 1 - p."""
    image = jnp.eye(4)
    loss, gradient = jax.value_and_grad(lambda x: losses.clip_blockwise(x, image, log_scale=3.33)[0])(image)
    assert float(loss) == pytest.approx(3 * np.exp(-np.exp(3.33)), rel=1e-4)
    assert np.abs(gradient).max() > 0


@pytest.mark.slow
def test_the_losses_of_equal_embeddings():
    rows = jnp.ones((6, 4))
    assert float(losses.clip_blockwise(rows, rows, log_scale=1.0, block_size=4)[0]) == pytest.approx(np.log(6))
    # The bias with which 1 of 6 pairs is a match.
    bias = np.log(1 / 5) - np.e
    best = np.log(6) + 5 * np.log(6 / 5)
    assert float(losses.siglip(rows, rows, log_scale=1.0, bias=bias)[0]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: losses.clip_blockwise(x, x[:2], log_scale=1.0), "clip needs image and text of one shape"),
        (lambda x: losses.siglip(x, x[:2], log_scale=1.0, bias=0.0), "siglip needs image and text of one shape"),
        (lambda x: losses.clip_blockwise(x, x, log_scale=1.0, block_size=0), "block_size must be at least 1"),
        (lambda x: losses.clip_blockwise(x, x, log_scale=1.0, exchange="post"), "one of gather, ring; got 'post'"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(call, message):
    with pytest.raises(base.InputError, match=message):
        call(jnp.ones((3, 4)))
