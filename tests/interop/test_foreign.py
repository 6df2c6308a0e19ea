"""From a file to our variables by name: which files and variables are taken, and what is said of the others."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import base
from simclr_jax.interop import foreign, tensorflow_names, torchvision, variables

TF1 = tensorflow_names.encoder_names("resnet10")
RNG = np.random.default_rng(0)


def save(path, names, **extra):
    """A safetensors file with an array of one number for every name; the arrays."""
    arrays = {name: RNG.normal(size=(1, 1, 1, 1)).astype(np.float32) for name in names}
    safetensors.numpy.save_file(arrays | extra, path)
    return arrays


def test_official_names_are_taken_from_any_kind_of_file(tmp_path):
    path = tmp_path / "w.safetensors"
    slots = {"base_model/conv2d/kernel/Momentum": np.ones(1, np.float32), "global_step": np.array(3754)}
    arrays = save(path, TF1.values(), **slots)
    read = foreign.read(path)
    assert read.by_name.keys() == TF1.keys() and read.layout == "TF1 checkpoint of SimCLR" and read.step == 3754
    assert all(read.by_name[ours] == arrays[theirs] for ours, theirs in TF1.items())
    assert read.ignored == {"optimizer slots": 1, "counters": 1}
    assert list(read.files) == ["w.safetensors"] and len(read.files["w.safetensors"]) == 64


def test_all_unknown_and_missing_variables_are_counted_and_the_first_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    names = [name for name in TF1.values() if name != "base_model/conv2d_4/kernel"]
    save(path, [*names, *(f"base_model/extra_{i}" for i in range(8))])
    with pytest.raises(base.InputError, match=r"8 unknown \(base_model/extra_0, .* and 2 more\)") as error:
        foreign.read(path)
    assert "1 missing (base_model/conv2d_4/kernel)" in str(error.value) and "\n" not in str(error.value)


def test_unknown_variables_can_be_left_out_by_patterns(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, [*TF1.values(), "base_model/extra_1", "other"])
    read = foreign.read(path, ignore=("base_model/extra_*", "oth?r"))
    assert read.by_name.keys() == TF1.keys() and read.ignored["asked with --ignore"] == 2


def test_our_own_variables_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "variables.safetensors"
    by_name = {"encoder/stem/conv1/kernel": RNG.normal(size=(3, 3, 3, 4)), "encoder/stem/bn1/var": RNG.random(4)}
    by_name = {name: value.astype(np.float32) for name, value in by_name.items()}
    variables.save(path, by_name)
    read = foreign.read(path)
    assert variables.fingerprint(read.by_name) == variables.fingerprint(by_name)
    assert (read.padding, read.selector) == ("reference", None)


def write_export(folder, *, padding: str, files) -> None:
    card = {
        "files": {name: {} for name in files},
        "encoder": {"arguments": {"padding": padding}},
        "training": {"config": {"method": {"selector": 1}}},
    }
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("padding", ["reference", "torchvision"])
def test_the_card_of_an_export_tells_padding_and_selector(tmp_path, padding):
    names = {
        "encoder/stem/conv1/kernel": np.ones((7, 7, 3, 4)),
        "encoder/block_group1/block1/conv1/kernel": np.ones((1, 1, 4, 4)),
    }
    head = {"projection_head/dense1/kernel": np.ones((2, 3))}
    variables.save(tmp_path / "encoder.safetensors", torchvision.to_torchvision(names))
    variables.save(tmp_path / "projection_head.safetensors", torchvision.to_torchvision(head))
    write_export(tmp_path, padding=padding, files=["encoder.safetensors", "projection_head.safetensors"])
    whole, part = foreign.read(tmp_path), foreign.read(tmp_path / "encoder.safetensors")
    assert (whole.padding, whole.selector) == (part.padding, part.selector) == (padding, 1)
    assert whole.by_name.keys() == {**names, **head}.keys() and part.by_name.keys() == names.keys()
    assert len(whole.files) == 2


def test_a_card_of_other_files_says_nothing(tmp_path):
    save(tmp_path / "w.safetensors", TF1.values())
    write_export(tmp_path, padding="torchvision", files=["encoder.safetensors"])
    assert foreign.read(tmp_path / "w.safetensors").padding == "reference"
    (tmp_path / "card.json").write_text("[1, 2]")
    assert foreign.read(tmp_path / "w.safetensors").padding == "reference"


def test_the_folder_of_an_export_without_weights_is_refused(tmp_path):
    write_export(tmp_path, padding="reference", files=["encoder.jax_export"])
    with pytest.raises(base.InputError, match=r"must hold a \.safetensors file"):
        foreign.read(tmp_path)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_floating_point_type_becomes_float32(tmp_path, dtype):
    path, value = tmp_path / "w.safetensors", np.array([0.5, -2.0]).astype(dtype)
    safetensors.numpy.save_file({"encoder/x": value}, path)
    read = foreign.read(path).by_name["encoder/x"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.array([0.5, -2.0], np.float32))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.array([1.0, np.nan]), "must be finite"),
        (np.array([np.inf], np.float32), "must be finite"),
        (np.ones(2, np.int32), "must be floating-point numbers; encoder/x has type int32"),
    ],
)
def test_arrays_that_are_no_weights_are_refused(tmp_path, value, problem):
    safetensors.numpy.save_file({"encoder/x": value}, tmp_path / "w.safetensors")
    with pytest.raises(base.InputError, match=problem):
        foreign.read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("names", [["transformer.0.weight"], []])
def test_names_of_another_network_are_refused_with_the_known_layouts(tmp_path, names):
    save(tmp_path / "w.safetensors", names)
    with pytest.raises(base.InputError, match="official SimCLR checkpoint, our own variables, a complete ResNet"):
        foreign.read(tmp_path / "w.safetensors")


def test_averages_must_be_there_to_be_taken(tmp_path):
    save(tmp_path / "w.safetensors", TF1.values())
    with pytest.raises(base.InputError, match="needs a TF1 checkpoint with variables ema_model"):
        foreign.read(tmp_path / "w.safetensors", weights="ema")
    with pytest.raises(base.InputError, match="must be one of model, ema; got 'best'"):
        foreign.read(tmp_path / "w.safetensors", weights="best")


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "none", "model.ckpt-3", "notes.txt", "weights.h5"])
def test_what_is_no_file_of_weights_is_refused(tmp_path, name):
    for existing in ("notes.txt", "weights.h5"):
        (tmp_path / existing).write_text("text")
    with pytest.raises(base.InputError, match="--input must be") as error:
        foreign.read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(base.InputError, match="must hold one TensorFlow checkpoint"):
        foreign.read(tmp_path)
