"""CoCa's loss and its decoding, against loops in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses, methods
from simclr_jax.methods import coca
from simclr_jax.models import captions
from tests.methods import settings, steps

# Begin is 4, the end is 5.
TOKENS = np.asarray([[4, 1, 2, 5, 0], [4, 5, 0, 0, 0], [4, 3, 3, 3, 5]], np.int32)
TABLE = np.random.default_rng(3).normal(size=(6, 6)) * 2


def log_softmax(scores):
    scores = scores - scores.max()
    return scores - np.log(np.exp(scores).sum())


def test_the_caption_loss_counts_the_tokens_up_to_the_end_and_weighs_the_parts():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 2, 5, 6))
    told = jax.tree.map(np.asarray, coca.caption_losses(jnp.asarray(scores, jnp.float32), jnp.asarray(TOKENS)))
    sums, counts = np.zeros(3), np.zeros(3)
    for row, text in enumerate(TOKENS):
        for place in range(1, list(text).index(5) + 1):
            counts[row] += 1
            sums[row] -= np.mean([log_softmax(scores[row, view, place - 1])[text[place]] for view in (0, 1)])
    np.testing.assert_array_equal(told["num_tokens"], counts)
    np.testing.assert_allclose(told["caption_loss"], sums, rtol=1e-5)
    image, text = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 2, 4), (3, 4)))
    outputs = {"image": image, "text": text, "log_scale": jnp.full(3, 1.5), **told}
    method = methods.make_coca(steps.TinyEncoder(4), **{**settings.arguments("coca"), "contrastive_weight": 0.5})
    value, (_, metrics) = method.loss(outputs, {})
    contrastive = np.mean([float(losses.clip(image[:, view], text, log_scale=1.5)[0]) for view in (0, 1)])
    assert float(value) == pytest.approx(0.5 * contrastive + 2.0 * sums.sum() / counts.sum(), rel=1e-5)
    assert float(metrics["caption_loss"]) == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)


def score_next(tokens):
    """A Markov chain: the scores of the next token depend on the one before, and on the image by its place."""
    first = jnp.arange(tokens.shape[0], dtype=jnp.float32)[:, None, None, None]
    return jnp.asarray(TABLE, jnp.float32)[tokens] * (1.0 + 0.5 * first)


def probability(text, *, row: int) -> float:
    """The logarithm of the probability of tokens [L] that begin with 4 and have only 0 behind 5."""
    total = 0.0
    for before, token in itertools.pairwise(text):
        if before == 5:
            break
        total += log_softmax(TABLE[before] * (1.0 + 0.5 * row))[token]
    return total


@pytest.mark.parametrize("num_beams", [1, 6**3])
def test_one_beam_takes_the_likeliest_token_and_all_beams_find_the_likeliest_text(num_beams):
    sizes = {"num_texts": 2, "length": 4, "vocab_size": 6}
    tokens, total = jax.jit(lambda: captions.decode(score_next, num_beams=num_beams, **sizes))()
    for row in range(2):
        best = [4]
        while num_beams == 1 and len(best) < 4 and best[-1] != 5:
            best.append(int(TABLE[best[-1]].argmax()))
        best += [0] * (4 - len(best))
        if num_beams > 1:
            ways = [[4, *rest] for rest in itertools.product(range(6), repeat=3)]
            ways = [way for way in ways if 5 not in way or not any(way[way.index(5) + 1 :])]
            best = max(ways, key=lambda way: probability(way, row=row))
        assert tokens[row].tolist() == best
        assert float(total[row]) == pytest.approx(probability(best, row=row), rel=1e-5)


@pytest.mark.slow
def test_a_caption_is_written_from_a_representation_and_its_tokens_are_causal():
    sizes = {key: value for key, value in settings.arguments("coca").items() if key not in ("proj_out_dim", "dtype")}
    method, decoder = methods.make_coca(steps.TinyEncoder(4), **sizes, proj_out_dim=8), coca.make_decoder(**sizes)
    params, _ = jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, 1, 6, 6, 3)))
    h = jax.random.normal(jax.random.key(1), (3, len(params["image_projection"]["kernel"])))
    written = coca.write_captions(params, h, decoder=decoder, num_beams=2)
    assert written.shape == (3, 5) and (written[:, 0] == 18).all()
    tower, captioner = decoder

    def scores(tokens):
        places = tower.apply({"params": params["text_encoder"]}, tokens, at_all_places=True)
        return np.asarray(captioner.apply({"params": params["captioner"]}, h, places))

    changed = scores(written.at[:, 3].set(7)) - scores(written.at[:, 3].set(2))
    np.testing.assert_array_equal(changed[:, :3], 0)
    assert np.abs(changed[:, 3]).max() > 1e-4
    with pytest.raises(base.InputError, match="num_beams must be at least 1; got 0"):
        coca.write_captions(params, h, decoder=decoder, num_beams=0)
    with pytest.raises(base.InputError, match=r"caption_weight must be at least 0; got -1"):
        methods.make_coca(steps.TinyEncoder(4), **sizes, caption_weight=-1.0)
