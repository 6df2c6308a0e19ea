"""Files of torch.save: every state dict in them is found, and no code that they name is run."""

import argparse
import collections
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.interop import torch_files


def one_line(error) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_a_torch_file_without_torch_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(base.InputError, match="read with PyTorch, which is not installed"):
        torch_files.open_torch(tmp_path / "w.pth")


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
    source = torch_files.open_torch(
        save({"epoch": 3, key: state(x=(2, 3)), "optimizer": {"state": {}, "param_groups": []}})
    )
    assert source.names == ("x",) and source.extras == ("epoch", "optimizer")
    np.testing.assert_array_equal(source.read("x"), np.full((2, 3), 0.5, np.float32))


def test_a_bare_state_dict_keeps_its_order(save):
    source = torch_files.open_torch(save({**state(z=(1,), a=(2,)), "version": 1}))
    assert source.names == ("z", "a") and source.extras == ("version",)


def test_network_and_head_of_simclrv2_pytorch_are_joined(save):
    source = torch_files.open_torch(save({"resnet": state(x=(1,)), "head": state(y=(2,))}))
    assert source.names == ("resnet.x", "head.y") and source.extras == ()


def test_half_precision_becomes_float32_without_loss(save):
    torch = pytest.importorskip("torch")
    value = torch.tensor([1.5, -0.0078125, 3.0e30]).to(torch.bfloat16)
    read = torch_files.open_torch(save({"x": value})).read("x")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, value.to(torch.float32).numpy())


def test_state_dicts_at_any_depth_are_named_by_the_keys_that_lead_to_them(save):
    optimizer = {"state": {0: state(momentum_buffer=(3,))}, "param_groups": []}
    content = {"a": {"b": {"trunk": state(x=(1,)), "heads": {}}}, "c": state(y=(2,)), "optimizer": optimizer, "n": {}}
    source = torch_files.open_torch(save(content))
    assert source.names == ("a.b.trunk.x", "c.y") and source.extras == ("optimizer", "n")
    assert source.read("c.y").shape == (2,)


def test_numbers_of_a_callback_make_no_second_state_dict(save):
    torch = pytest.importorskip("torch")
    source = torch_files.open_torch(save({"state_dict": state(x=(1,)), "callbacks": {"best": torch.tensor(0.5)}}))
    assert source.names == ("x",) and source.extras == ("callbacks",)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1]])
def test_a_torch_file_without_a_state_dict_is_refused(save, content):
    with pytest.raises(base.InputError, match="must hold a state dict") as error:
        torch_files.open_torch(save(content))
    one_line(error)


class Settings(dict):
    """A class of a program that is not installed where the file is read."""


class History(list):
    """Another one."""


@pytest.mark.parametrize("old", [False, True])
def test_objects_of_unknown_classes_beside_the_weights_do_no_harm(tmp_path, old):
    torch = pytest.importorskip("torch")
    beside = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x")),
        "hyper_parameters": Settings(width=2, inner=Settings()),
        "history": History([1, 2]),
        "counts": collections.defaultdict(list, {1: [2]}),
        "best": np.float64(0.5),
        "kind": torch.optim.SGD(torch.nn.Linear(1, 1).parameters()),
    }
    path = tmp_path / "w.pth"
    torch.save({"state_dict": state(x=(2,)), **beside}, path, _use_new_zipfile_serialization=not old)
    source = torch_files.open_torch(path)
    assert source.names == ("x",) and source.extras == tuple(beside)
    np.testing.assert_array_equal(source.read("x"), np.full(2, 0.5))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"epoch": 1, "model": model}])
def test_a_module_that_was_saved_whole_gives_its_state_dict(save, wrap):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    source = torch_files.open_torch(save(wrap(model)))
    assert set(source.names) == set(model.state_dict())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(source.read(name), value.numpy())


@pytest.mark.parametrize(("call", "named"), [(exec, "exec"), (os.system, "posix.system")])
def test_what_would_run_code_is_named_with_the_lines_that_save_the_weights(save, call, named):
    class Spy:
        def __reduce__(self):
            return (call, ("raise SystemExit('a pickle was loaded')",))

    with pytest.raises(base.InputError, match=rf"also holds {named}, .*torch\.load\(.*\)\['state_dict'\]") as error:
        torch_files.open_torch(save({"state_dict": state(x=(1,)), "x": Spy()}))
    assert str(error.value).isprintable()


def test_a_tensor_is_no_state_dict(save):
    torch = pytest.importorskip("torch")
    with pytest.raises(base.InputError, match="holds a Tensor"):
        torch_files.open_torch(save(torch.zeros(3)))


@pytest.mark.parametrize("kind", ["text", "pickle", "truncated", "missing"])
def test_what_is_no_torch_file_of_tensors_is_refused(tmp_path, save, kind):
    path = save(state(x=(2, 3)))
    if kind == "text":
        path.write_text("no weights here, only text")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"x": print}))
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "missing":
        path.unlink()
    with pytest.raises(base.InputError, match="with tensors only") as error:
        torch_files.open_torch(path)
    assert str(error.value).isprintable()
