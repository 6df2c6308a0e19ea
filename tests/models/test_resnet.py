"""ResNet encoders against the reference's features, statistics and parameter counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import base, models
from simclr_jax.models import resnet
from tests import golden, oracles, parity

# file, depth, keyword arguments, tolerance of train mode in float32: README of the golden files (the variance is
# computed as E[x^2] - E[x]^2, and few values enter the last groups).
SMALL = {
    "resnet_r18_w0.0625_cifar_32": ("resnet18", {"stem": "cifar", "width_multiplier": 0.0625}, 3e-4),
    "resnet_r18_w2_cifar_32": ("resnet18", {"stem": "cifar", "width_multiplier": 2}, 3e-4),
    "resnet_r18_cifar_32": ("resnet18", {"stem": "cifar"}, 3e-4),
    "resnet_r18_imagenet_64": ("resnet18", {}, 3e-4),
    "resnet_r34_cifar_32": ("resnet34", {"stem": "cifar"}, 3e-4),
    "resnet_r50_imagenet_64": ("resnet50", {}, 5e-3),
    "resnet_r50_sk_imagenet_64": ("resnet50", {"sk_ratio": 0.0625}, 5e-3),
}
LARGE = {
    "resnet_r34_imagenet_64": ("resnet34", {}, 3e-4),
    "resnet_r50_cifar_32": ("resnet50", {"stem": "cifar"}, 5e-3),
    "resnet_r50_w0.0625_imagenet_64": ("resnet50", {"width_multiplier": 0.0625}, 5e-3),
}
# File -> the case of the TF1 code that has the same weights and images.
TF1 = {"resnet_r18_cifar_32": "r18_cifar_32", "resnet_r50_sk_imagenet_64": "r50_sk_imagenet_64"}
ENDPOINTS = {
    "initial_conv": ("stem", "conv"),  # the last convolution of the stem
    "initial_max_pool": ("stem",),
    **{f"block_group{g}": (f"block_group{g}",) for g in range(1, 5)},
}


@functools.cache
def shapes_of(encoder: nn.Module, image_size: int = 32):
    images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.dtype(encoder.dtype))
    return jax.eval_shape(lambda key, x: encoder.init(key, x, train=False), jax.random.key(0), images)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def run(name: str, arguments: dict, images: np.ndarray, dtype: str):
    """(features, intermediates) in eval mode and (features, new statistics, intermediates) in train mode."""
    encoder = models.make_encoder(name, dtype=dtype, **arguments)
    variables = oracles.golden_variables(shapes_of(encoder), dtype=np.dtype(dtype))

    def both(variables, images):
        h, state = encoder.apply(variables, images, train=False, capture_intermediates=True, mutable=["intermediates"])
        h_train, state_train = encoder.apply(
            variables, images, train=True, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
        )
        moments = [mean_and_std_of_endpoints(s["intermediates"]) for s in (state, state_train)]
        return (h, moments[0]), (h_train, moments[1], {"batch_stats": state_train["batch_stats"]})

    return jax.device_get(jax.jit(both)(variables, jnp.asarray(images.astype(dtype))))


def mean_and_std_of_endpoints(intermediates) -> dict[str, jax.Array]:
    moments = {}
    for endpoint, path in ENDPOINTS.items():
        node = intermediates
        for name in path:
            node = node[name] if name != "conv" else node[max(key for key in node if key.startswith("conv"))]
        x = node["__call__"][0]
        moments[endpoint] = jnp.stack([jnp.mean(x), jnp.std(x)])
    return moments


_SUMS = "train/updated_statistics_sum_all_f64"


def check_float64(file: str, expected: dict[str, np.ndarray], net: tuple, *, compare) -> None:
    with jax.enable_x64(True):
        (h, moments), (h_train, moments_train, statistics) = run(*net[:2], expected["input"], "float64")
    words = words_of(file)
    compare(f"{words}, eval, f64", h, expected["eval/features_f64"], limit=1e-9, of=parity.LARGEST)
    compare(f"{words}, train, f64", h_train, expected["train/features_f64"], limit=1e-6)
    for mode, found in (("eval", moments), ("train", moments_train)):
        for endpoint in ENDPOINTS:
            stored = expected[f"{mode}/{endpoint}_mean_std_f64"]
            compare(f"all: endpoints, {mode}, f64", found[endpoint], stored, limit=1e-9, of=parity.EACH)
    leaves = oracles.named_leaves(statistics)
    # The reference rounds 1 - decay to float32, which moves its statistics by 1.5e-8 of their size.
    tolerance = {"limit": 1e-7, "of": "of max(value, 10)"}
    for key in (k for k in expected if k.startswith("train/updated_statistics_f64/")):
        value = np.asarray(leaves[key.removeprefix("train/updated_statistics_f64/")])[:64]
        compare(f"{words}, statistics, f64", value, expected[key], **tolerance, scale=1.0)
    sums, stored = (np.sort(x) for x in ([np.sum(leaf) for leaf in leaves.values()], expected[_SUMS]))
    compare(f"{words}, statistics, f64", sums, stored, **tolerance, scale=np.maximum(np.abs(stored), 10.0))
    if file in TF1:
        compare_with_tf1(TF1[file], h, h_train, compare=compare)


def compare_with_tf1(case: str, h: np.ndarray, h_train: np.ndarray, *, compare) -> None:
    """The TF1 code agrees with TF2's to 2e-6 of the largest feature, in train mode to 7e-4 (two-pass variance)."""
    stored, words = golden.load("resnet_tf1"), "f32" if h.dtype == np.float32 else "f64"
    features = stored[f"{case}/eval/features_tf1"]
    compare(f"R18 and R50 SK, eval, {words}", h, features, limit=1e-5, of=parity.LARGEST, source="TF1")
    if f"{case}/train/features_tf1" in stored:
        features = stored[f"{case}/train/features_tf1"]
        compare(f"R18, CIFAR, train, {words}", h_train, features, limit=3e-4, source="TF1")


def check_float32(file: str, expected: dict[str, np.ndarray], net: tuple, *, compare) -> None:
    (h, _), (h_train, *_) = run(*net[:2], expected["input"], "float32")
    assert h.dtype == h_train.dtype == jnp.float32
    compare(f"{words_of(file)}, eval, f32", h, expected["eval/features_f64"], limit=1e-5, of=parity.LARGEST)
    compare(f"{words_of(file)}, train, f32", h_train, expected["train/features_f64"], limit=net[2])
    if file in TF1:
        compare_with_tf1(TF1[file], h, h_train, compare=compare)


def words_of(file: str) -> str:
    """How docs/parity.md calls a recorded network: "R18 1/16, CIFAR" for resnet_r18_w0.0625_cifar_32."""
    depth, *rest = file.removeprefix("resnet_").split("_")
    width = {"w0.0625": " 1/16", "w2": " 2x", "sk": " SK"}.get(rest[0], "")
    return depth.upper() + width + (", CIFAR" if "cifar" in rest else "")


def slow_but(table: dict, *fast: str) -> list:
    return [pytest.param(file, marks=[] if file in fast else [pytest.mark.slow]) for file in table]


@pytest.mark.parametrize("file", slow_but(SMALL, "resnet_r18_cifar_32"))
def test_encoder_equals_the_reference_in_float64(file, compare):
    check_float64(file, golden.load(file), SMALL[file], compare=compare)


@pytest.mark.parametrize("file", slow_but(SMALL))
def test_encoder_equals_the_reference_in_float32(file, compare):
    check_float32(file, golden.load(file), SMALL[file], compare=compare)


@pytest.mark.parametrize("file", slow_but(SMALL, "resnet_r18_cifar_32"))
def test_encoder_has_as_many_parameters_as_the_reference(file, compare):
    shapes, expected = shapes_of(models.make_encoder(SMALL[file][0], **SMALL[file][1])), golden.load(file)
    compare("all: numbers of parameters", count(shapes["params"]), expected["num_trainable"])
    compare("all: numbers of parameters", count(shapes), expected["num_with_statistics"])


@pytest.mark.slow
@pytest.mark.parametrize("file", LARGE)
def test_encoder_equals_the_reference_on_the_full_files(file, compare):
    expected = golden.load_full(file)
    check_float64(file, expected, LARGE[file], compare=compare)
    check_float32(file, expected, LARGE[file], compare=compare)


def test_variables_have_the_names_shapes_and_golden_values_of_the_reference():
    expected = golden.load("resnet_r18_cifar_32")
    variables = oracles.golden_variables(shapes_of(models.make_encoder("resnet18", stem="cifar")))
    leaves = oracles.named_leaves(variables)
    names = expected["variables/canonical_names"].tolist()
    assert set(leaves) == set(names)
    for name, shape, first in zip(names, expected["variables/shapes"], expected["variables/first_values"], strict=True):
        assert leaves[name].shape == tuple(int(n) for n in shape.split(","))
        np.testing.assert_array_equal(leaves[name].ravel()[:3], first)


def hash_fill(shape: tuple[int, ...], key: int) -> np.ndarray:
    """u(n, key) of the specification: a hash of the flat index, in [-0.5, 0.5)."""
    x = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32((key * 40503 + 1) % 2**32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    return (x / 2.0**32 - 0.5).reshape(shape)


def hashed_variables(shapes):
    """Weights of the hash, numbered in the order of creation of the TF1 reference: shortcut first, attention last."""
    order = ("proj_conv", "proj_bn", "conv1", "bn1", "conv2", "bn2", "sk", "conv", "bn", "squeeze_conv", "squeeze_bn")
    order = (*order, "expand_conv", "conv3", "bn3", "se")

    def ranked(path):
        """The module's path with the order of creation in front of every name."""
        names = [entry.key for entry in path[1:-1]]
        return tuple((order.index(name) if name in order else 0, name) for name in names)

    leaves = jax.tree.leaves_with_path(shapes)
    modules = sorted({ranked(path) for path, _ in leaves}, key=lambda m: (m[0][1] != "stem", m))
    convs = [m for m in modules if m[-1][1].endswith(("conv", "conv1", "conv2", "conv3"))]
    norms = [m for m in modules if m not in convs]

    def fill(path, leaf):
        module, name = ranked(path), path[-1].key
        if name == "kernel":
            values = hash_fill(leaf.shape, convs.index(module)) * np.sqrt(24 / np.prod(leaf.shape[:-1]))
        elif module in convs:
            values = 0.2 * hash_fill(leaf.shape, 10000 + convs.index(module))
        else:
            offset, scale, shift = {
                "scale": (1000, 0.4, 1),
                "bias": (2000, 0.4, 0),
                "mean": (3000, 0.4, 0),
                "var": (4000, 0.8, 1),
            }[name]
            values = shift + scale * hash_fill(leaf.shape, offset + norms.index(module))
        return values.astype(np.float32)

    return jax.tree.map_with_path(fill, shapes)


# arguments, image size, batch, means of the groups, mean and deviation of h, h[0, :4]: recorded from the TF1 reference.
HASHED = [
    ({}, 64, 4, (3.185026, 21.977303, 303.754761, 810.001648), (810.001648, 736.7919),
     (101.29324, 323.4618, 2053.4385, 1314.2937)),
    ({"se_ratio": 0.25}, 64, 4, (1.124025, 2.668842, 11.591017, 19.557709), (19.557709, 21.057463),
     (5.040622, 22.01331, 1.324694, 1.260997)),
    ({"sk_ratio": 0.0625}, 63, 4, (1.725572, 9.632697, 99.098564, 260.227509), (260.22748, 236.1006),
     (345.44974, 443.21396, 332.40793, 410.83762)),
    ({}, 63, 4, (3.148189, 21.826532, 302.546875, 805.624634), (805.62457, 733.4127),
     (95.10073, 333.79898, 1997.742, 1269.0793)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "size", "batch", "groups", "moments", "first"), HASHED)
def test_encoder_equals_recorded_values_with_hashed_weights(arguments, size, batch, groups, moments, first):
    np.testing.assert_allclose(hash_fill((4,), 9999), [0.41637058, -0.19893406, 0.15578286, -0.38988148], atol=1e-8)
    encoder = models.make_encoder("resnet50", **arguments)
    variables = hashed_variables(shapes_of(encoder, size))
    images = (hash_fill((batch, size, size, 3), 9999) + 0.5).astype(np.float32)

    @jax.jit
    def apply(variables, images):
        h, state = encoder.apply(variables, images, train=False, capture_intermediates=True, mutable=["intermediates"])
        return h, mean_and_std_of_endpoints(state["intermediates"])

    h, endpoints = apply(variables, images)
    for group, mean in enumerate(groups, start=1):
        assert float(endpoints[f"block_group{group}"][0]) == pytest.approx(mean, rel=1e-4)
    assert (float(h.mean()), float(h.std())) == pytest.approx(moments, rel=1e-4)
    np.testing.assert_allclose(h[0, :4], first, rtol=1e-4)


@pytest.mark.slow
def test_torchvision_padding_drops_the_projection_where_shapes_fit():
    def blocks_with_projection(name):
        params = shapes_of(models.make_encoder(name, padding="torchvision", stem="cifar"))["params"]
        return [g for g in range(1, 5) if "proj_conv" in params[f"block_group{g}"]["block1"]]

    assert blocks_with_projection("resnet18") == [2, 3, 4]
    assert blocks_with_projection("resnet50") == [1, 2, 3, 4]
    # torchvision's resnet18 and resnet50 without their classifiers.
    for name, trainable in (("resnet18", 11_176_512), ("resnet50", 23_508_032)):
        assert count(shapes_of(models.make_encoder(name, padding="torchvision"))["params"]) == trainable


# name, width, stem, trainable parameters, with statistics, D, sk_ratio (published encoders).
COUNTS = [
    ("resnet18", 1, "cifar", 11_173_056, 11_182_784, 512),
    ("resnet34", 1, "cifar", 21_281_216, 21_298_368, 512),
    ("resnet50", 1, "cifar", 23_500_352, 23_553_472, 2048),
    ("resnet18", 1, "imagenet", 11_180_736, 11_190_464, 512),
    ("resnet34", 1, "imagenet", 21_288_896, 21_306_048, 512),
    ("resnet50", 1, "imagenet", 23_508_032, 23_561_152, 2048),
    ("resnet50", 2, "imagenet", 93_907_072, 94_013_312, 4096),
    ("resnet50", 4, "imagenet", 375_378_176, 375_590_656, 8192),
    ("resnet101", 1, "imagenet", 42_500_160, 42_605_504, 2048),
    ("resnet101", 2, "imagenet", 169_771_136, 169_981_824, 4096),
    ("resnet152", 1, "imagenet", 58_143_808, 58_295_232, 2048),
    ("resnet152", 2, "imagenet", 232_253_568, 232_556_416, 4096),
    ("resnet200", 1, "imagenet", 62_624_832, 62_800_832, 2048),
    ("resnet200", 2, "imagenet", 250_128_512, 250_480_512, 4096),
    ("resnet50", 1, "imagenet", 35_215_584, 35_277_408, 2048, 0.0625),
    ("resnet50", 2, "imagenet", 140_306_048, 140_428_864, 4096, 0.0625),
    ("resnet101", 1, "imagenet", 64_662_304, 64_786_144, 2048, 0.0625),
    ("resnet101", 2, "imagenet", 257_132_224, 257_377_984, 4096, 0.0625),
    ("resnet152", 1, "imagenet", 88_940_896, 89_119_584, 2048, 0.0625),
    ("resnet152", 2, "imagenet", 353_398_528, 353_752_896, 4096, 0.0625),
    ("resnet152", 3, "imagenet", 794_704_160, 795_235_360, 6144, 0.0625),
    # torchvision's, without their classifiers.
    ("wide_resnet50_2", 1, "imagenet", 66_834_240, 66_902_464, 2048),
    ("wide_resnet101_2", 1, "imagenet", 124_837_696, 124_975_552, 2048),
    # Not published: ResNet-18 without its second blocks, each 2 * 9 f^2 weights and two BatchNorms of f channels.
    ("resnet10", 1, "cifar", 11_173_056 - 6_266_880 - 3_840, 11_182_784 - 6_266_880 - 7_680, 512),
]


COUNTS = [(*row, 0.0)[:7] for row in COUNTS]
COUNT_CASES = [
    row
    if row[0] in ("resnet18", "resnet50") and row[1:3] == (1, "imagenet")
    else pytest.param(*row, marks=pytest.mark.slow)
    for row in COUNTS
]


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "width", "stem", "trainable", "with_statistics", "dim", "sk_ratio"), COUNT_CASES)
def test_encoder_has_the_published_number_of_parameters(name, width, stem, trainable, with_statistics, dim, sk_ratio):
    encoder = models.make_encoder(name, width_multiplier=width, stem=stem, sk_ratio=sk_ratio)
    shapes = shapes_of(encoder)
    assert count(shapes["params"]) == trainable
    assert count(shapes) == with_statistics
    assert encoder.num_features == dim


def test_initial_weights_follow_the_reference():
    group = resnet.BlockGroup(resnet.BasicBlock, num_blocks=2, features=128, strides=2)
    params = jax.jit(lambda key: group.init(key, jnp.zeros((2, 4, 4, 32)), train=False))(jax.random.key(0))["params"]
    block = params["block1"]
    assert not block["bn2"]["scale"].any() and not params["block2"]["bn2"]["scale"].any()
    assert (block["bn1"]["scale"] == 1).all() and (block["proj_bn"]["scale"] == 1).all()
    assert not block["bn1"]["bias"].any()
    kernel = np.asarray(params["block2"]["conv1"]["kernel"])
    fan_in = np.prod(kernel.shape[:-1])
    # 147 000 draws: the standard deviation is known to 0.2 %; the truncation is at two untruncated deviations.
    assert kernel.std() == pytest.approx(fan_in**-0.5, rel=0.01)
    assert np.abs(kernel).max() <= 2 * fan_in**-0.5 / 0.87962566 * 1.0001


@pytest.mark.slow
def test_eval_mode_treats_rows_independently_and_leaves_the_statistics_alone():
    encoder = models.make_encoder("resnet18", stem="cifar", width_multiplier=0.0625)
    variables = oracles.golden_variables(shapes_of(encoder))
    images = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
    changed = np.concatenate([images[:3], np.ones_like(images[:1])])
    apply = jax.jit(lambda images: encoder.apply(variables, images, train=False, mutable=["batch_stats"]))
    h, state = apply(images)
    np.testing.assert_array_equal(h[:3], apply(changed)[0][:3])
    for old, new in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(dict(state)), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
    images = jnp.asarray(np.random.default_rng(0).random((4, 16, 16, 3), np.float32))
    results = {}
    for dtype in ("float32", "bfloat16"):
        encoder = models.make_encoder("resnet18", stem="cifar", width_multiplier=0.0625, dtype=dtype)
        shapes = shapes_of(encoder)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
        variables = oracles.golden_variables(shapes)
        apply = jax.jit(functools.partial(encoder.apply, train=True, mutable=["batch_stats"]))
        results[dtype] = apply(variables, images)
        assert {leaf.dtype for leaf in jax.tree.leaves(results[dtype])} == {jnp.dtype("float32")}
    exact, rounded = (np.asarray(results[dtype][0]) for dtype in ("float32", "bfloat16"))
    # bfloat16 has 8 bits: 2^-9 per rounding, some twenty roundings behind each other.
    assert np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet51"}, ("name", "resnet50", "resnet51")),
        ({"stem": "small"}, ("stem", "imagenet, cifar", "small")),
        ({"dtype": "float16"}, ("dtype", "bfloat16", "float16")),
        ({"width_multiplier": 0.0}, ("width_multiplier", "1/64", "0.0")),
        ({"width_multiplier": float("nan")}, ("width_multiplier", "nan")),
        ({"padding": "same"}, ("padding", "reference, torchvision", "same")),
        ({"sk_ratio": -0.1}, ("sk_ratio", "0.0625", "-0.1")),
        ({"se_ratio": 2.0}, ("se_ratio", "2.0")),
        ({"sk_ratio": 0.0625, "padding": "torchvision"}, ("torchvision", "sk_ratio 0.0625")),
    ],
)
def test_make_encoder_names_the_rule_and_what_was_received(arguments, words):
    with pytest.raises(base.InputError) as error:
        models.make_encoder(**arguments)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
