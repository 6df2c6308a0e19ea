"""EfficientNets against torchvision's and timm's features and parameter counts."""

import pytest

from simclr_jax import models
from simclr_jax.models import efficientnet
from tests import golden, parity
from tests.golden import record_encoders
from tests.models import test_vit
from tests.models.test_resnet import count, shapes_of

# Parameters and BatchNorm statistics, of torchvision's `features` and, for lite, of timm's networks with num_classes=0.
COUNTS = {
    "efficientnet_b0": (4_007_548, 42_016),
    "efficientnet_b1": (6_513_184, 62_048),
    "efficientnet_b2": (7_700_994, 67_568),
    "efficientnet_b3": (10_696_232, 87_296),
    "efficientnet_b4": (17_548_616, 125_200),
    "efficientnet_b5": (28_340_784, 172_736),
    "efficientnet_b6": (40_735_704, 224_432),
    "efficientnet_b7": (63_786_960, 310_720),
    "efficientnet_lite0": (3_371_008, 42_016),
    "efficientnet_lite1": (4_135_680, 53_664),
    "efficientnet_lite2": (4_811_072, 58_096),
    "efficientnet_lite3": (6_916_096, 76_672),
    "efficientnet_lite4": (11_725_568, 112_368),
}
FAST = ("efficientnet_b0", "efficientnet_lite0")


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in COUNTS]
)
def test_an_efficientnet_has_as_many_parameters_as_torchvisions_or_timms(name):
    shapes = shapes_of(models.make_encoder(name))
    assert (count(shapes["params"]), count(shapes["batch_stats"])) == COUNTS[name]


def test_the_table_has_all_sizes():
    assert efficientnet.SCALES.keys() == COUNTS.keys()
    assert [stage.num_blocks for stage in efficientnet.stages("efficientnet_b7")] == [4, 7, 7, 10, 10, 13, 4]
    assert [stage.num_blocks for stage in efficientnet.stages("efficientnet_lite4")] == [1, 4, 4, 6, 6, 8, 1]


@pytest.mark.parametrize(
    ("row", "name", "padding"),
    [
        ("efficientnet_b0", "efficientnet_b0", "torchvision"),
        pytest.param("efficientnet_b5", "efficientnet_b5", "torchvision", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", "efficientnet_lite0", "torchvision", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_b0", "efficientnet_b0", "reference", marks=pytest.mark.slow),
    ],
)
def test_features_are_torchvisions_or_timms(row, name, padding, compare):
    """Observed: 2e-6 of the largest feature."""
    expected = golden.load("encoders")[row]
    found = test_vit.features(models.make_encoder(name, padding=padding), record_encoders.SIDE)
    source = "torchvision" if row.startswith("efficientnet_b") else "timm"
    compare("EfficientNet, eval, f32", found, expected, limit=1e-4, of=parity.LARGEST, source=source)
