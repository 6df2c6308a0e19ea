"""Evaluate, report and preview on one small run, and features underneath them."""

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, data, models
from simclr_jax.cli import evaluate, evaluate_features, preview, report, report_page
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint, checks, features, splits
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib
from tests import devices

OVERRIDES = [
    "--config.augment.image_size=8",
    "--config.train.num_epochs=0.3",
    "--config.train.evaluate_every_epochs=0.0",
]


def settings(*overrides: str) -> dict:
    return config_lib.load_file("smoke", *OVERRIDES, *overrides).to_dict()


@pytest.fixture
def workdir(small_run):
    return small_run


@pytest.fixture(scope="module")
def evaluated(small_run, tmp_path_factory):
    """(a run that was evaluated at step 5 and has gone on to step 9, what evaluate printed)."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(small_run, run)
    with checkpoint.open_checkpoints(run / "checkpoints", keep=9) as checkpoints:
        state = base.TrainState(**checkpoint.restore_any(checkpoints, step=7))
        for step in (5, 9):
            checkpoint.save(checkpoints, state._replace(step=np.int32(step)), step=step)
    shutil.rmtree(run / "checkpoints" / "7")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert evaluate.main(workdir=str(run), checkpoint="5") == 0
    return run, printed.getvalue()


def test_evaluate_writes_a_row_for_every_kind_of_features_probe_and_share(evaluated):
    run, table = evaluated
    rows = json.loads((run / "results.json").read_text())["probes"]
    seen = {(row["features"], row["labels"], row["probe"]) for row in rows}
    # At 1 % all ten labels vote, whatever k is.
    assert seen == {
        (name, labels, probe)
        for name in ("simclr", "untrained", "pixels")
        for labels in ("1%", "100%")
        for probe in ("knn", "linear", "ridge", *(("knn10",) if labels != "1%" else ()))
    }
    assert all(0 <= row["accuracy"] <= 1 and row["protocol"].endswith(".v1") for row in rows)
    # Digits are nearly solved by pixels: a table that says otherwise mixes its rows up.
    pixels = next(r for r in rows if (r["features"], r["labels"], r["probe"]) == ("pixels", "100%", "linear"))
    assert pixels["accuracy"] > 0.9
    assert "untrained" in table and "guessing" in table and pixels["protocol"] in table


def test_evaluate_keeps_scores_without_labels_and_what_the_guards_found(evaluated):
    run, table = evaluated
    results = json.loads((run / "results.json").read_text())
    names = {"rankme", "effective_rank", "feature_deviation", "uniformity", "alignment"}
    assert set(results["label_free"]) == names and 1 < results["label_free"]["rankme"] < 32
    assert "without labels  rankme" in table
    assert results["guards"] == {
        "batch_norm_at_rest": True,
        "encoder_frozen": None,
        "shared_with_pretraining": 0,
        "near_duplicates": 0,
        "best_on_test": False,
        "shared_by_name": 0,
    }
    assert results["evaluated_data"]["num_test"] == 449 and results["evaluated_data"]["name"] == "digits"
    assert isinstance(results["diagnosis"], list)


def written_report(workdir, target):
    assert report.main(workdir=str(workdir), output=str(target)) == 0
    return target.read_text()


def test_a_report_is_of_the_network_whose_probes_it_shows(evaluated, tmp_path, capsys, monkeypatch):
    """The evaluated step's own features, as kept; its checkpoint where they are gone; else no probes at all."""
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    made = features.make_encode
    # Maps without t-SNE: the page of a run without a test split has a real one.
    monkeypatch.setattr(report_page.retrieval, "map_2d", lambda h: (np.eye(len(h), 2), np.arange(len(h))))
    monkeypatch.setattr(features, "make_encode", lambda *_, **how: pytest.fail("the features are kept"))
    page = written_report(run, tmp_path / "page.html")
    assert "simclr, resnet10 on digits, step 5" in page and "<script" not in page and "Nearest neighbours" in page
    sentence = "This page is of step 5; the run has gone on to step 9"
    assert sentence in page and sentence in capsys.readouterr().err and 'id="probes"' in page
    loaded, encoders = [], []
    monkeypatch.setattr(  # one encoder for both pages
        features, "make_encode", lambda *args, **how: (encoders or encoders.append(made(*args, **how)) or encoders)[0]
    )
    load = features.load_encoder_variables
    monkeypatch.setattr(
        features, "load_encoder_variables", lambda folder, which: loaded.append(which) or load(folder, which=which)
    )
    shutil.rmtree(run / "features")
    again = written_report(run, tmp_path / "page.html")
    assert loaded == ["5"] and "step 5" in again and 'id="probes"' in again
    shutil.rmtree(run / "checkpoints" / "5")
    last = written_report(run, tmp_path / "page.html")
    assert loaded == ["5", "latest"] and "on digits, step 9" in last and 'id="probes"' not in last
    assert "The probes were measured at step 5, whose weights and features are gone" in last


@pytest.mark.slow
def test_evaluate_and_report_use_all_devices(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    code = f"""
        import sys
        from simclr_jax import __main__ as cli

        for verb in ("evaluate", "report"):
            assert cli.main((verb, "--workdir={tmp_path / "run"}")) == 0
        """
    devices.run_on_devices(2, code)
    assert workdir_lib.read_results(tmp_path / "run")["probes"] and (tmp_path / "run" / "report.html").is_file()


def partly(image_set, *, labels=None, rows=60, **changes):
    """The first images of a split with other labels or names."""
    small = data.subset(image_set, np.arange(rows))
    return small._replace(labels=small.labels if labels is None else np.resize(labels, rows), **changes)


@pytest.fixture
def give(monkeypatch):
    """Puts other splits in the place of those of the run."""

    def give(train, test):
        digits = splits.load(settings())
        train_set = partly(digits.train_set, **train)
        test_set = None if test is None else partly(digits.test_set, **test)
        both = splits.Splits(train_set, test_set, False, 0)
        monkeypatch.setattr(splits, "load", lambda config: both)
        return both

    return give


UNLABELLED = {"labels": [-1], "class_names": ()}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (UNLABELLED, UNLABELLED, "the images have no labels"),
        (UNLABELLED, None, "the images have no labels"),
        ({"labels": [0], "class_names": ("PetImages",)}, {"labels": [0]}, r"one class, PetImages: is the folder .*\?"),
        ({"labels": [-1]}, {}, "no training image has a label"),
        ({}, {"labels": [-1]}, "no test image has a label"),
        ({}, None, "the test split has no images"),
        ({"labels": [0, 1]}, {"labels": [2]}, ".*no class in common"),
    ],
)
def test_evaluate_of_data_without_probes_says_why_and_checks_what_needs_no_labels(
    small_run, give, monkeypatch, tmp_path, capsys, train, test, said
):
    run = shutil.copytree(small_run, tmp_path / "run")
    both = give(train, test)
    if both.test_set is not None:
        images = np.concatenate([both.test_set.images[:1], both.train_set.images[1:]])
        both = both._replace(train_set=both.train_set._replace(images=images))
        monkeypatch.setattr(splits, "load", lambda config: both)
    assert evaluate.main(workdir=str(run), checkpoint="latest") == 0
    printed = capsys.readouterr().out
    assert re.match(f"No probes: {said}", printed) and "without labels  rankme" in printed
    results = workdir_lib.read_results(run)
    assert results["probes"] == [] and set(results["label_free"]) > {"rankme", "alignment"}
    # The first image of the test split is put into the training split, too.
    num_pairs = None if test is None else 1
    guards = {"batch_norm_at_rest": True, "encoder_frozen": None, "near_duplicates": num_pairs, "best_on_test": False}
    assert results["guards"] == {**guards, "shared_with_pretraining": 0, "shared_by_name": 0}
    assert ("1 of 60 test images have a near-duplicate" in printed) == (test is not None)
    assert results["evaluated_data"]["test"] == (None if test is None else both.test_set.fingerprint)


def nothing_to_say(*_, **how):
    return checks.Checks({}, {}, [], [])


@pytest.mark.slow
def test_evaluate_uses_the_labelled_images_and_shows_the_table_before_it_is_stored(workdir, give, monkeypatch, capsys):
    def full(folder, **entries):
        raise base.InputError("disk full")

    h = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    give({"labels": [0, 1, -1]}, {"labels": [0, 1, 1, -1, -1]})
    monkeypatch.setattr(evaluate_features, "collect_features", lambda *_, **sets: {"simclr": (h, h)})
    monkeypatch.setattr(checks, "check", nothing_to_say)
    monkeypatch.setattr(workdir_lib, "update_results", full)
    with pytest.raises(base.InputError, match="disk full"):
        evaluate.main(workdir=str(workdir), checkpoint="latest")
    table = capsys.readouterr().out
    # 40 of 60 and 36 of 60; guessing the commoner class is right in 24 of 36.
    assert "on 36 labelled test images: a standard error of at most 8.3 points" in table
    assert re.search(r"guessing +66\.7", table) and "        2 (1%)" in table and "     40 (100%)" in table
    assert "Left out as unlabelled: 20 of 60 training images, 24 of 60 test images." in table


@pytest.mark.slow
def test_scores_on_other_data_or_of_a_checkpoint_chosen_on_the_test_split_say_so(
    small_run, give, monkeypatch, tmp_path, capsys
):
    run = shutil.copytree(small_run, tmp_path / "run")
    h = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    give({"labels": [0, 1]}, {"labels": [0, 1]})
    monkeypatch.setattr(evaluate_features, "collect_features", lambda *_, **sets: {"simclr": (h, h)})
    monkeypatch.setattr(checks, "check", nothing_to_say)
    latest = features.load_variables(run, which="latest")
    monkeypatch.setattr(features, "load_variables", lambda folder, which, mesh: latest)
    assert evaluate.main(workdir=str(run), checkpoint="best") == 0
    rows = workdir_lib.read_results(run)["probes"]
    assert {row["protocol"].split(".")[-2] for row in rows} == {"best-on-test"}
    assert "knn.k10.t0.1.best-on-test.v1" in capsys.readouterr().out
    assert evaluate.main(workdir=str(run), transfer="photo-patches") == 0
    results = workdir_lib.read_results(run)
    assert results["probes"] == rows and set(results["transfer"]) == {"photo-patches"}
    other = results["transfer"]["photo-patches"]["probes"]
    assert len(other) == len(rows) and not any("best" in row["protocol"] for row in other)


@pytest.mark.parametrize(("num_classes", "names"), [(2, ["top_1"]), (5, ["top_1"]), (6, ["top_1", "top_5"])])
def test_a_classifier_is_scored_on_labelled_images_by_what_can_fail(monkeypatch, num_classes, names):
    logits = np.random.default_rng(0).normal(size=(60, num_classes))
    monkeypatch.setattr(features, "make_predict", lambda *_, **how: lambda variables, image_set: logits)
    labels = np.arange(60) % num_classes - np.where(np.arange(60) < 30, num_classes, 0)
    digits = splits.load(settings()).test_set
    test_set = partly(digits, labels=np.maximum(labels, -1), class_names=tuple("abcdef"[:num_classes]))
    scores = evaluate_features.score_classifier(settings(), {}, {"batch_stats": {}}, test_set=test_set)
    assert [name for name in scores if name.startswith("top")] == names and scores["num_images"] == 30
    assert scores["top_1"] == pytest.approx((logits.argmax(axis=1) == labels)[30:].mean())
    params = {"supervised_head": {"dense": {"bias": np.zeros(num_classes)}}}
    assert evaluate_features.has_classifier(params, test_set)
    assert not evaluate_features.has_classifier(params, None) and not evaluate_features.has_classifier({}, test_set)
    assert not evaluate_features.has_classifier(params, test_set._replace(labels=np.full(60, -1)))
    assert not evaluate_features.has_classifier(params, test_set._replace(class_names=("a", "b", "c")))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [[0, 1, -1], None])
def test_the_report_of_a_run_without_a_test_split_is_of_its_training_images(workdir, give, labels, tmp_path, capsys):
    """Labelled in part, or not at all; the class of an image is not told by the image itself."""
    give(UNLABELLED if labels is None else {"labels": labels}, None)
    target = tmp_path / "page.html"
    assert report.main(workdir=str(workdir), output=str(target)) == 0
    text, said = target.read_text(), capsys.readouterr().err
    for sentence in (
        "The test split has no images: the neighbours and the map are of training images",
        "No probes and",
    ):
        assert sentence in text and sentence in said
    assert "Map of the training images" in text and "Nearest neighbours" in text
    for trace in ("over 40 training images", "</span>unlabelled</li>"):
        assert (trace in text) == (labels is not None)
    assert 'id="confusion"' not in text and 'id="probes"' not in text


def test_neighbours_among_the_training_images_are_never_the_image_itself():
    images = np.repeat(np.arange(12, dtype=np.uint8)[:, None, None, None], 3, axis=3) + np.zeros(
        (12, 8, 8, 3), np.uint8
    )
    h = np.repeat(np.eye(4, 3), 3, axis=0)  # three equal rows of each kind, and three of zeros
    image_set = partly(splits.load(settings()).train_set, rows=12)._replace(images=images)
    both = splits.Splits(image_set, None, False, 0)
    seen = report_page._Seen(both, {}, h, images, image_set, h, images, True)
    found = report_page._nearest(seen, (h, h), np.arange(12), k=2)
    assert found.shape == (12, 2)
    for row in range(9):
        assert sorted(found[row]) == [other for other in range(3 * (row // 3), 3 * (row // 3) + 3) if other != row]
    assert not (found == np.arange(12)[:, None]).any()


def test_a_missing_checkpoint_or_run_is_one_line(workdir, tmp_path):
    with pytest.raises(base.InputError, match=r"checkpoint must be latest, best or one of the steps"):
        evaluate.main(workdir=str(workdir), checkpoint="99")
    with pytest.raises(base.InputError, match=r"workdir must be the folder of a run"):
        evaluate.main(workdir=str(tmp_path), checkpoint="latest")


def test_evaluate_shows_its_table_also_where_it_cannot_be_stored(workdir, give, capsys, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    h = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    monkeypatch.setattr(evaluate_features, "collect_features", lambda *_, **sets: {"simclr": (h, h)})
    monkeypatch.setattr(checks, "check", nothing_to_say)
    give({"labels": [0, 1]}, {"labels": [0, 1]})
    with pytest.raises(base.InputError, match=r"results\.json: No space left"):
        evaluate.main(workdir=str(workdir), checkpoint="latest")
    assert "simclr" in capsys.readouterr().out
    with pytest.raises(base.InputError, match="--output must be a file that can be written"):
        report.main(workdir=str(workdir), output=str(workdir / "full.html"))


def test_preview_draws_the_asked_number_of_images(tmp_path):
    from PIL import Image

    target = tmp_path / "views.png"
    assert preview.main(config=settings(), output=str(target), num_images=3) == 0
    with Image.open(target) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100
    with pytest.raises(base.InputError, match="existing folder"):
        preview.main(config=settings(), output=str(tmp_path / "no" / "views.png"), num_images=3)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "format"), [(".JPG", "JPEG"), (".webp", "WEBP")])
def test_preview_writes_the_format_that_the_name_says(tmp_path, ending, format):
    from PIL import Image

    target = tmp_path / f"views{ending}"
    assert preview.main(config=settings(), output=str(target), num_images=1) == 0
    with Image.open(target) as picture:
        assert picture.format == format


@pytest.mark.parametrize("name", ["views", "views.gif", "views.png.", ".png/"])
def test_preview_refuses_a_format_that_it_does_not_write(tmp_path, name):
    with pytest.raises(base.InputError, match=r"--output must (end in one of .png, .jpg, .jpeg, .webp|name a file)"):
        preview.main(config=settings(), output=f"{tmp_path}/{name}", num_images=1)


@pytest.mark.slow
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


@pytest.mark.slow
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
