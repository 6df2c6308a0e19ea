"""`simclr-jax export`: what it writes, that the files give our features back, and what it refuses."""

import functools
import hashlib
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from simclr_jax import augment, base, models
from simclr_jax.cli import export, export_files
from simclr_jax.interop import foreign, torchvision, variables
from simclr_jax.models import heads
from simclr_jax.run import checkpoint, loading
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib
from tests import oracles

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "weights.md"
ARGUMENTS = {"checkpoint": "latest", "format": "all", "head": "none"}
THIN = {"name": "resnet10", "width_multiplier": 0.0625, "stem": "cifar"}
STEP = 7
# Weights are constants in a program and arguments in ours, so XLA may fold and fuse them differently.
ROUNDING = 1e-6


@functools.cache
def shapes_of(network, size: int):
    """Of the features, of the encoder's variables and of the head's."""

    def run(key, images):
        h, variables = network.init_with_output(key, images, train=False)
        return h, variables, heads.ProjectionHead(2, 8).init(key, h, train=False)

    return jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))


def make_run(
    folder: pathlib.Path, *, size: int = 16, num_classes: int = 0, selector: int = 0, **encoder
) -> base.PyTree:
    """A run folder as train leaves it, with golden weights (BatchNorm statistics far from 0 and 1); the weights."""
    settings = config_lib.load_file("default").to_dict()
    settings["encoder"] |= encoder
    settings["augment"]["image_size"] = size
    settings["method"] |= {"num_proj_layers": 2, "proj_out_dim": 8, "ft_proj_selector": selector}
    h, shapes, head_shapes = shapes_of(models.make_encoder(**settings["encoder"]), size)
    parts = {
        "encoder": oracles.golden_variables(shapes),
        "projection_head": oracles.golden_variables(head_shapes, prefix="projection_head/"),
    }
    params = {name: part["params"] for name, part in parts.items()}
    if num_classes:
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(h.shape[-1], num_classes)).astype(np.float32)
        params["supervised_head"] = {"dense": {"kernel": kernel, "bias": np.ones(num_classes, np.float32)}}
    statistics = {"batch_stats": {name: part["batch_stats"] for name, part in parts.items()}}
    state = base.TrainState(np.int32(STEP), params, statistics, {"count": np.int32(STEP)})
    folder.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_config(folder, settings)
    with checkpoint.open_checkpoints(folder / "checkpoints") as checkpoints:
        checkpoint.save(checkpoints, state, step=STEP)
    return params, statistics["batch_stats"]


def features_of(folder: pathlib.Path, trees: base.PyTree, images: np.ndarray) -> np.ndarray:
    """h of our own encoder for images float32 [N, size, size, 3]."""
    network = models.make_encoder(**workdir_lib.read_config(folder)["encoder"])
    frozen = {"params": trees[0]["encoder"], "batch_stats": trees[1]["encoder"]}
    return np.asarray(jax.jit(lambda v, x: network.apply(v, x, train=False))(frozen, images))


def draw_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(3).random((count, size, size, 3), np.float32)


def doc_block(text: str) -> str:
    """The only Python block of docs/weights.md that contains `text`."""
    blocks = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if text in block]
    assert len(blocks) == 1, f"{len(blocks)} blocks contain {text!r}"
    return blocks[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(run folder, its weights, export folder, card) of a thin run, everything asked for."""
    root = tmp_path_factory.mktemp("exported")
    trees = make_run(root / "run", num_classes=5, **THIN)
    rows = [{"features": "simclr", "probe": "knn", "labels": "100%", "accuracy": 0.5, "protocol": "knn.k200.t0.1.v1"}]
    workdir_lib.update_results(root / "run", probes=rows, evaluated_step=STEP, environment={"jax": "1.2.3"})
    workdir_lib.update_results(root / "run", classifier={"top_1": 0.25}, converted={"source": "model.ckpt-7"})
    target = root / "exports" / "demo"
    assert export.main(workdir=str(root / "run"), output=str(target), **{**ARGUMENTS, "head": "all"}) == 0
    return root / "run", trees, target, json.loads((target / "card.json").read_text())


def test_an_export_holds_exactly_the_files_that_its_card_lists(exported):
    _, _, target, card = exported
    assert {path.name for path in target.iterdir()} == {"card.json", *card["files"]}
    assert {entry["format"] for entry in card["files"].values()} == set(export_files.USUAL)
    for name, entry in card["files"].items():
        content = (target / name).read_bytes()
        assert entry["bytes"] == len(content) and entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["load"]
    assert not [path for path in target.parent.iterdir() if path != target], "something temporary is left"


def test_the_card_is_complete(exported):
    run, trees, _, card = exported
    encoder = card["encoder"]
    assert models.make_encoder(**encoder["arguments"]).num_features == encoder["representation_size"] == 32
    assert encoder["num_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(trees[0]["encoder"]))
    assert encoder["num_statistics"] == sum(leaf.size for leaf in jax.tree.leaves(trees[1]["encoder"]))
    preprocessing = card["preprocessing"]
    assert (preprocessing["size"], preprocessing["center_crop"], preprocessing["resize"]) == (16, 1.0, "tf2")
    assert preprocessing["mean_and_std"] is None and preprocessing["range"] == [0.0, 1.0]
    assert preprocessing["channels"] == "RGB" and preprocessing["layout"]["torch"] == "NCHW"
    assert card["training"]["step"] == STEP and card["training"]["config"] == workdir_lib.read_config(run)
    assert card["training"]["environment"] == {"jax": "1.2.3"}
    assert card["training"]["converted"] == {"source": "model.ckpt-7"}
    assert card["accuracy"]["classifier"] == {"top_1": 0.25}
    assert card["accuracy"]["rows"][0]["protocol"] == "knn.k200.t0.1.v1"
    assert {head["part"]: head["input"] for head in card["heads"]} == {"projection_head": "h", "supervised_head": "h"}
    assert card["heads"][0]["layers"] == 2
    assert set(card["head_fingerprints"]) == {"projection_head", "supervised_head"}
    assert "jax" in card["exported_with"]


def test_flax_weights_come_back_bit_for_bit(exported):
    _, trees, target, card = exported
    back = variables.load(target / "variables.safetensors")
    params, batch_stats = variables.unflatten(back)
    jax.tree.map(np.testing.assert_array_equal, (params, batch_stats), trees)
    assert jax.tree.structure((params, batch_stats)) == jax.tree.structure(trees)
    assert variables.fingerprint(variables.only(back, "encoder")) == card["fingerprint"]


@pytest.mark.parametrize("name", ["variables.safetensors", "encoder.safetensors", "card.json"])
def test_a_bit_that_flips_in_an_export_is_noticed_by_those_who_read_it(exported, tmp_path, name):
    copy = shutil.copytree(exported[2], tmp_path / "copy")
    if name == "encoder.safetensors":
        (copy / "variables.safetensors").unlink()
    content = bytearray((copy / name).read_bytes())
    content[-5 if name != "card.json" else 0] ^= 1
    (copy / name).write_bytes(content)
    for read in (foreign.read, loading.load):
        with pytest.raises(base.InputError, match=r"SHA-256|must be readable") as caught:
            read(copy)
        assert "\n" not in str(caught.value)


def test_a_card_never_decides_what_is_removed(exported, tmp_path):
    copy = shutil.copytree(exported[2], tmp_path / "copy")
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "files": {**card["files"], "thesis.tex": {}}}))
    (copy / "thesis.tex").write_text("years")
    with pytest.raises(base.InputError, match="holds something else"):
        export_files.export(workdir=str(exported[0]), output=str(copy))
    assert (copy / "thesis.tex").read_text() == "years"


def test_the_fingerprint_is_that_of_the_weights_in_every_format(exported):
    _, _, target, card = exported
    back = torchvision.from_torchvision(variables.load(target / "encoder.safetensors"))
    assert variables.fingerprint(variables.only(back, "encoder")) == card["fingerprint"]
    head = torchvision.from_torchvision(variables.load(target / "projection_head.safetensors"))
    assert variables.fingerprint(head) == card["head_fingerprints"]["projection_head"]


@pytest.mark.few(1)
@pytest.mark.parametrize("count", [1, 5])
def test_stablehlo_of_a_fresh_call_gives_our_features_at_any_batch_size(exported, count):
    run, trees, target, _ = exported
    program = jax_export.deserialize((target / "encoder.jax_export").read_bytes())
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    images = draw_images(count, 16)
    h = np.asarray(program.call(images))
    expected = features_of(run, trees, images)
    np.testing.assert_allclose(h, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
    assert h.dtype == np.float32 and np.abs(expected).max() > 0.1


# ResNet-10 has the deep stem and the averaging shortcuts, only bottlenecks have the selective kernels as well.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_selective_kernels_have_stablehlo_and_flax_and_no_torch(tmp_path, capsys, name):
    trees = make_run(tmp_path / "run", name=name, width_multiplier=0.03125, sk_ratio=0.0625, stem="imagenet")
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS}
    with pytest.raises(base.InputError, match=r"no selective kernels.*--format=flax or --format=stablehlo or"):
        export.main(**{**arguments, "format": "torch"})
    assert not (tmp_path / "out").exists()
    assert export.main(**arguments) == 0
    assert "Without torch" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "card.json", "variables.safetensors", "encoder.jax_export", "encoder.onnx"
    }  # fmt: skip
    images = draw_images(2, 16)
    h = jax_export.deserialize((tmp_path / "out" / "encoder.jax_export").read_bytes()).call(images)
    expected = features_of(tmp_path / "run", trees, images)
    np.testing.assert_allclose(h, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def test_selective_kernels_that_leave_no_trace_in_the_names_are_refused_too(tmp_path):
    # Basic blocks behind the small stem only get another shortcut: the names are those of a plain network.
    make_run(tmp_path / "run", **THIN, sk_ratio=0.0625)
    with pytest.raises(base.InputError, match="no selective kernels"):
        export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "out"), **{**ARGUMENTS, "format": "torch"})


def test_wrong_usage_is_one_line_and_writes_nothing(exported, tmp_path):
    run, _, _, _ = exported
    target = tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    mistakes = {
        "folder of a run": {"workdir": str(tmp_path / "nothing")},
        "--format must be all or some of torch, flax, stablehlo, onnx, hub, detection, open_clip; got 'tf'": {
            "format": "torch,tf"
        },
        "--head must be one of none, projection, classifier, all; got 'both'": {"head": "both"},
        "checkpoint must be latest, best or one of the steps 7; got '8'": {"checkpoint": "8"},
        "full holds something else": {"output": str(tmp_path / "full")},
        "file holds something else": {"output": str(tmp_path / "file")},
        "folder that can be written": {"output": str(tmp_path / "file" / "out")},
    }
    for told, arguments in mistakes.items():
        with pytest.raises(base.InputError) as caught:
            export.main(**{"workdir": str(run), "output": str(target), **ARGUMENTS, **arguments})
        assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_head_that_the_run_does_not_have_is_refused(tmp_path):
    make_run(tmp_path / "run", **THIN)
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS, "format": "flax"}
    with pytest.raises(base.InputError, match="needs a run with a supervised_head; this one has encoder"):
        export.main(**{**arguments, "head": "classifier"})
    assert export.main(**{**arguments, "head": "all"}) == 0
    assert variables.parts(variables.load(tmp_path / "out" / "variables.safetensors")) == ["encoder", "projection_head"]


def test_a_classifier_that_does_not_stand_on_h_is_no_torchvision_fc(tmp_path):
    make_run(tmp_path / "run", num_classes=3, selector=1, **THIN)
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS, "head": "classifier"}
    with pytest.raises(base.InputError, match="classifier takes layer 1"):
        export.main(**{**arguments, "format": "torch"})
    assert export.main(**{**arguments, "format": "flax"}) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["heads"] == [{"part": "supervised_head", "input": "activation 1 of the projection head", "selector": 1}]


def test_an_earlier_export_is_replaced_whole(tmp_path):
    make_run(tmp_path / "run", **THIN)
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS}
    (tmp_path / "out").mkdir()
    assert export.main(**{**arguments, "format": "torch"}) == 0
    before = json.loads((tmp_path / "out" / "card.json").read_text())
    assert export.main(**{**arguments, "format": "flax"}) == 0
    after = json.loads((tmp_path / "out" / "card.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "variables.safetensors"}
    assert before["fingerprint"] == after["fingerprint"]
    assert after["accuracy"] == {"rows": [], "classifier": None, "note": "No accuracy was measured on this run."}
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(base.InputError, match="holds something else"):
        export.main(**{**arguments, "format": "flax"})
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


@pytest.mark.few(2)
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "files": {}}', '{"files": 3}'])
def test_a_folder_with_another_programs_card_is_not_replaced(tmp_path, content):
    make_run(tmp_path / "run", **THIN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.json").write_text(content)
    with pytest.raises(base.InputError, match="holds something else"):
        export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "out"), **ARGUMENTS)
    assert (tmp_path / "out" / "card.json").read_text() == content


def test_a_failure_leaves_the_earlier_export_and_nothing_half_written(tmp_path, monkeypatch):
    make_run(tmp_path / "run", **THIN)
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS, "format": "flax"}
    assert export.main(**arguments) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full_disk(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir_lib, "write_json", full_disk)
    with pytest.raises(base.InputError, match="No space left on device"):
        export.main(**arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_accuracies_of_other_weights_stay_off_the_card(tmp_path):
    make_run(tmp_path / "run", **THIN)
    workdir_lib.update_results(tmp_path / "run", probes=[{"accuracy": 0.9}], evaluated_step=STEP - 1)
    arguments = {"workdir": str(tmp_path / "run"), "output": str(tmp_path / "out"), **ARGUMENTS, "format": "flax"}
    assert export.main(**arguments) == 0
    accuracy = json.loads((tmp_path / "out" / "card.json").read_text())["accuracy"]
    assert accuracy["rows"] == [] and "step 6" in accuracy["note"]


def test_what_is_printed_names_files_sizes_fingerprint_and_what_comes_next(exported, tmp_path, capsys):
    run, _, _, card = exported
    assert export.main(workdir=str(run), output=str(tmp_path / "out"), **{**ARGUMENTS, "format": "torch"}) == 0
    out = capsys.readouterr().out
    assert card["fingerprint"] in out and "encoder.safetensors" in out and "kB" in out and "docs/weights.md" in out
    make_run(tmp_path / "unmeasured", **THIN)
    arguments = {"workdir": str(tmp_path / "unmeasured"), "output": str(tmp_path / "out"), **ARGUMENTS}
    assert export.main(**{**arguments, "format": "torch"}) == 0
    assert f"simclr-jax evaluate --workdir={arguments['workdir']}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_flax_and_stablehlo_lines_give_our_features(exported, monkeypatch):
    run, trees, target, _ = exported
    monkeypatch.chdir(target.parents[1])
    images = draw_images(2, 16)
    expected = features_of(run, trees, images)
    for text in ("variables.unflatten", "export.deserialize"):
        scope = {"images": images}
        exec(compile(doc_block(text), str(DOCS), "exec"), scope)
        np.testing.assert_allclose(scope["h"], expected, rtol=0, atol=ROUNDING * np.abs(expected).max(), err_msg=text)


@pytest.mark.few(1)
@pytest.mark.parametrize("size", [16, 40])
def test_the_documented_preprocessing_is_that_of_evaluation(tmp_path, monkeypatch, size):
    make_run(tmp_path / "run", size=size, **THIN)
    target = tmp_path / "exports" / "demo"
    arguments = {"workdir": str(tmp_path / "run"), "output": str(target), **ARGUMENTS, "format": "flax"}
    assert export.main(**arguments) == 0
    monkeypatch.chdir(tmp_path)
    photos = np.random.default_rng(0).integers(0, 256, (2, 48, 61, 3), np.uint8)
    scope = {"photos": photos}
    exec(compile(doc_block("def preprocess"), str(DOCS), "exec"), scope)
    eval_view = augment.make_eval_view(image_size=size, resize="tf2")
    expected = np.asarray(eval_view(jnp.asarray(photos), jnp.asarray([[48, 61]] * 2, jnp.int32)))
    # Without the reference's table of rounded bicubic weights: 1.5e-3 at most (golden files' README).
    np.testing.assert_allclose(scope["images"], expected, rtol=0, atol=1.5e-3)
