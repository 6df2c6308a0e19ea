"""Whole pictures by libjpeg are Pillow's, and whatever is odd goes to Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import decode, full_decode

pytest.importorskip("simplejpeg")


def _picture(height=37, width=53):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x, 4 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


def _bytes(kind="JPEG", *, mode="RGB", exif=None, **settings):
    stream = io.BytesIO()
    if exif is not None:
        settings["exif"] = Image.Exif()
        settings["exif"][0x0112] = exif
    Image.fromarray(_picture()).convert(mode).save(stream, kind, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_has_the_pixels_of_pillow(subsampling, mode):
    data = _bytes(mode=mode, subsampling=subsampling)
    assert full_decode.picture_size(data) == (37, 53)
    ours = full_decode.decode_full(data, size=(37, 53))
    np.testing.assert_array_equal(ours, decode.decode_image(data, long_side=10**6).pixels)


@pytest.mark.parametrize("settings", [{"exif": 6}, {"kind": "PNG"}, {"mode": "CMYK"}], ids=str)
def test_what_is_odd_is_left_to_pillow(settings):
    data = _bytes(**settings)
    assert full_decode.picture_size(data) is None
    whole = full_decode.decode_full(data, size=None)
    np.testing.assert_array_equal(whole, decode.decode_image(data, long_side=10**6).pixels)
    assert whole.shape == ((53, 37, 3) if "exif" in settings else (37, 53, 3))


def test_an_upright_exif_costs_no_detour():
    assert full_decode.picture_size(_bytes(exif=1)) == (37, 53)


def test_a_truncated_file_is_named_damaged():
    data = _bytes(quality=95)
    for part in (data[: len(data) // 2], data[:30], b""):
        with pytest.raises(decode.DamagedImage):
            full_decode.decode_full(part, size=full_decode.picture_size(part))


def test_a_picture_above_the_limit_is_refused():
    rules = full_decode.imageset.Rules(max_megapixels=0.001)
    data = _bytes()
    assert full_decode.picture_size(data, rules) is None
    with pytest.raises(decode.DamagedImage, match="megapixels"):
        full_decode.decode_full(data, size=None, rules=rules)
