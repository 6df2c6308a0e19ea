"""What is said of a split, against NumPy on the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import folder, imageset, look
from tests.data.prepare import makers


@pytest.fixture
def mixed():
    """Images of two sizes on one canvas, and their own pixels."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, size, np.uint8) for size in ((8, 5, 3), (3, 8, 3), (8, 8, 3))]
    fitted = [imageset.fit_to_canvas(picture, 8) for picture in pictures]
    images = np.stack([canvas for canvas, _ in fitted])
    sizes = np.asarray([size for _, size in fitted], np.int32)
    labels = np.asarray([1, -1, 1], np.int32)
    return imageset.ImageSet(images, sizes, labels, ("a", "b"), ("0", "1", "2"), "", ()), pictures


def test_every_pixel_counts_once_and_padding_not(mixed, monkeypatch):
    image_set, pictures = mixed
    everything = np.concatenate([picture.reshape(-1, 3) for picture in pictures]) / 255.0
    for block_bytes in (1, look._BLOCK_BYTES):
        monkeypatch.setattr(look, "_BLOCK_BYTES", block_bytes)
        found = look.measure_pixels(image_set)
        np.testing.assert_allclose(found.mean, everything.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.std, everything.std(axis=0), rtol=1e-9)
    assert found.heights == (3, 8, 8) and found.widths == (5, 8, 8)


def test_classes_are_counted_by_name(mixed):
    image_set, _ = mixed
    assert look.count_classes(image_set) == {"a": 0, "b": 2, "": 1}
    assert look.count_classes(image_set._replace(class_names=())) == {"1": 2, "": 1}


def test_files_are_sampled_evenly_and_damaged_ones_left_out(tmp_path):
    for number in range(50):
        content = makers.picture(number, size=(10 + number, 20), kind=("JPEG", "PNG")[number % 2])
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"nothing" if number == 0 else content)
    encoded = folder.open_folder(str(tmp_path), "all", data_dir=None, canvas_size=64)
    sample = look.sample(encoded, 8)
    assert [*sample] == [7, 14, 21, 28, 35, 42, 49]
    found = look.describe_files([*sample.values()])
    assert found.num_sampled == 7 and found.kinds == {"PNG": 4, "JPEG": 3}
    assert found.widths == (17, 38, 59) and found.heights == (20, 20, 20)
    assert found.megapixels == pytest.approx(38 * 20 / 1e6)
    assert found.num_bytes == np.mean([len(content) for content in sample.values()])


def test_the_slow_stage_is_the_slow_one(monkeypatch):
    monkeypatch.setattr(look, "_ROUND_SECONDS", 0.03)
    image = Image.fromarray(np.zeros((300, 300, 3), np.uint8))

    def encode(number):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return number, stream

    seconds = look.measure_rates({"slow": encode, "fast": lambda pair: pair[0]}, range(3))
    assert [*seconds] == ["slow", "fast"] and seconds["slow"] > 20 * seconds["fast"] > 0
