"""Several views without anything random: ours on the device, and those of PyTorch's programs by Pillow."""

import jax
import numpy as np
import pytest

from simclr_jax import augment, base
from simclr_jax.augment import eval_views
from tests import golden

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", ["tall", "wide"])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_pillows_views_are_those_of_torchvision_pixel_by_pixel(compare, shape, resize):
    """Recorded from torchvision 0.29: Resize(24), then CenterCrop(21) and the corners of FiveCrop(21)."""
    recorded = golden.load("torchvision_views")
    views = augment.pillow_views(recorded[f"{shape}_image"], size=21, resize=resize, num_views=10)
    compare(f"Pillow's views, {resize}", views, recorded[f"{shape}_{resize}"], limit=0, source="torchvision")


@pytest.mark.slow
def test_the_first_view_is_that_of_evaluation_and_the_others_are_its_mirror_image_and_the_corners():
    images = RNG.integers(0, 256, (2, 40, 40, 3), np.uint8)
    sizes = np.asarray([[40, 26], [18, 40]], np.int32)
    views = np.asarray(jax.jit(augment.make_eval_views(image_size=24, num_views=6))(images, sizes))
    assert views.shape == (2, 6, 24, 24, 3)
    centre = augment.make_eval_view(image_size=24)
    np.testing.assert_allclose(views[:, 0], centre(images, sizes), atol=1e-6)
    np.testing.assert_array_equal(views[:, 1::2], views[:, ::2, :, ::-1])
    # Up to 32 pixels a crop has the whole shorter side: the corners of a tall picture are its top and bottom squares.
    tall, wide = images[0], images[1]
    for found, corner in (
        (views[0, 2], tall[:26, :26]),
        (views[0, 4], tall[:26, :26]),
        (views[1, 2], wide[:18, :18]),
        (views[1, 4], wide[:18, 22:]),
    ):
        np.testing.assert_allclose(found, centre(corner), atol=1e-5)


@pytest.mark.parametrize("num_views", [0, 11])
def test_other_numbers_of_views_are_refused(num_views):
    with pytest.raises(base.InputError, match=f"from 1 to {eval_views.MAX_VIEWS}.*got {num_views}"):
        augment.make_eval_views(image_size=24, num_views=num_views)
    with pytest.raises(base.InputError, match="num_views"):
        augment.pillow_views(np.zeros((8, 8, 3), np.uint8), size=4, num_views=num_views)
    with pytest.raises(base.InputError, match="uint8"):
        augment.pillow_views(np.zeros((8, 8, 3)), size=4)
