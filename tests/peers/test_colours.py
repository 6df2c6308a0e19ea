"""Colour operations and blur beside torchvision's, where both do the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import color
from tests import golden
from tests.augment.test_blur import _blur
from tests.peers import torchvision_function

pytestmark = pytest.mark.slow  # for docs/parity.md

TOLERANCE = {"limit": 3e-6, "source": "torchvision"}


def pictures():
    """The recorded colour images that lie in [0, 1], float32 [h, w, 3]."""
    arrays = golden.load("colour")
    images = (arrays[f"input/{name}"] for name in arrays["image_names"])
    return [image for image in images if image.min() >= 0 and image.max() <= 1]


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        ("brightness v2, clipped", "brightness", "brightness_v2_factors"),
        ("hue inside [0, 1]", "hue", "hue_deltas"),
    ],
)
def test_operation_equals_torchvision_behind_a_clip(words, name, values, torchvision, compare):
    ours, theirs = getattr(color, f"adjust_{name}"), torchvision_function(f"adjust_{name}")
    for image in pictures():
        for value in map(float, golden.load("colour")[values]):
            pair = (np.clip(f(jnp.asarray(image), value), 0, 1) for f in (ours, theirs))
            compare(words, *pair, **TOLERANCE)


def test_grey_equals_torchvision(torchvision, compare):
    for image in pictures():
        theirs = torchvision_function("rgb_to_grayscale")(image, num_output_channels=3)
        compare("grey", color.adjust_grayscale(jnp.asarray(image)), theirs, **TOLERANCE)


def test_blur_equals_torchvision_away_from_the_borders(torchvision, compare):
    image = golden.load("gaussian_blur")["input_u8/96"].astype(np.float32) / np.float32(255)
    for sigma in (0.5, 1.3, 2.0):
        theirs = torchvision_function("gaussian_blur")(image, [9, 9], [sigma, sigma])
        # Only the borders differ, on purpose: at least four pixels from them no tap leaves the image.
        ours = np.asarray(_blur(image, sigma, kernel_size=9))
        compare("blur, away from the borders", ours[4:-4, 4:-4], theirs[4:-4, 4:-4], limit=2e-6, source="torchvision")
