"""The selective kernel against its formula, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.models import selective_kernel

FEATURES, SIDE = 3, 4


def convolved(x, kernel):
    """[H, W, C] under a kernel [k, k, C, D], zeros around."""
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    out = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for row, column in np.ndindex(*x.shape[:2]):
        patch = padded[row : row + kernel.shape[0], column : column + kernel.shape[1]]
        out[row, column] = np.einsum("ijc,ijcd->d", patch, kernel)
    return out


def normalized(x, params, stats):
    scaled = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return np.maximum(scaled * params["scale"] + params["bias"], 0)


def test_each_channel_is_a_softmax_over_two_streams_which_sees_the_whole_image():
    unit = selective_kernel.SelectiveKernel(FEATURES, 1, 0.5)
    image = np.random.default_rng(0).normal(size=(SIDE, SIDE, 2))
    variables = unit.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 2)), train=False)
    leaves, tree = jax.tree.flatten(variables)
    drawn = [np.abs(np.random.default_rng(n).normal(size=leaf.shape)) + 0.1 for n, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, [d - 1.0 * (d.ndim == 4) for d in drawn])  # kernels of both signs
    params, stats = variables["params"], variables["batch_stats"]

    both = normalized(convolved(image, params["conv"]["kernel"]), params["bn"], stats["bn"])
    first, second = both[..., :FEATURES], both[..., FEATURES:]
    mean = (first + second).mean(axis=(0, 1), keepdims=True)
    squeezed = normalized(convolved(mean, params["squeeze_conv"]["kernel"]), params["squeeze_bn"], stats["squeeze_bn"])
    logits = convolved(squeezed, params["expand_conv"]["kernel"])[0, 0].reshape(2, FEATURES)
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert np.abs(shares[0] - 0.5).max() > 0.1, "the streams must not be alike"
    expected = shares[0] * first + shares[1] * second

    found = unit.apply(jax.tree.map(jnp.float32, variables), jnp.float32(image[None]), train=False)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
