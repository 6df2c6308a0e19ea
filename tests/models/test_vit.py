"""Vision transformers against timm's features and parameter counts, and MoCo v3's fixed positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import pytorch_layouts, timm_layouts, variables
from simclr_jax.models import vit
from tests import golden, parity
from tests.golden import record_encoders
from tests.models.test_resnet import count, shapes_of

# Parameters of timm's networks without their classifier (vit_{tiny,small,base,large}_patch{8,16,32}_224).
COUNTS = [
    ("vit_tiny", 16, 5_524_416),
    ("vit_small", 16, 21_665_664),
    ("vit_small", 8, 21_670_272),
    ("vit_small", 32, 22_493_952),
    ("vit_base", 16, 85_798_656),
    ("vit_base", 32, 87_455_232),
    ("vit_large", 16, 303_301_632),
]


def small(**arguments) -> vit.ViT:
    return vit.ViT(32, 2, patch_size=8, num_heads=4, position_grid=2, **arguments)


@functools.cache
def weights_of(encoder, layout: str = ""):
    """The encoder's variables with the values that the recorded networks have, by way of their names."""
    shapes = shapes_of(encoder, 32)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    ours = variables.flatten({"encoder": zeros["params"]}, {"encoder": zeros.get("batch_stats", {})})
    is_torchvisions = getattr(encoder, "name_of_scale", "").startswith("efficientnet_b")
    is_torchvisions = is_torchvisions and encoder.padding == "torchvision"
    layout = layout or ("torchvision" if is_torchvisions else "timm")
    # Fixed positions are no variables here; timm has a table for them.
    fixed = {} if "encoder/positions" in ours else {"encoder/positions": np.zeros((5, 32), np.float32)}
    state = timm_layouts.to_torch({**(fixed if isinstance(encoder, vit.ViT) else {}), **ours}, layout=layout)
    read = pytorch_layouts.read(record_encoders.weights_of({name: value.shape for name, value in state.items()}))
    assert read.by_name.keys() >= ours.keys() and not read.unknown and not read.missing
    params, batch_stats = variables.unflatten({name: read.by_name[name] for name in ours})
    return {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}


@functools.cache
def encode_with(encoder):
    return jax.jit(lambda weights, images: encoder.apply(weights, images, train=False))


@functools.cache
def features(encoder, side: int, layout: str = "") -> np.ndarray:
    return np.asarray(encode_with(encoder)(weights_of(encoder, layout), record_encoders.images(side)))


@pytest.mark.few(2)
@pytest.mark.parametrize(("name", "patch_size", "expected"), COUNTS)
def test_a_transformer_has_as_many_parameters_as_timms(name, patch_size, expected):
    encoder = models.make_encoder(name, patch_size=patch_size, position_grid=224 // patch_size)
    assert count(shapes_of(encoder)) == expected
    assert encoder.num_features == shapes_of(encoder)["params"]["norm"]["scale"].size


@pytest.mark.parametrize(("pool", "side"), [("token", 16), ("token", 24), ("mean", 16)])
def test_features_are_timms(pool, side, compare):
    """At 24 pixels learned positions of a grid of 2 are interpolated to 3. Observed: 4e-7 of the largest feature."""
    expected = golden.load("encoders")[f"vit/{pool}/{side}"]
    found = features(small(pool=pool), side)
    compare("ViT, eval, f32", found, expected, limit=1e-5, of=parity.LARGEST, source="timm")


def test_the_features_of_an_image_do_not_depend_on_the_others():
    encoder = small()
    images = record_encoders.images(16)
    reversed_too = encode_with(encoder)(weights_of(encoder), images[::-1])[::-1]
    np.testing.assert_array_equal(reversed_too, features(encoder, 16))


def test_fixed_positions_are_those_of_moco_v3():
    """Row before column, sine before cosine, frequencies 10000^(-i / (D/4)); by loops over places."""
    found = vit.sincos_positions((3, 2), 8, trained_grid=3)[:, :]
    # A grid of 2 columns on an image trained with 3: their centres lie at 1/4 and 7/4 of a patch.
    for row in range(3):
        for number, column in enumerate((0.25, 1.75)):
            expected = [f(c * w) for c in (row, column) for f in (np.sin, np.cos) for w in (1.0, 0.01)]
            np.testing.assert_allclose(found[2 * row + number], expected, atol=1e-12)


@pytest.mark.slow
def test_frozen_patches_get_no_gradient_and_all_else_does():
    encoder = small(positions="sincos", freeze_patches=True, remat="blocks")
    images = jnp.asarray(record_encoders.images(16))
    params = weights_of(encoder)["params"]
    assert "positions" not in params and encoder.still_modules == ("patch_projection",)

    def loss(params, encoder):
        return jnp.sum(jnp.sin(encoder.apply({"params": params}, images, train=True)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)(params, encoder)
    moved = {name: any(leaf.any() for leaf in jax.tree.leaves(tree)) for name, tree in gradient.items()}
    assert [name for name, any_moved in moved.items() if not any_moved] == ["patch_projection"]
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["block1"]))


def test_bfloat16_is_for_activations_only():
    """Also where types are never mixed silently, as in all tests."""
    shapes = jax.eval_shape(
        lambda x: small(dtype="bfloat16").init_with_output(jax.random.key(0), x, train=True),
        jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_images_are_normalised_by_the_encoder_itself():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain, normalising = small(), small(mean=mean, std=std)
    images = record_encoders.images(16)
    by_hand = encode_with(plain)(weights_of(plain), (images - np.float32(mean)) / np.float32(std))
    np.testing.assert_allclose(encode_with(normalising)(weights_of(plain), images), by_hand, atol=1e-5)


def test_images_must_consist_of_whole_patches():
    with pytest.raises(base.InputError, match="image_size must be a multiple of the encoder's patch_size; got images"):
        shapes_of(models.make_encoder("vit_tiny"), 40)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_tiny", {"sk_ratio": 0.0625}, "sk_ratio is for ResNets; got 0.0625 with the encoder vit_tiny"),
        ("efficientnet_b0", {"width_multiplier": 2.0}, "width_multiplier is for ResNets; got 2.0 with the encoder eff"),
        ("resnet18", {"pool": "mean"}, "pool is for vision transformers; got mean with the encoder resnet18"),
        ("vit_tiny", {"patch_size": 15}, "patch_size must be one of 4, 8, 14, 16, 32; got 15"),
        ("vit_tiny", {"num_heads": 5}, "num_heads must divide 192, the width of vit_tiny, or be 0 for 3; got 5"),
        ("vit_tiny", {"positions": "rotary"}, "positions must be one of learned, sincos"),
        ("vit_tiny", {"position_grid": 0}, "position_grid must be 1 to 256"),
    ],
)
def test_arguments_of_another_family_or_out_of_range_are_refused(name, arguments, message):
    with pytest.raises(base.InputError, match=message):
        models.make_encoder(name, **arguments)
