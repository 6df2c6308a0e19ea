"""`simclr-jax convert`: its run computes what the official code computed, and wrong files are refused."""

import argparse
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import base, models
from simclr_jax.cli import convert, convert_weights
from simclr_jax.interop import tensorflow_names, torchvision, variables
from simclr_jax.models import heads
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, loading
from simclr_jax.run import workdir as workdir_lib
from tests import golden, oracles, parity

# Of the golden README: relative to the largest entry, both sides float32.
TOLERANCE = 1e-5


def settings(name: str = "smoke") -> dict:
    return config_lib.load_file(name).to_dict()


def run_convert(workdir: pathlib.Path, source: pathlib.Path, **flags) -> int:
    return convert.main(config=settings(), workdir=str(workdir), input=str(source), **flags)


def official_file(path: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """The golden file `name`; its network's weights are saved to `path` under the names of the checkpoint."""
    arrays = golden.load(name)
    theirs = arrays["variables/tf1_names"] if "tf1" in name else arrays["canonical_to_key"]
    rows = zip(arrays["variables/canonical_names"], theirs, arrays["variables/shapes"], strict=True)
    weights = {
        str(key): oracles.golden_value(str(canonical), tuple(map(int, str(shape).split(",")))).astype(np.float32)
        for canonical, key, shape in rows
    }
    step = "global_step" if "tf1" in name else "global_step/.ATTRIBUTES/VARIABLE_VALUE"
    weights[step] = np.asarray(arrays["global_step"])
    safetensors.numpy.save_file(weights, path)
    return arrays


def outputs(workdir: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the run in `workdir` computes: features, projection output and, of h, the logits."""
    written = workdir_lib.read_config(workdir)
    encoder = config_lib.call(models.make_encoder, written, "encoder")
    method = written["method"]
    head = heads.ProjectionHead(method["num_proj_layers"], method["proj_out_dim"])
    _, params, state = features.load_variables(workdir, which="latest")

    def apply(module, part, x):
        tree = {"params": params[part], "batch_stats": state["batch_stats"].get(part, {})}
        return jax.jit(lambda v, x: module.apply(v, x, train=False))(tree, x)

    h = apply(encoder, "encoder", images)
    result = {"features": h, "projection_output": apply(head, "projection_head", h)[-1]}
    if "supervised_head" in params:
        dense = params["supervised_head"]["dense"]
        result["supervised_logits"] = h @ dense["kernel"] + dense["bias"]
    return {name: np.asarray(value) for name, value in result.items()}


def assert_as_recorded(workdir: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    for name, value in outputs(workdir, arrays["input"]).items():
        np.testing.assert_allclose(value, arrays[name], rtol=0, atol=TOLERANCE * np.abs(arrays[name]).max())


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name",
    [
        "ckpt_tf1_r18_w0.0625",
        pytest.param("ckpt_tf2_r18_w0.0625", marks=pytest.mark.slow),
        "ckpt_tf2_r50_sk_w0.03125",
        pytest.param("ckpt_tf1_r50_sk_w0.03125", marks=pytest.mark.slow),
    ],
)
def test_a_converted_checkpoint_computes_what_the_official_code_computed(tmp_path, name, compare):
    arrays = official_file(tmp_path / "w.safetensors", name)
    assert run_convert(tmp_path / "run", tmp_path / "w.safetensors") == 0
    words, source = "R18 1/16, CIFAR" if "r18" in name else "R50 SK 1/32", name.split("_")[1].upper()
    for output, value in outputs(tmp_path / "run", arrays["input"]).items():
        tolerance = {"limit": TOLERANCE, "of": parity.LARGEST, "source": source}
        compare(f"{words}: features, projection, logits", value, arrays[output], **tolerance)
    step, encoder = features.load_encoder_variables(tmp_path / "run", which="latest")
    assert step == arrays["global_step"]
    assert encoder.keys() == {"params", "batch_stats"}
    found = workdir_lib.read_config(tmp_path / "run")["encoder"]
    expected = {key: float(arrays[f"config/{key}"]) for key in ("width_multiplier", "sk_ratio")}
    assert {key: found[key] for key in expected} == expected
    assert found["name"] == f"resnet{int(arrays['config/resnet_depth'])}"
    assert found["stem"] == ("cifar" if arrays["config/image_size"] <= 32 else "imagenet")


THIN = {"name": "resnet10", "width_multiplier": 0.0625, "stem": "cifar"}


def golden_by_name(**parts) -> dict[str, np.ndarray]:
    """See `_golden_by_name`."""
    return dict(_golden_by_name(**parts))


@functools.cache
def _golden_by_name(*, head: tuple[int, ...] = (), classes: int = 0, **arguments) -> dict[str, np.ndarray]:
    """Golden weights of an encoder, of a head with these widths behind it, and of a classifier on h."""
    encoder = models.make_encoder(**{**THIN, **arguments})
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    h, shapes = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, train=False), image)
    tree = oracles.golden_variables(shapes)
    by_name = variables.flatten({"encoder": tree["params"]}, {"encoder": tree["batch_stats"]})
    if head:
        network = heads.ProjectionHead(len(head), head[-1])
        shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), h)
        tree = oracles.golden_variables(shapes, prefix="projection_head/")
        by_name |= variables.flatten({"projection_head": tree["params"]}, {"projection_head": tree["batch_stats"]})
    if classes:
        by_name["supervised_head/dense/kernel"] = np.full((h.shape[-1], classes), 0.5, np.float32)
        by_name["supervised_head/dense/bias"] = np.arange(classes, dtype=np.float32)
    return by_name


def tf1_file(path: pathlib.Path, *, step: int | None = None, extra=(), **parts) -> dict[str, np.ndarray]:
    """Golden weights as an official TF1 checkpoint has them; our variables by name."""
    by_name = golden_by_name(**parts)
    names = tensorflow_names.encoder_names("resnet10")
    leaves = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance", "kernel": "kernel"}
    for name in by_name:
        part, module, leaf = name.split("/")[0], *name.rsplit("/", 2)[1:]
        if part == "projection_head":
            kind = "dense" if "dense" in module else "batch_normalization"
            names[name] = f"head_contrastive/nl_{int(module[-1]) - 1}/{kind}/{leaves[leaf]}"
        elif part == "supervised_head":
            names[name] = f"head_supervised/linear_layer/dense/{leaf}"
    state = {names[name]: value for name, value in by_name.items()} | dict(extra)
    safetensors.numpy.save_file(state | ({} if step is None else {"global_step": np.array(step)}), path)
    return by_name


@pytest.fixture
def source(tmp_path):
    return tmp_path / "w.safetensors"


def test_a_run_holds_the_weights_bit_by_bit_and_their_record(tmp_path, source):
    by_name = tf1_file(source, step=225206, head=(32, 8), classes=3, extra={"ema_model/x": np.ones(1, np.float32)})
    run_convert(tmp_path / "run", source)
    _, params, state = features.load_variables(tmp_path / "run", which="latest")
    found = variables.flatten(params, state["batch_stats"])
    assert variables.fingerprint(found) == variables.fingerprint(by_name)
    record = workdir_lib.read_results(tmp_path / "run")["converted"]
    assert record["source"] == "w.safetensors" and len(record["sha256"]["w.safetensors"]) == 64
    assert (record["step"], record["num_variables"], record["num_classes"]) == (225206, len(by_name), 3)
    assert record["num_ignored"] == {"averaged weights (ema_model)": 1, "counters": 1}
    assert record["fingerprint"] == variables.fingerprint(variables.only(by_name, "encoder"))


def test_all_sections_but_encoder_and_method_are_those_of_the_config(tmp_path, source):
    tf1_file(source, head=(32, 8))
    asked = settings() | {"seed": 77}
    asked["encoder"] = {**asked["encoder"], "dtype": "bfloat16"}
    convert.main(config=asked, workdir=str(tmp_path / "run"), input=str(source))
    written = workdir_lib.read_config(tmp_path / "run")
    same = json.loads(json.dumps(asked))
    assert {k: v for k, v in written.items() if k not in ("encoder", "method")} == {
        k: v for k, v in same.items() if k not in ("encoder", "method")
    }
    assert written["encoder"]["dtype"] == "bfloat16" and written["encoder"]["name"] == "resnet10"
    method = written["method"]
    assert (method["name"], method["num_proj_layers"], method["proj_out_dim"]) == ("simclr", 2, 8)
    assert method["temperature"] == asked["method"]["temperature"] and method["supervised_weight"] == 0.0


ROLES = [
    # step, folder, head, flag -> method, selector
    (751, "x", (32, 32, 8), "auto", "supervised", 1),
    (3754, "x", (32, 32, 8), "auto", "supervised", 1),
    (37535, "x", (32, 32, 8), "auto", "supervised", 0),
    (28151, "x", (), "auto", "supervised", 0),
    (250228, "x", (32, 32, 8), "auto", "simclr", 0),
    (225206, "x", (), "auto", "simclr", 0),
    (None, "x", (32, 8), "auto", "simclr", 0),
    (None, "x", (), "auto", "supervised", 0),
    (None, "finetuned_1pct", (32, 8), "auto", "supervised", 1),
    (None, "finetuned_10pct", (32, 8), "auto", "supervised", 1),
    (None, "finetuned_100pct", (32, 8), "auto", "supervised", 0),
    (None, "finetune_10pct", (), "auto", "supervised", 0),
    (3754, "x", (32, 8), "0", "supervised", 0),
    (250228, "x", (32, 32, 8), "2", "supervised", 2),
]


@pytest.mark.parametrize("case", ROLES, ids=lambda case: "-".join(map(str, case[:4])))
def test_step_folder_and_flag_tell_what_the_classifier_stands_on(case, source):
    step, folder, head, flag, method, selector = case
    network = convert_weights.detect.Architecture({}, len(head), head[-1] if head else 0, len(head), num_classes=3)
    read = convert_weights.foreign.Foreign({}, "", "reference", None, step, {}, {}, {}, pretrained=False, note="")
    path = pathlib.Path(folder, "r50_1x_sk0", "model.ckpt")
    assert convert_weights._find_role(path, read, network, selector=flag)[:2] == (method, selector)


def test_a_fine_tuned_checkpoint_says_what_was_chosen_and_why(tmp_path, source, capsys):
    tf1_file(source, step=3754, head=(32, 32, 8), classes=3)
    run_convert(tmp_path / "run", source)
    said = capsys.readouterr().out
    assert "3 classes on layer 1 of the projection head (step 3754: fine-tuned with 10 % of the labels)" in said
    method = workdir_lib.read_config(tmp_path / "run")["method"]
    assert (method["name"], method["ft_proj_selector"]) == ("supervised", 1)


def test_a_head_that_was_cut_off_for_fine_tuning_is_kept(tmp_path, source):
    by_name = golden_by_name(head=(32, 32, 8), classes=3)
    by_name = {name: v for name, v in by_name.items() if not re.match(r"projection_head/(dense|bn)[23]/", name)}
    variables.save(source, by_name)
    run_convert(tmp_path / "run", source, selector="1")
    method = workdir_lib.read_config(tmp_path / "run")["method"]
    assert (method["name"], method["ft_proj_selector"], method["num_proj_layers"]) == ("supervised", 1, 2)
    _, params, _ = features.load_variables(tmp_path / "run", which="latest")
    assert params["projection_head"].keys() == {"dense1", "bn1"}


def test_torchvision_files_become_runs_with_torchvisions_padding(tmp_path, source, capsys):
    by_name = golden_by_name(padding="torchvision", classes=4)
    state = {f"module.{name}": value for name, value in torchvision.to_torchvision(by_name).items()}
    safetensors.numpy.save_file(state, source)
    run_convert(tmp_path / "run", source)
    written = workdir_lib.read_config(tmp_path / "run")
    assert written["encoder"]["padding"] == "torchvision" and written["method"]["num_proj_layers"] == 0
    assert written["method"]["name"] == "supervised"
    step, params, state = features.load_variables(tmp_path / "run", which="latest")
    found = variables.flatten(params, state["batch_stats"])
    assert step == 0 and variables.fingerprint(found) == variables.fingerprint(by_name)
    assert re.search("compared with torchvision|difference to torchvision", capsys.readouterr().out)


@pytest.mark.slow
def test_the_classifier_of_simclr_converter_does_not_make_its_network_a_supervised_one(tmp_path, source, monkeypatch):
    by_name = golden_by_name(name="resnet50", width_multiplier=1 / 64, classes=4)
    state = torchvision.to_torchvision(by_name)
    # safetensors sorts its names; torch's files keep the order, by which this layout is known.
    order = sorted(state, key=lambda name: ("downsample" not in name, name))
    arrays = {name: state[name] for name in order}
    opened = convert_weights.foreign.files.Source("torch", tuple(order), arrays.__getitem__, (source,), {}, ())
    source.write_bytes(b"")
    monkeypatch.setattr(convert_weights.foreign.opening, "open_weights", lambda path: opened)
    run_convert(tmp_path / "run", source)
    written = workdir_lib.read_config(tmp_path / "run")
    assert written["method"]["name"] == "simclr" and written["encoder"]["padding"] == "reference"


@pytest.mark.slow
def test_padding_can_be_chosen_where_shapes_leave_it_open(tmp_path, source):
    by_name = golden_by_name(name="resnet50", width_multiplier=1 / 64)
    variables.save(source, by_name)
    run_convert(tmp_path / "run", source, padding="torchvision")
    assert workdir_lib.read_config(tmp_path / "run")["encoder"]["padding"] == "torchvision"


def refusal(workdir: pathlib.Path, source: pathlib.Path, **flags) -> str:
    """The message of a refused conversion, which has left nothing behind."""
    before = sorted(workdir.parent.iterdir())
    with pytest.raises(base.InputError) as error:
        run_convert(workdir, source, **flags)
    assert sorted(workdir.parent.iterdir()) == before
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500
    return str(error.value)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"padding": "same"}, "--padding must be one of auto, reference, torchvision; got 'same'"),
        ({"selector": "first"}, "--selector must be auto or a layer of the head, 0 for none; got 'first'"),
        ({"selector": "3"}, "--selector must be 0 to 2"),
        ({"selector": "0", "ignore": "head_supervised/*"}, "--selector says what a classifier stands on"),
        ({"weights": "best"}, "--weights must be one of model, ema"),
        ({"padding": "torchvision"}, "padding 'reference'; got --padding=torchvision"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, source, flags, said):
    tf1_file(source, head=(32, 8), classes=3)
    assert said in refusal(tmp_path / "run", source, **flags)


def test_variables_of_other_shapes_and_names_are_refused_together(tmp_path, source):
    by_name = golden_by_name(head=(32, 8), classes=3)
    by_name["encoder/block_group2/block1/conv2/kernel"] = np.ones((3, 3, 8, 9), np.float32)
    by_name["projection_head/bn2/bias"] = np.ones(8, np.float32)
    by_name["encoder/strange"] = np.ones(1, np.float32)
    del by_name["encoder/stem/bn1/var"], by_name["projection_head/bn1/bias"]
    variables.save(source, by_name)
    said = refusal(tmp_path / "run", source)
    for problem in ("encoder/stem/bn1/var is missing", "encoder/strange is unknown"):
        assert problem in said
    assert "block2" not in said and "conv2/kernel has shape [3, 3, 8, 9] and not [3, 3, 8, 8]" in said


def test_a_file_of_another_architecture_is_refused(tmp_path, source):
    state = torchvision.to_torchvision(golden_by_name(padding="torchvision", stem="imagenet"))
    # Grouped convolutions, as in ResNeXt, have the same names.
    state["layer3.0.conv2.weight"] = state["layer3.0.conv2.weight"][:, :2]
    safetensors.numpy.save_file(state, source)
    assert "block_group3/block1/conv2/kernel has shape" in refusal(tmp_path / "run", source)


def test_a_truncated_file_is_refused(tmp_path, source):
    tf1_file(source)
    source.write_bytes(source.read_bytes()[:-100])
    assert "must be a safetensors file" in refusal(tmp_path / "run", source)


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, source):
    tf1_file(source)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "--workdir must be a new folder or an empty one" in refusal(tmp_path / "run", source)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert "--workdir must be" in refusal(source, source)


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(tmp_path, source):
    tf1_file(source)
    (tmp_path / "run").mkdir()
    run_convert(tmp_path / "run", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "w.safetensors"]


def test_a_conversion_that_fails_while_writing_leaves_nothing(tmp_path, source, monkeypatch):
    tf1_file(source)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir_lib, "update_results", full)
    assert "No space left on device" in refusal(tmp_path / "run", source)


def test_a_converted_run_can_be_exported_and_converted_again_without_a_changed_bit(tmp_path, source):
    from simclr_jax.cli import export

    by_name = tf1_file(source, step=3754, head=(32, 8), classes=3)
    run_convert(tmp_path / "run", source)
    flags = {"checkpoint": "latest", "format": "flax", "head": "all"}
    assert export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "out"), **flags) == 0
    run_convert(tmp_path / "again", tmp_path / "out")
    _, params, state = features.load_variables(tmp_path / "again", which="latest")
    assert variables.fingerprint(variables.flatten(params, state["batch_stats"])) == variables.fingerprint(by_name)
    first, second = (workdir_lib.read_config(tmp_path / name) for name in ("run", "again"))
    assert first == second
    # Under torchvision's names the same features, when read as a library does.
    torch = {**flags, "format": "torch", "head": "none"}
    assert export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "torch"), **torch) == 0
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    of_run, of_export = (loading.load(tmp_path / name)(images) for name in ("run", "torch"))
    np.testing.assert_allclose(of_export, of_run, rtol=1e-5, atol=1e-6)


def foreign_layouts(model, torch) -> dict[str, dict]:
    """Files in which programs keep a network, by name; beside it stands what they keep there."""
    weights = {name: value for name, value in model.state_dict().items() if name[:2] != "fc"}

    def behind(prefix, state):
        return {prefix + name: value for name, value in state.items()}

    other = {name: torch.zeros_like(value) for name, value in weights.items()}
    sequential = torch.nn.Sequential(*list(model.children())[:-1]).state_dict()
    head = {"projection_head.layers.0.weight": torch.ones(8, 512), "projection_head.layers.0.bias": torch.ones(8)}
    return {
        "sequential": behind("backbone.", sequential) | head,
        "lightning": {"state_dict": behind("net.", weights), "hyper_parameters": argparse.Namespace(lr=0.1)},
        "dino": {"student": behind("module.backbone.", other), "teacher": behind("backbone.", weights), "epoch": 1},
        "byol": behind("target_network.encoder.", other) | behind("online_network.encoder.", weights),
        "whole": model,
    }


def assert_same_features(run, model, torch):
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = outputs(run, images)["features"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("layout", ["sequential", "lightning", "dino", "byol", "whole"])
def test_networks_of_other_programs_compute_here_what_they_compute_there(tmp_path, torchvision, layout):
    torch = pytest.importorskip("torch")
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as trained: nothing is 0 or 1
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    torch.save(foreign_layouts(model, torch)[layout], tmp_path / "w.pth")
    run_convert(tmp_path / "run", tmp_path / "w.pth", network="teacher" if layout == "dino" else "")
    model.fc = torch.nn.Identity()
    assert_same_features(tmp_path / "run", model, torch)


def test_a_network_of_lightly_computes_here_what_it_computes_there(tmp_path):
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("lightly.models").ResNetGenerator("resnet-9", width=0.125)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    run_convert(tmp_path / "run", tmp_path / "w.pth")
    model.linear = torch.nn.Identity()
    assert_same_features(tmp_path / "run", model, torch)
