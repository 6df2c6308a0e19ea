"""The verbs `prepare` and `data`, and what `plan` says of the host, as a user meets them."""

import json

import pytest
from PIL import Image

from simclr_jax import __main__ as cli
from tests.data.prepare import makers

pytest.importorskip("tensorflow_datasets")


def run(capsys, *words):
    status = cli.main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_from_photos_to_a_prepared_set_and_a_look_at_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    makers.class_folders(tmp_path / "photos", num_each=12)
    (tmp_path / "photos/train/ant/broken.jpg").write_bytes(b"nothing")
    status, out, err = run(capsys, "prepare", "--input=photos", "--output=out", "--max_corrupt_fraction=0.05")
    assert status == 0 and "25 training images" in err
    assert "train              24 images, 2 classes of 12 to 12" in out
    assert "1 left out; all of them are in prepared.json:" in out
    assert "train/train/ant/broken.jpg: not a JPEG" in out
    assert "use: --config.data.name=tfds:photos --config.data.data_dir=out" in out

    words = ("data", "--config=smoke", "--config.data.name=tfds:photos", "--config.data.data_dir=out")
    settings = ("--config.data.cache_dir=cache", "--device_kind=h200", "--devices=1")
    status, out, err = run(capsys, *words, *settings, "--output=sheet.png", "--json=look.json")
    assert status == 0, err
    found = json.loads((tmp_path / "look.json").read_text())
    assert found["train"]["num_images"] == 24 and found["test"]["classes"] == {"ant": 12, "bee": 12}
    assert found["host"]["files"]["kinds"] == {"JPEG": 12, "PNG": 12}
    assert (
        set(found["host"]["seconds"]) == {"read", "decode", "cut 2 crops"}
        and min(found["host"]["seconds"].values()) > 0
    )
    for shown in ("2 classes of 12 to 12 (ant 12, bee 12)", "fingerprint", "images/s and core", "planned"):
        assert shown in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 128 and sheet.height > 5 * 128


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "views", "name"),
    [
        ("smoke", "crop_sampler=torchvision", "mix:folder:photos*16,folder:photos/test*4"),
        ("cifar10_swav", "num_small_views=2", "folder:photos"),
    ],
)
def test_views_that_the_host_cannot_cut_are_no_reason_not_to_measure_it(
    tmp_path, monkeypatch, capsys, config, views, name
):
    monkeypatch.chdir(tmp_path)
    makers.class_folders(tmp_path / "photos", num_each=2)
    words = (f"--config.data.name={name}", "--config.data.cache_dir=", "--devices=1", "--output=sheet.png")
    status, out, err = run(capsys, "data", f"--config={config}", *words, f"--config.augment.{views}")
    assert status == 0, err
    assert "to cut 2 crops" in out
    assert ("weight 16: 64 of 72 images of an epoch (88.9%)" in err) == name.startswith("mix:")


def test_a_built_in_set_and_a_device_of_unknown_speed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "data", "--config=smoke", "--device_kind=cpu", "--devices=1", "--output=a.webp")
    assert status == 0, err
    assert "planned" not in out and "files" not in out and (tmp_path / "a.webp").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", "--config=smoke", "--output=a.gif"), "--output must end in one of .png, .jpg, .webp"),
        (("data", "--config=smoke", "--devices=none"), "--devices must be a whole number"),
        (("prepare", "--input=photos"), "--output is required"),
        (("prepare", "--input=none", "--output=out"), "or an existing folder; got 'none'"),
        (("prepare", "--input=cifar10", "--output=out", "--short_side=small"), "--short_side must be a whole number"),
        (("prepare", "--input=cifar10", "--output=out", "--max_corrupt_fraction=x"), "--max_corrupt_fraction"),
        (("plan", "--config=smoke", "--host_cores=no"), "--host_cores must be a whole number"),
        (("plan", "--config=smoke", "--host_rate=-1"), "--host_rate must be images a second of one core, above 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert status == 2 and out == "" and message in err
    assert err.count("\n") == 1 and err.startswith(f"simclr-jax {words[0]}: ")


def test_plan_says_who_waits(capsys):
    words = ("plan", "--config=smoke", "--config.data.name=tfds:cifar10", "--compiler=none", "--devices=1")
    _, out, _ = run(capsys, *words, "--config.train.max_resident_gigabytes=0", "--host_cores=10", "--host_rate=1e5")
    assert "10 feed 769,231: the " in out
