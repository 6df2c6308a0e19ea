"""Recall over epochs beside open_clip: the same sizes, rows made once, and the page of kept rows."""

import json
import os

import numpy as np
import pytest

from benchmarks import captions, captions_page, kept_rows
from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.run import program as program_lib

CHANCE = dict.fromkeys(captions_page.names(), 0.0125)
PYTHON = "SIMCLR_PEERS_PYTHON"


def row(training, last):
    facts = {"date": "2026-11-29", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}}
    recalls = {name: [0.01, last] for name in captions_page.names()}
    counts = {"pictures": 1216, "test_pictures": 304, "test_texts": 1520}
    made = {"recalls": recalls, "chance": CHANCE, "counts": counts, "steps": [0, 19], "losses": [4.8, 4.0]}
    made |= {"parameters": {"image": 1234, "all": 5678}, "cpu_seconds": 60.0}
    return {"what": training.what, **made, **facts}


@pytest.mark.parametrize("size", [captions.FULL, captions.TINY])
def test_both_programs_have_the_same_sizes_and_the_config_is_valid(size):
    ours, theirs, crops = captions.plan(size, seeds=1, only=list(captions.PROGRAMS))
    config = ours.given["config"]
    program_lib.check_sections(config, sharding.make_mesh())
    assert theirs.given["batch_size"] == config["train"]["batch_size"]
    text = theirs.given["model"]["text"]
    assert (text["width"], text["layers"], text["heads"]) == (size.text_width, size.text_layers, 4)
    assert (text["context_length"], text["vocab_size"]) == (24, 2048)
    rate, decay = theirs.given["learning_rate"], theirs.given["weight_decay"]
    assert (rate, decay) == (1e-3, 0.2)
    assert {**crops.given, "crop_scale": None} == theirs.given and crops.given["crop_scale"] == (0.5, 1.0)


def test_the_page_shows_the_last_recall_of_each_program_and_chance(tmp_path):
    trainings = captions.plan(captions.FULL, seeds=2, only=["ours", "open_clip"])
    rows = [row(training, last) for training, last in zip(trainings, (0.1, 0.2, 0.3, 0.2), strict=True)]
    page = tmp_path / "page.md"
    captions_page.write(rows, page)
    text = page.read_text()
    flat = " ".join(text.split())
    cells = " | ".join(["20.0 ± 14.1"] * 6)
    assert f"| this program | 5,678 (1,234) | {cells} | 2 |" in text
    assert f"| chance | - | {' | '.join(['1.2'] * 6)} | - |" in text
    assert "| open_clip, crops as ours |" not in flat and "19 updates of batch 128, 2 epochs of 1,216" in flat
    drawn = (tmp_path / "page_recall.svg").read_text()
    assert drawn.count("recall at") == 6 and "chance" in drawn and len(drawn) < 150_000
    captions_page.write(rows, page)
    assert (tmp_path / "page_recall.svg").read_text() == drawn and page.read_text() == text


def test_a_training_is_made_again_only_if_its_settings_changed(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(captions, "save_data", lambda config, place, num_points: None)
    monkeypatch.setattr(captions, "run", lambda training, place: made.append(training) or row(training, 0.1))
    trainings = captions.plan(captions.TINY, seeds=1, only=["ours", "open_clip"])
    place = captions.Place(tmp_path, tmp_path, "python")
    for _ in range(2):
        rows = kept_rows.Rows(tmp_path / "rows.json", captions.KEYS)
        assert captions.make(trainings, rows, place, size=captions.TINY, at_once=1) == 0
    assert made == trainings and len(rows.rows) == 2
    longer = captions.plan(captions.TINY._replace(num_epochs=1.0), seeds=1, only=["open_clip"])
    assert captions.make(longer, rows, place, size=captions.TINY, at_once=1) == 0
    assert made == [*trainings, *longer] and len(json.loads((tmp_path / "rows.json").read_text())) == 2


def test_a_mistake_is_told_before_anything_begins(tmp_path):
    for given, message in (
        (["--only", "clip"], "--only must be one of"),
        (["--tiny", "--page"], "--tiny needs --rows and --output of its own"),
        ([], "Trainings need --data"),
    ):
        with pytest.raises(base.InputError, match=message):
            captions.main(given)


@pytest.mark.slow
def test_all_trainings_at_tiny_size(tmp_path):
    if not os.environ.get(PYTHON):
        pytest.skip(f"needs a Python with torch, timm and open_clip in {PYTHON}")
    from PIL import Image

    rng, lines = np.random.default_rng(0), ["filename,caption,split"]
    for number in range(96):
        pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        split = "test" if number % 4 == 0 else "train"
        lines += [f"{number}.png,picture {number} of {word},{split}" for word in ("noise", "dots")]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    given = [f"--data={tmp_path}", f"--peers_python={os.environ[PYTHON]}", "--tiny"]
    given += [f"--rows={tmp_path}/rows.json", f"--output={tmp_path}/page.md"]
    assert captions.main(given) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {made["what"]["program"] for made in rows} == set(captions.PROGRAMS)
    assert len({made["parameters"]["all"] for made in rows}) == 1
    assert "page_recall.svg" in (tmp_path / "page.md").read_text()
