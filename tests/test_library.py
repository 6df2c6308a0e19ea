"""docs/library.md as a reader meets it: every block runs, in order, and is short; and what a wrong call answers."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import simclr_jax
from simclr_jax import augment, base, losses, methods, optim, probes, train_step
from simclr_jax.run import loading
from tests.methods import settings, steps

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_run):
    """A run and pictures of several sizes where the page expects them."""
    root = tmp_path_factory.mktemp("library")
    (root / "runs").mkdir()
    (root / "runs" / "demo").symlink_to(small_run)
    (root / "photos").mkdir()
    for number, (height, width) in enumerate([(20, 30), (40, 25), (8, 8)]):
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(root / "photos" / f"{number}.png")
    return root


def test_every_block_of_the_page_runs_and_is_short(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    labels = np.arange(60) % 3
    names = {
        "images": RNG.integers(0, 256, (8, 20, 24, 3), np.uint8),
        "z1": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
        "z2": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
        "train_h": RNG.normal(size=(60, 5)) + labels[:, None],
        "test_h": RNG.normal(size=(60, 5)) + labels[:, None],
        "train_labels": labels,
        "test_labels": labels,
    }
    assert len(BLOCKS) == 10
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line.strip()]) <= 10, block
        exec(compile(block, "docs/library.md", "exec"), names)
    assert names["features"].shape[0] == 8 and names["found"].names == ("0.png", "1.png", "2.png")
    assert names["views"].shape == (8, 2, 16, 16, 3) and names["of_one"].shape == (2, 32, 32, 3)
    assert names["gradient"].shape == names["z"].shape == (6, 2, 4)
    assert int(names["state"].step) == 3 and np.isfinite(float(names["metrics"]["loss"]))
    assert all(np.isfinite(float(loss)) for loss in (names["byol_metrics"]["loss"], names["vicreg"], names["sup_con"]))
    assert names["rows"].shape == (60, 5) and len(set(names["chosen"].tolist())) == 10
    assert names["knn"] > 0.4 and names["linear"] > 0.4
    assert "contrastive_accuracy" in names["metrics"] and capsys.readouterr().out


def test_the_first_names_are_those_of_their_rooms():
    assert simclr_jax.nt_xent is losses.nt_xent and simclr_jax.make_simclr is methods.make_simclr
    assert simclr_jax.load is loading.load and simclr_jax.losses is losses
    for name in simclr_jax.__all__:
        assert getattr(simclr_jax, name).__doc__
        assert name in dir(simclr_jax)
    with pytest.raises(AttributeError, match=r"no attribute 'ntxent'; it has .*nt_xent"):
        simclr_jax.ntxent  # noqa: B018


def test_the_library_needs_jax_flax_optax_and_numpy_only():
    code = """
import sys
allowed = set(sys.stdlib_module_names) | {"jax", "jaxlib", "flax", "optax", "numpy", "simclr_jax"}
# What those four need themselves.
import jax, flax.linen, optax
allowed |= {name.split(".")[0] for name in sys.modules}
import simclr_jax
from simclr_jax import augment, data, interop, losses, methods, optim, probes, train_step
simclr_jax.make_simclr, simclr_jax.make_lars
print(sorted({name.split(".")[0] for name in sys.modules} - allowed))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2, 6, 4), r"jnp.swapaxes\(z, 0, 1\)"),
        ((12, 4), r"jnp.stack\(\[z1, z2\], axis=1\)"),
        ((6, 3, 4), r"jnp.stack\(\[z1, z2\], axis=1\)"),
    ],
)
@pytest.mark.parametrize("loss", [losses.nt_xent, losses.nt_xent_blockwise])
def test_a_wrong_layout_of_z_names_the_remedy(loss, shape, remedy):
    with pytest.raises(base.InputError, match=remedy):
        loss(jnp.zeros(shape))


def test_features_of_a_run_are_those_of_its_network_on_evaluation_views(folder):
    encoder = simclr_jax.load(folder / "runs" / "demo")
    images = RNG.integers(0, 256, (5, 24, 24, 3), np.uint8)

    @jax.jit
    def features(images):
        views = augment.make_eval_view(image_size=encoder.size)(images)
        return encoder.module.apply(encoder.variables, views, train=False)

    expected = np.asarray(features(images))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder(images[0]), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder(images / np.float32(255)), expected, rtol=1e-4, atol=1e-5)
    # Alone or beside larger ones, in batches or at once.
    mixed = [*images, RNG.integers(0, 256, (70, 10, 3), np.uint8)]
    np.testing.assert_allclose(encoder(mixed, batch_size=4)[:5], expected, rtol=1e-5, atol=1e-6)
    assert encoder.step > 0 and str(folder) in encoder.source


def test_features_of_an_export_are_those_of_the_run(folder, tmp_path):
    from simclr_jax.cli import export

    images = RNG.integers(0, 256, (3, 12, 12, 3), np.uint8)
    expected = simclr_jax.load(folder / "runs" / "demo")(images)
    run, output = str(folder / "runs" / "demo"), str(tmp_path / "export")
    assert export.main(workdir=run, output=output, checkpoint="latest", format="flax", head="none") == 0
    np.testing.assert_allclose(simclr_jax.load(output)(images), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_run_and_what_is_no_image_is_said(folder, tmp_path):
    with pytest.raises(base.InputError, match=r"folder of a run \(it holds config.json\) or of an export"):
        simclr_jax.load(tmp_path)
    encoder = simclr_jax.load(folder / "runs" / "demo")
    for wrong, said in (
        ([], "at least one image"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"jnp.moveaxis\(images, -3, -1\)"),
        ([np.zeros((8, 8), np.uint8)], r"arrays \[H, W, 3\] of one type; got one of shape \[8, 8\]"),
        (np.zeros((2, 8, 8, 3), np.int64), "uint8"),
    ):
        with pytest.raises(base.InputError, match=said):
            encoder(wrong)
    with pytest.raises(base.InputError, match="existing folder"):
        encoder.embed(tmp_path / "gone")


class Flat(nn.Module):
    """An encoder whose field `norm` is its own."""

    norm: str = "layer"

    @nn.compact
    def __call__(self, x, train=False):
        return nn.LayerNorm()(nn.Dense(4)(x.reshape(len(x), -1)))


class Wrapped(nn.Module):
    """Hands on whatever it is called with."""

    @nn.compact
    def __call__(self, *images, **how):
        return Flat(name="inner")(*images, **how)


class Pixels(nn.Module):
    """Returns a map instead of a vector."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Conv(4, (3, 3))(x)


class Deaf(nn.Module):
    """Takes no argument `train`."""

    @nn.compact
    def __call__(self, x):
        return x.mean(axis=(1, 2))


def test_an_own_module_trains_and_one_of_another_form_is_refused():
    tx = optim.make_lars(0.1)
    state = train_step.init_state(methods.make_simclr(Flat()), tx, jax.random.key(0), views_shape=(2, 2, 4, 4, 3))
    views = jnp.asarray(RNG.random((4, 2, 4, 4, 3)), jnp.float32)
    new, metrics = jax.jit(train_step.make_update(methods.make_simclr(Flat()), tx))(state, views)
    assert np.isfinite(float(metrics["loss"])) and int(new.step) == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params["encoder"], new.params["encoder"])
    assert moved["Dense_0"]["kernel"]
    wrapped = methods.make_simclr(Wrapped()).init(jax.random.key(0), views)[0]["encoder"]
    assert set(wrapped) == {"inner"}
    for module, said in (
        (Pixels(), r"one vector an image, \[N, D\]; Pixels returns"),
        (Deaf(), "has no argument train"),
    ):
        with pytest.raises(base.InputError, match=said):
            train_step.init_state(methods.make_simclr(module), tx, jax.random.key(0), views_shape=(2, 2, 4, 4, 3))


@pytest.mark.parametrize(
    ("name", "shape", "given", "said"),
    [
        ("moco", (4, 1, 8, 8, 3), {}, r"must be \[B, 2, h, w, 3\] for this method.*got \[4, 1, 8, 8, 3\]"),
        ("pirl", (4, 3, 8, 8, 3), {}, "takes 2 of every image"),
        ("rotation", (4, 2, 8, 8, 3), {}, "takes 1 of every image"),
        ("rotation", (4, 1, 8, 10, 3), {}, "must be square to be turned; got 8 x 10"),
        ("pirl", (4, 2, 8, 8, 3), {}, "index must be given"),
        ("clip", (4, 1, 8, 8, 3), {}, "texts must be given"),
        ("clip", (4, 1, 8, 8, 3), {"texts": jnp.zeros((4, 3), jnp.int32)}, r"\[B, 5\].*got int32 \[4, 3\]"),
        ("coca", (4, 1, 8, 8, 3), {"texts": jnp.zeros((4, 5))}, "whole numbers.*got float32"),
    ],
)
def test_an_update_names_what_its_method_needs(name, shape, given, said):
    method, tx = methods.METHODS[name](steps.TinyEncoder(4), **settings.arguments(name)), optim.make_sgd(0.1)
    right = (4, method.num_views or 1, 8, 8, 3)
    state = jax.eval_shape(lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=right))
    update = train_step.make_update(method, tx)
    with pytest.raises(base.InputError, match=said):
        jax.eval_shape(lambda state, views: update(state, views, **given), state, jnp.zeros(shape))


def test_a_cosine_has_a_length():
    with pytest.raises(base.InputError, match="num_steps must be at least 1 for a cosine; got 0"):
        methods.make_byol(steps.TinyEncoder(4), num_steps=0)


@pytest.mark.slow
def test_the_loss_of_an_update_is_that_of_its_views():
    method = methods.make_simclr(Flat(), loss_scale=1.0)
    tx = optim.make_sgd(0.1)
    views = jnp.asarray(RNG.random((4, 2, 4, 4, 3)), jnp.float32)
    state = jax.jit(lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=views.shape))()
    _, metrics = jax.jit(train_step.make_update(method, tx))(state, views)
    outputs, _ = method.embed(state.params, state.method_state, views, None, None)
    assert float(metrics["loss"]) == pytest.approx(float(losses.nt_xent(outputs["z"])[0]), rel=1e-5)


@pytest.mark.slow
def test_probes_count_the_classes_themselves():
    labels = np.arange(30) % 3
    features = RNG.normal(size=(30, 4)) + 20 * np.eye(3, 4)[labels]
    assert probes.knn_accuracy(features, labels, features, test_labels=labels, k=3) == 1.0
    assert probes.linear_accuracy(features, labels, features, test_labels=labels) == 1.0
    assert probes.linear_accuracy(features, np.full(30, -1), features, test_labels=labels) is None
