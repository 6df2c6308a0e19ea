"""What a path names: files by their content, folders by their files, and a clear word on what holds no weights."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import base
from simclr_jax.interop import opening

ARRAYS = {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)}


def packed(kind: str) -> bytes:
    """An archive of one text."""
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("notes.txt"))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("code/constants.pkl" if kind == "script" else "notes.txt", "nothing")
    return buffer.getvalue()


CASES = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html><head>", "a web page, .* Download"),
    "json": (b'{"error": "not found"}', "JSON text"),
    "gzip": (gzip.compress(b"x"), "compressed with gzip"),
    "empty": (b"", "is empty"),
    "tar": (packed("tar"), "a tar archive"),
    "zip": (packed("zip"), "a zip archive of notes.txt"),
    "script": (packed("script"), "a TorchScript program"),
    "cut off": (packed("zip")[:-30], "cut off: it has [0-9]+ bytes"),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("case", CASES)
def test_what_holds_no_weights_is_said_to_be_what_it_is(tmp_path, case, ending):
    path = tmp_path / f"w{ending}"
    path.write_bytes(CASES[case][0])
    with pytest.raises(base.InputError, match=CASES[case][1]) as error:
        opening.open_weights(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_a_safetensors_file_is_known_by_its_content(tmp_path, name):
    safetensors.numpy.save_file(ARRAYS, tmp_path / name)
    assert sorted(opening.open_weights(tmp_path / name).names) == ["a", "b"]


@pytest.mark.parametrize("length", [0x3C, 0x7B, 0x120, 0x250])
def test_the_length_of_a_header_may_be_any_byte(tmp_path, length):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert opening.open_weights(path).names == ("a",)


def test_a_torch_file_is_known_by_its_content(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(2)}, tmp_path / "w.safetensors")
    assert opening.open_weights(tmp_path / "w.safetensors").names == ("x",)


@pytest.mark.parametrize("name", ["model.safetensors", "anything.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file_of_weights_names_it(tmp_path, name):
    safetensors.numpy.save_file(ARRAYS, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert sorted(opening.open_weights(tmp_path).names) == ["a", "b"]


@pytest.mark.parametrize("named", ["", "model.safetensors.index.json"])
def test_weights_in_several_files_are_joined_by_their_index(tmp_path, named):
    for number, name in enumerate(ARRAYS, start=1):
        safetensors.numpy.save_file({name: ARRAYS[name]}, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(ARRAYS, start=1)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    source = opening.open_weights(tmp_path / named)
    assert source.names == ("a", "b") and len(source.files) == 2
    np.testing.assert_array_equal(source.read("b"), ARRAYS["b"])
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(base.InputError, match=r"lacks model-2\.safetensors"):
        opening.open_weights(tmp_path / named)


def test_a_folder_with_several_files_of_weights_lists_them(tmp_path):
    for name in ("one.safetensors", "two.pth"):
        safetensors.numpy.save_file(ARRAYS, tmp_path / name)
    with pytest.raises(base.InputError, match=r"holds one\.safetensors, two\.pth\. Name one"):
        opening.open_weights(tmp_path)


@pytest.mark.parametrize("content", ["no json", "[]", '{"weight_map": []}', "{}"])
def test_an_index_that_lists_nothing_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(base.InputError, match="an index with a weight_map"):
        opening.open_weights(path)
