"""Exported weights in PyTorch, loaded by the very code of docs/weights.md, give our features."""

import jax
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.cli import export
from simclr_jax.interop import torchvision as names
from simclr_jax.interop import variables
from simclr_jax.models import heads
from tests.cli.test_export import ARGUMENTS, doc_block, draw_images, features_of, make_run
from tests.interop import test_torchvision as written_lists

torch = pytest.importorskip("torch")
# Relative to the largest feature: two float32 libraries that sum in other orders. Observed at most 1.3e-6.
TOLERANCE = 1e-5
# The documented code imports torchvision by itself.
pytestmark = pytest.mark.usefixtures("torchvision")


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A function that makes a run, exports it to exports/demo, goes to its parent, and returns (images, our h)."""

    def make(*, size: int, head: str = "none", num_classes: int = 0, **encoder) -> tuple[np.ndarray, np.ndarray]:
        run, target = tmp_path / "run", tmp_path / "exports" / "demo"
        trees = make_run(run, size=size, num_classes=num_classes, **encoder)
        assert export.main(workdir=str(run), output=str(target), **{**ARGUMENTS, "format": "torch", "head": head}) == 0
        monkeypatch.chdir(tmp_path)
        images = draw_images(3, size)
        return images, features_of(run, trees, images)

    return make


def run_docs(*blocks: str, images: np.ndarray) -> dict:
    """The names that the documented code defines when it runs on `images`, without gradients."""
    scope = {"images": images}
    with torch.no_grad():
        for block in blocks:
            exec(compile(block, "docs/weights.md", "exec"), scope)
    return scope


def assert_same(h, expected: np.ndarray) -> None:
    np.testing.assert_allclose(h.numpy(), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


FIVE_LINES = "model = torchvision.models.resnet18()"
TWO_LINES = "model.conv1 = torch.nn.Conv2d(3, 64, 3"
WRAPPER, LOADER = "def as_in_the_papers", "def load_encoder"
IMPORTS = "import safetensors.torch, torch, torchvision\n"


def five_lines(name: str, *, wrapped: bool = False, before_load: str = "") -> str:
    """The documented five lines for network `name`, with the changes that the text around them describes."""
    block = doc_block(FIVE_LINES)
    model = f"as_in_the_papers(torchvision.models.{name}())" if wrapped else f"torchvision.models.{name}()"
    assert len(block.splitlines()) == 5
    return block.replace("torchvision.models.resnet18()", model).replace(
        "model.load_state_dict", before_load + "model.load_state_dict"
    )


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), pytest.param("resnet50", 66, marks=pytest.mark.slow)])
def test_torchvision_padding_loads_into_torchvisions_own_class_in_five_lines(exported, name, size):
    images, expected = exported(name=name, size=size, stem="imagenet", padding="torchvision")
    assert_same(run_docs(five_lines(name), images=images)["h"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_cifar_stem_takes_two_lines_more(exported, name):
    images, expected = exported(name=name, size=9, stem="cifar", padding="torchvision")
    two = doc_block(TWO_LINES)
    assert len(two.splitlines()) == 2
    assert_same(run_docs(five_lines(name, before_load=two), images=images)["h"], expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet18", 66), ("resnet50", 64)])
def test_reference_padding_takes_the_wrapper_around_torchvisions_class(exported, name, size):
    images, expected = exported(name=name, size=size, stem="imagenet")
    blocks = (IMPORTS + doc_block(WRAPPER), five_lines(name, wrapped=True))
    assert_same(run_docs(*blocks, images=images)["h"], expected)


THIN = {"width_multiplier": 0.0625}
# The map in front of the max-pool is even at 64 and 67 pixels and odd at 66 and 33.
CASES = [
    ({"name": "resnet18", "stem": "imagenet", **THIN}, 64),
    ({"name": "resnet18", "stem": "imagenet", **THIN}, 33),
    ({"name": "resnet18", "stem": "cifar", **THIN}, 9),
    ({"name": "resnet50", "stem": "imagenet", **THIN}, 66),
    ({"name": "resnet10", "stem": "cifar", "width_multiplier": 0.25, "group_sizes": (1, 2, 1, 1)}, 16),
    pytest.param(
        {"name": "resnet50", "stem": "imagenet", **THIN, "padding": "torchvision"}, 67, marks=pytest.mark.slow
    ),
    pytest.param(
        {"name": "wide_resnet50_2", "stem": "imagenet", **THIN, "padding": "torchvision"}, 66, marks=pytest.mark.slow
    ),
    pytest.param({"name": "resnet18", "stem": "cifar", "width_multiplier": 2.0}, 8, marks=pytest.mark.slow),
    pytest.param({"name": "resnet50", "stem": "cifar", "width_multiplier": 1.5}, 8, marks=pytest.mark.slow),
    pytest.param({"name": "resnet101", "stem": "imagenet", **THIN}, 48, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("encoder", "size"), CASES)
def test_the_documented_loader_reads_every_width_stem_depth_and_padding(exported, encoder, size):
    images, expected = exported(size=size, **encoder)
    scope = run_docs(IMPORTS + doc_block(WRAPPER), doc_block(LOADER), images=images)
    assert_same(scope["h"], expected)


def test_without_the_wrapper_a_reference_network_gives_other_features(exported):
    """So the wrapper is needed, and the tests above would notice its absence."""
    images, expected = exported(name="resnet50", size=64, stem="imagenet", **THIN)
    loader = doc_block(LOADER).replace('made["padding"] == "reference"', "False")
    h = run_docs(IMPORTS + doc_block(WRAPPER), loader, images=images)["h"].numpy()
    assert np.abs(h - expected).max() > 100 * TOLERANCE * np.abs(expected).max()


def test_the_heads_come_along(exported, tmp_path):
    images, expected = exported(name="resnet10", size=8, stem="cifar", head="all", num_classes=5, **THIN)
    blocks = (IMPORTS + doc_block(WRAPPER), doc_block(LOADER), doc_block("def project"))
    scope = run_docs(*blocks, images=images)
    weights = names.from_torchvision({name: value.numpy() for name, value in scope["model"].state_dict().items()})
    kernel, bias = weights["supervised_head/dense/kernel"], weights["supervised_head/dense/bias"]
    # h behind fc, so the model's output is the logits.
    assert_same(scope["h"], expected @ kernel + bias)
    saved = variables.load(tmp_path / "exports" / "demo" / "projection_head.safetensors")
    params, statistics = variables.unflatten(names.from_torchvision(saved))
    head = {"params": params["projection_head"], "batch_stats": statistics["projection_head"]}
    z = np.asarray(heads.ProjectionHead(2, 8).apply(head, jax.numpy.asarray(expected), train=False)[-1])
    with torch.no_grad():
        assert_same(scope["project"](torch.from_numpy(expected.copy())), z)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_written_names_and_shapes_are_those_of_torchvision(torchvision, name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(num_classes=1000).state_dict()
    theirs = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert theirs == written_lists.state_shapes(name)


def test_torchvisions_weights_come_in_and_go_out_unchanged(torchvision):
    torch.manual_seed(0)
    state = {key: value.numpy() for key, value in torchvision.models.resnet18(num_classes=7).state_dict().items()}
    back = names.to_torchvision(names.from_torchvision(state))
    assert set(back) == {key for key in state if not key.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_a_name_that_torchvision_does_not_have_is_refused():
    with pytest.raises(base.InputError, match=r"got module\.conv1\.weight"):
        names.from_torchvision({"module.conv1.weight": np.zeros((1, 1, 1, 1), np.float32)})
