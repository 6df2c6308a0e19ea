"""TFDS without TensorFlow: a small data set is written here, and CIFAR-10 is read where it is at hand."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data

tfds = pytest.importorskip("tensorflow_datasets")


def _png(index):
    stream = io.BytesIO()
    Image.new("RGB", (10 + index % 5, 8), (index, 50, 60)).save(stream, "PNG")
    return b"\x89PNG\r\n\x1a\n damaged" if index == 7 else stream.getvalue()


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Forty pictures of mixed sizes, one damaged."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["round", "square"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(40)), "validation": self._generate_examples(range(40, 50))}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"image": _png(number), "label": number % 2}


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


class NoPictures(TinyShapes):
    """A data set of numbers only."""

    def _info(self):
        features = {"height": tfds.features.Scalar(np.int64), "label": tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"height": number, "label": number}


def test_a_data_set_without_pictures_is_refused(tmp_path):
    NoPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(base.InputError, match="must have a feature 'image'; got height, label"):
        _load("no_pictures", "train", tmp_path)


def _load(name, split, data_dir, **changes):
    settings = {"cache_dir": "", "progress": False, "max_corrupt_fraction": 0.05} | changes
    return data.load_split(f"tfds:{name}", split, data_dir=data_dir, **settings)


def test_every_record_is_read_once_and_the_damaged_one_is_named(tiny_dir):
    loaded = _load("tiny_shapes", "train", tiny_dir, canvas_size=16)
    numbers = loaded.images[:, 0, 0, 0].astype(int)
    assert sorted(numbers) == [number for number in range(40) if number != 7]
    np.testing.assert_array_equal(loaded.labels, numbers % 2)
    np.testing.assert_array_equal(loaded.sizes, np.stack([np.full(39, 8), 10 + numbers % 5], axis=1))
    assert loaded.class_names == ("round", "square")
    assert len(loaded.skipped) == 1
    name, _, reason = loaded.skipped[0].partition(": ")
    assert reason.startswith("damaged")
    assert set(loaded.ids) | {name} == {str(index) for index in range(40)}


def test_split_expressions_and_the_missing_test_split(tiny_dir):
    assert len(_load("tiny_shapes", "train[:25%]", tiny_dir).ids) >= 9
    assert len(_load("tiny_shapes", "test", tiny_dir).ids) == 10
    assert data.has_split("tfds:tiny_shapes", "test", data_dir=tiny_dir)
    assert not data.has_split("tfds:tiny_shapes", "holdout", data_dir=tiny_dir)
    validation = _load("tiny_shapes", "validation", tiny_dir)
    assert validation.fingerprint == _load("tiny_shapes", "test", tiny_dir).fingerprint
    assert validation.images.shape == (10, 256, 256, 3)


def test_every_start_says_which_split_it_is_and_what_is_damaged(tiny_dir, tmp_path, capsys):
    for _ in range(2):  # decoded, then from the cache
        _load("tiny_shapes", "train", tiny_dir, cache_dir=tmp_path, progress=True)
        said = capsys.readouterr().err
        assert "tfds:tiny_shapes/1.0.0: 40 images of the split 'train'; 2 classes (round, square)" in said
        assert "1 of 40 images cannot be read and are left out" in said
    _load("tiny_shapes", "test", tiny_dir, cache_dir="", progress=True)
    assert "10 images of the split 'validation', used as 'test'" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["a[1]", "b*", "c?{x}"])
def test_a_folder_named_like_a_pattern_is_read(tiny_dir, tmp_path, folder):
    (tmp_path / folder).symlink_to(tiny_dir)
    assert len(_load("tiny_shapes", "test", tmp_path / folder).ids) == 10


@pytest.mark.parametrize("inner", ["tiny_shapes", "tiny_shapes/1.0.0"])
def test_the_folder_of_the_set_itself_may_be_named(tiny_dir, inner):
    assert len(_load("tiny_shapes", "test", tiny_dir / inner).ids) == 10


def test_the_cache_serves_the_second_load(tiny_dir, tmp_path):
    first = _load("tiny_shapes", "train", tiny_dir, cache_dir=tmp_path, canvas_size=16)
    second = _load("tiny_shapes", "train", tiny_dir, cache_dir=tmp_path, canvas_size=16)
    assert isinstance(second.images, np.memmap)
    assert first.fingerprint == second.fingerprint
    _load("tiny_shapes", "train", tiny_dir, cache_dir=tmp_path, canvas_size=12)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("", "train", "needs the name of a data set"),
        ("no_such_set", "train", r"not found at .* \(prepared there: tiny_shapes/1\.0\.0\)"),
        (
            "cifar10",
            "train",
            r"not found at .*cifar10/.* \(prepared in .*: tiny_shapes/1\.0\.0\).*prepare --input=cifar10",
        ),
        ("tiny_shapes:9.9.9", "train", "must be prepared on disk"),
        ("../../x\ny", "train", "must be prepared on disk"),
        ("tiny_shapes", "tost", "must be one of train, validation, or an expression"),
        ("tiny_shapes", "train[", "must be one of train, validation, or an expression"),
        ("tiny_shapes", "train[:0]", "must not be empty"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tiny_dir, name, split, message):
    with pytest.raises(base.InputError, match=message) as caught:
        _load(name, split, tiny_dir)
    assert "\n" not in str(caught.value)


def test_cifar10_is_read_without_tensorflow_and_opencv(tmp_path):
    folder = pathlib.Path(os.environ.get("SIMCLR_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "cifar10" / "jpeg").is_dir():
        pytest.skip("cifar10/jpeg not found; set SIMCLR_DATA to the folder which holds it to run this check")
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from simclr_jax import data\n"
        "loaded = data.load_split('tfds:cifar10/jpeg', 'test[:2%]', data_dir=sys.argv[1], cache_dir='')\n"
        "assert loaded.images.shape == (200, 32, 32, 3), loaded.images.shape\n"
        "assert len(loaded.class_names) == 10 and set(loaded.labels.tolist()) == set(range(10))\n"
        "assert 100 < loaded.images.mean() < 140, loaded.images.mean()\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "200/200" in result.stderr
