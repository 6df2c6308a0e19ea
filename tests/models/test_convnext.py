"""ConvNeXts against torchvision's and timm's features and parameter counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.models import convnext
from tests import golden, parity
from tests.golden import record_encoders
from tests.models import test_vit
from tests.models.test_resnet import count, shapes_of

# Parameters of torchvision's networks without their last dense layer, and of timm's with num_classes=0.
COUNTS = {
    "convnext_tiny": 27_820_128,
    "convnext_small": 49_454_688,
    "convnext_base": 87_566_464,
    "convnext_large": 196_230_336,
}


def small(**arguments) -> convnext.ConvNeXt:
    settings = record_encoders.CONVNEXT
    return convnext.ConvNeXt(settings["dims"], settings["depths"], **arguments)


@pytest.mark.parametrize("name", COUNTS)
def test_a_convnext_has_as_many_parameters_as_torchvisions_and_timms(name):
    encoder = models.make_encoder(name)
    shapes = shapes_of(encoder)
    assert shapes.keys() == {"params"} and count(shapes) == COUNTS[name]
    assert encoder.num_features == shapes["params"]["norm"]["scale"].size


@pytest.mark.parametrize(("layout", "side"), [("torchvision", 32), ("timm", 45)])
def test_features_are_torchvisions_and_timms(layout, side, compare):
    """At 45 pixels the last rows and columns fill no window, here as there. Observed: 3e-7 of the largest feature."""
    expected = golden.load("encoders")[f"convnext/{layout}"]
    found = test_vit.features(small(), side, layout)
    compare("ConvNeXt, eval, f32", found, expected, limit=1e-5, of=parity.LARGEST, source=layout)


@pytest.mark.slow
def test_blocks_run_again_give_the_same_gradient():
    images = jnp.asarray(record_encoders.images(32))
    shorter = functools.partial(convnext.ConvNeXt, (8,), (1,))
    params = test_vit.weights_of(shorter(), "timm")["params"]

    def loss(params, encoder):
        return jnp.sum(jnp.sin(encoder.apply({"params": params}, images, train=True)))

    kept, again = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, shorter(remat=remat)) for remat in ("none", "blocks")
    )
    for ours, other in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        assert np.any(ours)
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_in_bfloat16_parameters_and_h_stay_float32():
    """Types are never mixed silently in tests, so that this also shows that no layer needs it."""
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    made = jax.eval_shape(lambda x: small(dtype="bfloat16").init_with_output(jax.random.key(0), x, train=True), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


def test_images_must_not_vanish_on_the_way():
    with pytest.raises(base.InputError, match="image_size must be at least 32 for a ConvNeXt; got images of 28 x 28"):
        shapes_of(models.make_encoder("convnext_tiny"), 28)
