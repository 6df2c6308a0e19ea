"""Evaluate, report and preview on one small run, and features underneath them."""

import errno
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, config, data, evaluate, features, models, preview, report, sharding, train

OVERRIDES = ["--config.augment.size=8", "--config.train.num_epochs=0.3", "--config.train.evaluate_every_epochs=0.0"]


def settings(*overrides: str) -> dict:
    parsed, _ = config.parse_flags(["--config=smoke", *OVERRIDES, *overrides], names={}, with_config=True)
    assert parsed is not None
    return parsed.to_dict()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train.main(config=settings(), workdir=str(folder)) == 0
    return folder


def test_evaluate_writes_a_row_for_every_kind_of_features_probe_and_share(workdir, capsys):
    assert evaluate.main(workdir=str(workdir), checkpoint="latest") == 0
    rows = json.loads((workdir / "results.json").read_text())["probes"]
    seen = {(row["features"], row["labels"], row["probe"]) for row in rows}
    assert seen == {
        (name, labels, probe)
        for name in ("simclr", "untrained", "pixels")
        for labels in ("1%", "10%", "100%")
        for probe in ("knn", "linear")
    }
    assert all(0 <= row["accuracy"] <= 1 and row["protocol"].endswith(".v1") for row in rows)
    # Digits are nearly solved by pixels: a table that says otherwise mixes its rows up.
    pixels = next(r for r in rows if (r["features"], r["labels"], r["probe"]) == ("pixels", "100%", "linear"))
    assert pixels["accuracy"] > 0.9
    table = capsys.readouterr().out
    assert "untrained" in table and "chance" in table and pixels["protocol"] in table


def test_the_report_is_one_page_about_the_run(workdir):
    target = workdir / "page.html"
    assert report.main(workdir=str(workdir), output=str(target)) == 0
    page = target.read_text()
    assert "simclr, resnet10 on digits" in page and "<script" not in page and "Nearest neighbours" in page


def test_a_missing_checkpoint_or_run_is_one_line(workdir, tmp_path):
    with pytest.raises(base.InputError, match=r"checkpoint must be latest, best or one of the steps"):
        evaluate.main(workdir=str(workdir), checkpoint="99")
    with pytest.raises(base.InputError, match=r"workdir must be the folder of a run"):
        evaluate.main(workdir=str(tmp_path), checkpoint="latest")


def test_evaluate_shows_its_table_also_where_it_cannot_be_stored(workdir, capsys, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(base.InputError, match=r"results\.json: No space left"):
        evaluate.main(workdir=str(workdir), checkpoint="latest")
    assert "pixels" in capsys.readouterr().out
    with pytest.raises(base.InputError, match="--output must be a file that can be written"):
        report.main(workdir=str(workdir), output=str(workdir / "full.html"))


def test_preview_draws_the_asked_number_of_images(tmp_path):
    from PIL import Image

    target = tmp_path / "views.png"
    assert preview.main(config=settings(), output=str(target), num_images="3") == 0
    with Image.open(target) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100
    with pytest.raises(base.InputError, match="num_images"):
        preview.main(config=settings(), output=str(target), num_images="many")
    with pytest.raises(base.InputError, match="existing folder"):
        preview.main(config=settings(), output=str(tmp_path / "no" / "views.png"), num_images="3")


@pytest.mark.parametrize(("ending", "format"), [(".JPG", "JPEG"), (".webp", "WEBP")])
def test_preview_writes_the_format_that_the_name_says(tmp_path, ending, format):
    from PIL import Image

    target = tmp_path / f"views{ending}"
    assert preview.main(config=settings(), output=str(target), num_images="1") == 0
    with Image.open(target) as picture:
        assert picture.format == format


@pytest.mark.parametrize("name", ["views", "views.gif", "views.png.", ".png/"])
def test_preview_refuses_a_format_that_it_does_not_write(tmp_path, name):
    with pytest.raises(base.InputError, match=r"--output must (end in one of .png, .jpg, .jpeg, .webp|name a file)"):
        preview.main(config=settings(), output=f"{tmp_path}/{name}", num_images="1")


def test_features_do_not_depend_on_the_batch_size_nor_on_the_padded_tail():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, 8, 8, 3), np.uint8)
    image_set = data.ImageSet(
        images=images,
        sizes=np.full((13, 2), 8, np.int32),
        labels=np.zeros(13, np.int32),
        class_names=("one",),
        ids=tuple(map(str, range(13))),
        fingerprint="",
        skipped=(),
    )
    encoder = models.make_encoder("resnet10", width_multiplier=0.0625, stem="cifar")
    init = jax.jit(lambda key: encoder.init(key, jnp.zeros((2, 8, 8, 3), jnp.float32), train=False))
    variables = init(jax.random.key(0))
    found = [
        features.make_encode(encoder, size=8, resize="tf2", batch_size=batch_size, mesh=sharding.make_mesh())(
            variables, image_set
        )
        for batch_size in (5, 13, 64)
    ]
    direct = jax.jit(lambda images: encoder.apply(variables, images, train=False))(images / np.float32(255))
    for h in found:
        # The same network on the same pixels; only the order of float32 sums may differ.
        np.testing.assert_allclose(h, direct, rtol=2e-5, atol=2e-5 * np.abs(direct).max())


def test_evaluating_again_and_another_split_compiles_the_encoder_once():
    """As over three epochs, with a last batch that is not full."""
    traced = []

    def predict(_, images):
        traced.append(images.shape)
        return images.mean(axis=(1, 2))

    encode = features.make_predict(predict, size=8, resize="tf2", batch_size=5, mesh=sharding.make_mesh())
    for count in (13, 13, 7):
        images = np.full((count, 8, 8, 3), count, np.uint8)
        image_set = data.ImageSet(
            images=images,
            sizes=np.full((count, 2), 8, np.int32),
            labels=np.zeros(count, np.int32),
            class_names=("one",),
            ids=tuple(map(str, range(count))),
            fingerprint="",
            skipped=(),
        )
        np.testing.assert_allclose(encode({}, image_set), np.full((count, 3), count / 255), rtol=1e-6)
    assert traced == [(5, 8, 8, 3)]
