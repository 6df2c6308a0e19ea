"""Weight files of other programs: what is read from them, and that everything else is refused in one line."""

import hashlib
import pickle
import sys
import zipfile

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


def test_a_torch_file_without_torch_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(base.InputError, match="read with PyTorch, which is not installed"):
        files.open_torch(tmp_path / "w.pth")


@pytest.fixture
def save(tmp_path):
    """Saves an object with torch; the file's path."""
    torch = pytest.importorskip("torch")

    def write(content):
        path = tmp_path / "w.pth"
        torch.save(content, path)
        return path

    return write


def state(**shapes):
    torch = pytest.importorskip("torch")
    return {name: torch.full(shape, 0.5) for name, shape in shapes.items()}


@pytest.mark.parametrize("key", ["state_dict", "model", "weights"])
def test_a_state_dict_is_found_inside_a_dict(save, key):
    source = files.open_torch(save({"epoch": 3, key: state(x=(2, 3)), "optimizer": {"state": {}, "param_groups": []}}))
    assert source.names == ("x",) and source.extras == ("epoch", "optimizer")
    np.testing.assert_array_equal(source.read("x"), np.full((2, 3), 0.5, np.float32))


def test_a_bare_state_dict_keeps_its_order(save):
    source = files.open_torch(save({**state(z=(1,), a=(2,)), "version": 1}))
    assert source.names == ("z", "a") and source.extras == ("version",)


def test_network_and_head_of_simclrv2_pytorch_are_joined(save):
    source = files.open_torch(save({"resnet": state(x=(1,)), "head": state(y=(2,))}))
    assert source.names == ("resnet.x", "head.y") and source.extras == ()


def test_half_precision_becomes_float32_without_loss(save):
    torch = pytest.importorskip("torch")
    value = torch.tensor([1.5, -0.0078125, 3.0e30]).to(torch.bfloat16)
    read = files.open_torch(save({"x": value})).read("x")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, value.to(torch.float32).numpy())


@pytest.mark.parametrize("content", [{"student": 1, "teacher": 2}, {"epoch": 3}])
def test_a_torch_file_with_several_or_no_state_dicts_is_refused(save, content):
    filled = {key: state(x=(1,)) if key != "epoch" else 3 for key in content}
    with pytest.raises(base.InputError, match="must hold one state dict") as error:
        files.open_torch(save(filled))
    one_line(error)


def test_a_tensor_is_no_state_dict(save):
    torch = pytest.importorskip("torch")
    with pytest.raises(base.InputError, match="holds a Tensor"):
        files.open_torch(save(torch.zeros(3)))


class _Spy:
    """Would run code when unpickled by anything but a loader of tensors only."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


@pytest.mark.parametrize("kind", ["text", "pickle", "torch pickle", "zip", "truncated", "missing"])
def test_what_is_no_torch_file_of_tensors_is_refused_without_loading_a_pickle(tmp_path, save, kind):
    path = save({"x": _Spy()} if kind == "torch pickle" else state(x=(2, 3)))
    if kind == "text":
        path.write_text("no weights here, only text")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"x": _Spy()}))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "nothing")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "missing":
        path.unlink()
    with pytest.raises(base.InputError, match="with tensors only") as error:
        files.open_torch(path)
    one_line(error)
