"""The text tower beside float64 loops, and what a token may read."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, models

SIZES = {"vocab_size": 30, "length": 6, "width": 8, "num_layers": 2, "num_heads": 2}
TOKENS = np.asarray([[28, 3, 7, 29, 0, 0], [28, 5, 5, 9, 1, 29]], np.int32)


@functools.cache
def tower(**changed):
    """(tower, variables away from the start) in float64."""
    with jax.enable_x64(True):
        module = models.make_text_tower(**{**SIZES, **changed}, dtype="float64")
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(TOKENS)))
        rng = np.random.default_rng(0)
        return module, jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape) + (len(x.shape) == 1), shapes)


def normalized(x, p):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]


def loop(params, tokens, *, num_heads, attention, activation):
    """A text, token by token and head by head."""
    end = int(np.argmax(tokens))
    acts = {
        "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
        "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    }
    x = [params["token_embedding"][t] + params["position_embedding"][i] for i, t in enumerate(tokens)]
    for number in (1, 2):
        p = params[f"block{number}"]
        qkv = [normalized(row, p["norm1"]) @ p["qkv"]["kernel"] + p["qkv"]["bias"] for row in x]
        width = len(x[0])
        size = width // num_heads
        new = []
        for i, row in enumerate(x):
            heads = []
            for head in range(num_heads):
                part = slice(head * size, (head + 1) * size)
                read = [j for j in range(len(x)) if (j <= i if attention == "causal" else j <= end)]
                q = qkv[i][:width][part]
                logits = [q @ qkv[j][width : 2 * width][part] / math.sqrt(size) for j in read]
                e = np.exp(np.asarray(logits) - max(logits))
                values = [qkv[j][2 * width :][part] for j in read]
                heads.append(sum(w * v for w, v in zip(e / e.sum(), values, strict=True)))
            row = row + np.concatenate(heads) @ p["out"]["kernel"] + p["out"]["bias"]
            hidden = normalized(row, p["norm2"]) @ p["mlp1"]["kernel"] + p["mlp1"]["bias"]
            hidden = np.asarray([acts[activation](float(h)) for h in hidden])
            new.append(row + hidden @ p["mlp2"]["kernel"] + p["mlp2"]["bias"])
        x = new
    return normalized(x[end], params["norm"])


@pytest.mark.parametrize(("attention", "activation"), [("causal", "quick_gelu"), ("bidirectional", "gelu")])
def test_a_tower_equals_its_loop(attention, activation):
    module, variables = tower(attention=attention, activation=activation)
    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(module.apply)(variables, jnp.asarray(TOKENS)))
    for row, tokens in zip(ours, TOKENS, strict=True):
        choices = {"attention": attention, "activation": activation}
        np.testing.assert_allclose(row, loop(variables["params"], tokens, num_heads=2, **choices), rtol=1e-10)


@pytest.mark.few(1)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_padding_is_read_by_no_one(attention):
    module, variables = tower(attention=attention, activation="gelu")
    other = TOKENS.copy()
    other[0, 4:] = 17
    with jax.enable_x64(True):
        a, b = (np.asarray(module.apply(variables, jnp.asarray(x))) for x in (TOKENS, other))
    np.testing.assert_array_equal(a, b)


def test_clip_has_as_many_parameters_as_published():
    """63.4 million of the text transformer of ViT-B/32, its last projection left out."""
    module = models.make_text_tower(vocab_size=49408, length=77)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 77), jnp.int32)))["params"]
    # Embeddings, 12 blocks of 12 W^2 + 13 W, and the last LayerNorm.
    expected = (49408 + 77) * 512 + 12 * (12 * 512**2 + 13 * 512) + 2 * 512
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected == 63_165_952


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_heads": 3}, "text_num_heads must divide text_width; got 3 and 8"),
        ({"length": 2}, "length must be at least 3"),
        ({"num_layers": 0}, "text_num_layers must be at least 1"),
        ({"attention": "none"}, "text_attention must be one of causal, bidirectional"),
        ({"activation": "relu"}, "text_activation must be one of gelu, quick_gelu"),
    ],
)
def test_wrong_numbers_are_refused_in_one_line(changed, message):
    with pytest.raises(base.InputError, match=message):
        models.make_text_tower(**{**SIZES, **changed})
