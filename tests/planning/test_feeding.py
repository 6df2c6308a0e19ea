"""Who waits for whom, by hand arithmetic, and the model against what was measured elsewhere."""

import pytest

from simclr_jax import base
from simclr_jax.planning import feeding, text


def test_the_model_is_near_what_was_measured_for_imagenet():
    # docs/plan.md: a file of 500 x 375 and two crops of 224 pixels took 1.2 ms alone, 2.1 to 2.3 ms in a pipeline.
    seconds = feeding.host_seconds("streamed", source_pixels=500 * 375, canvas=256, view=224, num_views=2)
    assert 1.16e-3 < seconds < 2.4e-3
    assert feeding.host_seconds("resident", source_pixels=1, canvas=256, view=224, num_views=2) == 0
    with pytest.raises(base.InputError, match="the feed must be one of resident, canvas, streamed"):
        feeding.host_seconds("none", source_pixels=1, canvas=1, view=1, num_views=1)


def test_cores_and_the_limit_follow_from_rates():
    settings = {"images_per_second": 1000.0, "seconds_per_image": 2e-3, "bytes_per_image": 1e5}
    open_ended = feeding.describe("streamed", **settings)
    assert open_ended["cores_needed"] == 3  # 2 cores and 30 %
    assert open_ended["bytes_per_second"] == 1e8 and open_ended["limit"] == ""
    assert "take 3 cores; with fewer the host is the limit" in text.feeding_line(open_ended)
    few = feeding.describe("streamed", cores=2, **settings)
    assert few["limit"] == "host" and few["host_images_per_second"] == pytest.approx(2 / 2.6e-3)
    assert "2 feed 769: the host is the limit" in text.feeding_line(few)
    assert feeding.describe("streamed", cores=3, **settings)["limit"] == "device"
    resident = feeding.describe("resident", images_per_second=1e6, seconds_per_image=0, bytes_per_image=4)
    assert resident["cores_needed"] == 0 and resident["limit"] == "device"
    assert "the device is the limit" in text.feeding_line(resident)
