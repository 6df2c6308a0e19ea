"""A folder for the hub: it loads from there and from the disk, its README is true, and its code runs in PyTorch."""

import json
import re
import sys

import numpy as np
import pytest

import simclr_jax
from simclr_jax import base
from simclr_jax.cli import export, export_hub
from simclr_jax.interop import hub, torchvision, variables
from simclr_jax.run import workdir as workdir_lib
from tests.cli.test_export import ARGUMENTS, STEP, THIN, draw_images, features_of, make_run

HUB = {**ARGUMENTS, "format": "hub"}
# As in test_export_torch.
TOLERANCE = 1e-5


def make_folder(root, *, head: str = "none", **settings) -> tuple[base.PyTree, dict]:
    """(the weights of a run, the card) after an export to `root`/hub."""
    trees = make_run(root / "run", **settings)
    assert export.main(workdir=str(root / "run"), output=str(root / "hub"), **{**HUB, "head": head}) == 0
    return trees, json.loads((root / "hub" / "card.json").read_text())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(root with run and hub, weights, card) of a run with accuracies, a head and a classifier."""
    root = tmp_path_factory.mktemp("published")
    trees = make_run(root / "run", num_classes=5, **THIN)
    row = {"labels": "10%", "probe": "knn", "accuracy": 0.525, "protocol": "knn.k200.t0.1.v1"}
    rows = [{**row, "features": "simclr"}, {**row, "features": "pixels", "accuracy": 0.25}]
    workdir_lib.update_results(root / "run", probes=rows, evaluated_step=STEP)
    config = workdir_lib.read_config(root / "run")
    config["data"] |= {"name": "folder:/home/someone/photos", "data_dir": "/scratch/sets"}
    workdir_lib.write_config(root / "run", config)
    assert export.main(workdir=str(root / "run"), output=str(root / "hub"), **{**HUB, "head": "all"}) == 0
    return root, trees, json.loads((root / "hub" / "card.json").read_text())


def test_the_folder_holds_what_the_hub_expects_and_loads(published):
    root, trees, card = published
    names = {"README.md", "config.json", "model.safetensors", "projection_head.safetensors"}
    assert {path.name for path in (root / "hub").iterdir()} == {"card.json", *names} and set(card["files"]) == names
    encoder = simclr_jax.load(root / "hub")
    assert encoder.fingerprint == card["fingerprint"]
    images = draw_images(2, 16)
    h = np.asarray(encoder.module.apply(encoder.variables, images, train=False))
    expected = features_of(root / "run", trees, images)
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_a_readme_that_somebody_has_written_in_is_kept(published, tmp_path):
    arguments = {"workdir": str(published[0] / "run"), "output": str(tmp_path / "hub"), **HUB}
    assert export.main(**arguments) == 0 and export.main(**arguments) == 0
    with open(tmp_path / "hub" / "README.md", "a") as file:
        file.write("Mine.")
    with pytest.raises(base.InputError, match="holds something else"):
        export.main(**arguments)
    assert (tmp_path / "hub" / "README.md").read_text().endswith("Mine.")


def test_nothing_tells_of_the_machine(published):
    root, _, card = published
    for path in (root / "hub").iterdir():
        assert b"someone" not in path.read_bytes() and b"/scratch" not in path.read_bytes()
    assert card["training"]["config"]["data"]["name"] == "folder:photos"
    assert export_hub.without_paths({"a": ["/x/y", "x/y", "tfds:cifar10", 1, None]}) == {
        "a": ["y", "x/y", "tfds:cifar10", 1, None]
    }


def test_the_readme_is_a_model_card_that_the_hubs_own_library_reads(published):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    root, _, card = published
    readme = huggingface_hub.ModelCard.load(root / "hub" / "README.md")
    assert readme.data.library_name == "jax" and readme.data.pipeline_tag == "image-feature-extraction"
    (result,) = readme.data.eval_results  # that of the network; the pixels' is in the table only
    assert (result.metric_value, result.metric_name) == (0.525, "knn.k200.t0.1.v1")
    text = (root / "hub" / "README.md").read_text()
    assert "| simclr | knn | 10% | 52.5 | knn.k200.t0.1.v1 |" in text and "| pixels | knn | 10% | 25.0 |" in text
    for told in (card["fingerprint"], "`data.name` | folder:photos", "resnet.BasicBlock, [1, 1, 1, 1]", "licence"):
        assert told in text
    config = json.loads((root / "hub" / "config.json").read_text())
    assert config["encoder"] == card["encoder"]["arguments"] and config["num_classes"] == 5
    assert "architecture" not in config  # timm would take it for its own network


@pytest.fixture
def hub_cache(published, tmp_path, monkeypatch):
    """The published folder as someone/model in the cache of huggingface_hub, which is offline."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    model, commit = tmp_path / "models--someone--model", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots").mkdir()
    (model / "snapshots" / commit).symlink_to(published[0] / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub_cache")
def test_a_model_of_the_hub_loads_by_its_name(published):
    encoder = simclr_jax.load("hf://someone/model")
    assert encoder.fingerprint == published[2]["fingerprint"] and encoder.step == STEP
    with pytest.raises(base.InputError, match=r"hf://someone/other cannot be had from the hub: .*Check the name"):
        simclr_jax.load("hf://someone/other")
    with pytest.raises(base.InputError, match="hf://someone/model@v2 cannot be had"):
        simclr_jax.load("hf://someone/model@v2")


@pytest.mark.parametrize("address", ["hf://", "hf://model", "hf://a/b/c", "hf://a/b@", "hf://a/../b c"])
def test_another_form_of_address_is_refused(address):
    with pytest.raises(base.InputError, match=r"must be named hf://user/model\[@revision\]; got hf://"):
        simclr_jax.load(address)


def test_without_the_hubs_library_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(base.InputError, match=r"pip install 'simclr-jax\[hub\]'"):
        simclr_jax.load("hf://someone/model")


def torch_code(folder) -> str:
    """The code block for PyTorch in a README."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    return blocks[1]


def test_a_network_that_torch_does_not_have_keeps_our_names(tmp_path):
    _, card = make_folder(tmp_path, sk_ratio=0.0625, head="all", **THIN)
    by_name = variables.load(tmp_path / "hub" / "model.safetensors")
    assert variables.parts(by_name) == ["encoder", "projection_head"]
    assert simclr_jax.load(tmp_path / "hub").fingerprint == card["fingerprint"]
    assert "torchvision and timm do not have this network." in (tmp_path / "hub" / "README.md").read_text()


CASES = [
    ({"name": "resnet18", "stem": "imagenet", "width_multiplier": 0.0625}, 66),
    ({"name": "resnet10", "stem": "cifar", "width_multiplier": 0.25}, 16),
    pytest.param({"name": "resnet50", "stem": "imagenet"}, 64, marks=pytest.mark.slow),
    pytest.param({"name": "resnet18", "stem": "cifar", "padding": "torchvision"}, 9, marks=pytest.mark.slow),
    pytest.param(
        {"name": "resnet50", "stem": "imagenet", "width_multiplier": 2.0, "padding": "torchvision"},
        64,
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("encoder", "size"), CASES)
@pytest.mark.usefixtures("torchvision")
def test_the_readmes_code_for_torch_gives_our_features(tmp_path, monkeypatch, encoder, size):
    torch = pytest.importorskip("torch")
    trees, _ = make_folder(tmp_path, num_classes=5, head="all", size=size, **encoder)
    images = draw_images(2, size)
    expected = features_of(tmp_path / "run", trees, images)
    monkeypatch.chdir(tmp_path / "hub")
    scope = {"images": torch.from_numpy(images).permute(0, 3, 1, 2)}
    with torch.no_grad():
        exec(compile(torch_code(tmp_path / "hub"), "README.md", "exec"), scope)
    np.testing.assert_allclose(scope["h"].numpy(), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("head", ["none", pytest.param("classifier", marks=pytest.mark.slow)])
def test_timm_loads_what_it_has_by_its_own_rules(tmp_path, head):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    settings = {"name": "resnet18", "stem": "imagenet", "padding": "torchvision", "size": 64}
    trees, _ = make_folder(tmp_path, num_classes=5, head=head, **settings)
    images = draw_images(2, 64)
    expected = features_of(tmp_path / "run", trees, images)
    code = torch_code(tmp_path / "hub").replace("hf-hub:USER/MODEL", f"local-dir:{tmp_path / 'hub'}")
    scope = {"images": torch.from_numpy(images).permute(0, 3, 1, 2)}
    with torch.no_grad():
        exec(compile(code, "README.md", "exec"), scope)
    np.testing.assert_allclose(scope["h"].numpy(), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    config = timm.data.resolve_model_data_config(scope["model"])
    assert [list(config[name]) for name in ("input_size", "mean", "std")] == [[3, 64, 64], [0] * 3, [1] * 3]
    if head == "classifier":
        whole = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
        by_name = torchvision.from_torchvision({name: v.numpy() for name, v in whole.state_dict().items()})
        kernel, bias = (by_name[f"supervised_head/dense/{leaf}"] for leaf in ("kernel", "bias"))
        with torch.no_grad():
            logits = whole(scope["images"]).numpy()
        np.testing.assert_allclose(logits, expected @ kernel + bias, rtol=0, atol=TOLERANCE * np.abs(logits).max())


def test_a_readme_has_one_table_row_a_line_whatever_a_name_holds():
    assert hub._table(("a",), [("x | y",)]).splitlines()[-1] == "| x / y |"
