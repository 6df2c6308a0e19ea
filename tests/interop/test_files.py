"""Weight files of other programs: what is read from them, and that everything else is refused in one line."""

import hashlib
import pickle

import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import base
from simclr_jax.interop import files

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, np.float16)}


def one_line(error) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_safetensors_are_read_with_their_metadata_and_digest(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"who": "me"})
    source = files.open_safetensors(path)
    assert sorted(source.names) == ["a", "b"] and source.metadata == {"who": "me"}
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(source.read(name), value)
    assert files.digests(source) == {"w.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("content", [b"", b"no weights here, only text", pickle.dumps({"a": 1}), b"\x00" * 64])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(base.InputError, match=r"must be a safetensors file; .*w.safetensors") as error:
        files.open_safetensors(path)
    one_line(error)


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(base.InputError, match="must be a safetensors file") as error:
        files.open_safetensors(path)
    one_line(error)
