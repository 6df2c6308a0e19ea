"""Where the files of a TensorFlow checkpoint lie; TensorFlow itself is not needed to find them."""

import sys

import pytest

from simclr_jax import base
from simclr_jax.interop import tensorflow_files


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


PARTS = ("model.ckpt-12.index", "model.ckpt-12.data-00000-of-00001", "model.ckpt-12.meta")


@pytest.mark.parametrize("name", ["model.ckpt-12", *PARTS])
def test_a_checkpoint_is_named_by_its_prefix_or_one_of_its_files(tmp_path, name):
    touch(tmp_path, *PARTS)
    assert tensorflow_files.find_prefix(tmp_path / name) == tmp_path / "model.ckpt-12"


def test_a_folder_with_one_checkpoint_names_it(tmp_path):
    assert tensorflow_files.find_prefix(touch(tmp_path, *PARTS)) == tmp_path / "model.ckpt-12"


def test_the_file_checkpoint_decides_between_several_wherever_it_was_written(tmp_path):
    touch(tmp_path, "model.ckpt-7.index", "model.ckpt-12.index", "model.ckpt-9.index")
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/elsewhere/model.ckpt-9"\nall_model_checkpoint_paths: "/elsewhere/model.ckpt-7"\n'
    )
    assert tensorflow_files.find_prefix(tmp_path) == tmp_path / "model.ckpt-9"


@pytest.mark.parametrize("below", ["", "variables"])
def test_a_saved_model_is_its_variables(tmp_path, below):
    touch(tmp_path / "variables", "variables.index", "variables.data-00000-of-00001")
    expected = tmp_path / "variables" / "variables"
    assert tensorflow_files.find_prefix(tmp_path / below) == expected


@pytest.mark.parametrize("names", [(), ("a.ckpt-1.index", "a.ckpt-2.index"), ("notes.txt",)])
def test_a_folder_without_one_checkpoint_is_refused(tmp_path, names):
    with pytest.raises(base.InputError, match="must hold one TensorFlow checkpoint"):
        tensorflow_files.find_prefix(touch(tmp_path, *names))


@pytest.mark.parametrize("name", ["model.ckpt-13", "weights.bin"])
def test_what_has_no_index_beside_it_is_no_checkpoint(tmp_path, name):
    touch(tmp_path, *PARTS, "weights.bin")
    assert tensorflow_files.find_prefix(tmp_path / name) is None


def test_a_checkpoint_without_tensorflow_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(base.InputError, match=r"not installed. pip install 'simclr-jax\[convert\]'"):
        tensorflow_files.open_tensorflow(touch(tmp_path, *PARTS) / "model.ckpt-12")
