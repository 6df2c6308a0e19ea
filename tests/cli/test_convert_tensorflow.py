"""`simclr-jax convert` on real TensorFlow checkpoints, the recorded ones and a SavedModel made here."""

import os
import pathlib
import re

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.run import features
from simclr_jax.run import workdir as workdir_lib
from tests import golden
from tests.cli.test_convert import assert_as_recorded, official_file, refusal, run_convert

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow and the libraries it imports warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ["tf1_r18_w0.0625", "tf2_r18_w0.0625", "tf1_r50_sk_w0.03125", "tf2_r50_sk_w0.03125"]
FOLDER = pathlib.Path(os.environ.get("SIMCLR_GOLDEN", pathlib.Path(__file__).parents[3] / "shared" / "golden"))


@pytest.fixture(autouse=True)
def tensorflow():
    return pytest.importorskip("tensorflow", exc_type=ImportError)


def recorded(name: str) -> pathlib.Path:
    folder = FOLDER / f"ckpt_{name}"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} not found; set SIMCLR_GOLDEN to its folder to run this check")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_checkpoint_computes_what_the_official_code_computed(tmp_path, name):
    assert run_convert(tmp_path / "run", recorded(name)) == 0
    arrays = golden.load(f"ckpt_{name}")
    assert_as_recorded(tmp_path / "run", arrays)
    record = workdir_lib.read_results(tmp_path / "run")["converted"]
    assert record["step"] == arrays["global_step"] and len(record["sha256"]) == 2


def test_the_same_weights_come_from_tensorflows_file_and_from_safetensors(tmp_path):
    official_file(tmp_path / "w.safetensors", "ckpt_tf1_r18_w0.0625")
    run_convert(tmp_path / "a", recorded("tf1_r18_w0.0625") / "model.ckpt-4321.index")
    run_convert(tmp_path / "b", tmp_path / "w.safetensors")
    first, second = (workdir_lib.read_results(tmp_path / run)["converted"] for run in ("a", "b"))
    assert first["fingerprint"] == second["fingerprint"]


def save_model(tf, folder: pathlib.Path, weights: dict[str, np.ndarray]) -> None:
    """A SavedModel laid out as the official exporter does it: a model, and a list of its trainable variables."""
    root, lists = tf.Module(), re.compile(r"\d+")

    def child(parent, name: str, *, next_name: str):
        kind = list if lists.fullmatch(next_name) else tf.Module
        if isinstance(parent, list):
            while len(parent) <= int(name):
                parent.append(tf.Module())
            return parent[int(name)]
        if getattr(parent, name, None) is None:
            setattr(parent, name, kind())
        return getattr(parent, name)

    root.trainable_variables_list = []
    for key, value in weights.items():
        *path, leaf = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")
        if path[:1] != ["model"]:
            continue
        node = root
        for name, next_name in zip(path, [*path[1:], leaf], strict=True):
            node = child(node, name, next_name=next_name)
        variable = tf.Variable(value, trainable=not leaf.startswith("moving"))
        setattr(node, leaf, variable)
        if variable.trainable:
            root.trainable_variables_list.append(variable)
    tf.saved_model.save(root, str(folder))


def test_a_saved_model_is_read_through_its_objects_and_not_by_its_keys(tmp_path, tensorflow):
    import safetensors.numpy

    arrays = official_file(tmp_path / "w.safetensors", "ckpt_tf2_r18_w0.0625")
    save_model(tensorflow, tmp_path / "saved_model", safetensors.numpy.load_file(tmp_path / "w.safetensors"))
    keys = tensorflow.train.load_checkpoint(str(tmp_path / "saved_model/variables/variables"))
    assert any(key.startswith("trainable_variables_list/") for key in keys.get_variable_to_shape_map())
    run_convert(tmp_path / "run", tmp_path / "saved_model")
    assert_as_recorded(tmp_path / "run", arrays)


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_damaged_checkpoint_is_refused(tmp_path, part, damage):
    folder = tmp_path / "ckpt"
    folder.mkdir()
    for file in recorded("tf1_r18_w0.0625").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / f"model.ckpt-4321.{part}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "truncated" else b"text, no weights")
    assert "must be a TensorFlow checkpoint" in refusal(tmp_path / "run", folder)


def test_averages_that_are_not_there_are_refused(tmp_path):
    assert "needs a TF1 checkpoint" in refusal(tmp_path / "run", recorded("tf2_r18_w0.0625"), weights="ema")


def test_a_converted_checkpoint_is_read_by_evaluation(tmp_path):
    run_convert(tmp_path / "run", recorded("tf2_r18_w0.0625"))
    step, encoder = features.load_encoder_variables(tmp_path / "run", which="123")
    assert step == 123 and encoder["params"]["stem"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
    with pytest.raises(base.InputError, match="latest, best or one of the steps 123"):
        features.load_encoder_variables(tmp_path / "run", which="5")
