"""A config of values: JSON is read, checked and never run."""

import json

import pytest

from simclr_jax import base
from simclr_jax.run import config as config_lib


def test_a_json_config_fills_the_default_one_and_takes_overrides(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"seed": 3, "method": {"name": "byol"}, "probe": {"label_fractions": [0.1]}}))
    for flag in ("--config", "--config_json"):
        found, rest = config_lib.parse([f"{flag}={path}", "--config.data.canvas_size=64", "--other=1"])
        assert (found.seed, found.method.to_dict(), found.probe.label_fractions) == (3, {"name": "byol"}, (0.1,))
        assert found.data.canvas_size == 64 and found.train.batch_size == 512 and rest == ["--other=1"]


@pytest.mark.parametrize("name", ["smoke", "cifar10_swav", "cifar10_moco"])
def test_the_config_that_a_run_keeps_is_such_a_file(tmp_path, name):
    config = config_lib.load_file(name).to_dict()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "sha256": "0" * 64}))
    assert config_lib.load_file(str(path)).to_dict() == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "it holds no object of sections"),
        ("{", "cannot be read"),
        ("[" * 100_000, "lists lie in lists without end"),
        ('{"trian": {}}', "'trian', which is no section of a config"),
        ('{"train": {"bach_size": 1}}', "train.bach_size is unknown"),
        ('{"train": 3}', "train must be a section of keys"),
        ('{"train": {"batch_size": NaN}}', "train.batch_size must be a whole number"),
        (" " * 2**20 + " {}", "a config has at most"),
    ],
)
def test_what_is_no_such_config_is_refused_in_one_line(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(base.InputError) as caught:
        config_lib.parse([f"--config={tmp_path / 'a.json'}"])
    assert told in str(caught.value) and "a.json" in str(caught.value) and "\n" not in str(caught.value)


def test_who_asks_for_json_gets_no_python(tmp_path):
    (tmp_path / "a.py").write_text("raise SystemExit('it was run')")
    (tmp_path / "b.json").write_text("raise SystemExit('it was run')")
    for words in (
        ["--config_json=smoke"],
        [f"--config_json={tmp_path / 'a.py'}"],
        [f"--config_json={tmp_path}/c.json"],
    ):
        with pytest.raises(base.InputError, match="--config_json must be a file NAME"):
            config_lib.parse(words)
    with pytest.raises(base.InputError, match="cannot be read: JSONDecodeError"):
        config_lib.parse([f"--config_json={tmp_path / 'b.json'}"])
