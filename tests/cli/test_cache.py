"""The verb that lists and empties what is kept between runs."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from simclr_jax import __main__ as cli
from simclr_jax import data
from simclr_jax.data import bound
from simclr_jax.run import compilation_cache


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A user's cache folder with a decoded split, a compiled program and a file of somebody else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bound, "_held", {})
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    data.load_split(f"folder:{tmp_path / 'photos'}", "all", progress=False)
    folder = tmp_path / "simclr_jax"
    programs = folder / "compiled" / compilation_cache.processor()
    programs.mkdir(parents=True)
    (programs / "jit_step-0123-cache").write_bytes(bytes(3_000_000))
    (folder / "notes.txt").write_text("mine")
    while bound._held:
        os.close(bound._held.popitem()[1])
    return folder


def test_the_verb_lists_what_is_kept(kept, capsys):
    assert cli.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert "1 decoded splits in" in out and "split 'all'" in out
    assert re.search(r"[\d.]+ (bytes|kB|MB)  compiled programs in", out)
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize(("what", "left"), [("decoded", 1), ("compiled", 1), ("all", 0)])
def test_the_verb_removes_what_it_is_told_and_nothing_else(kept, what, left):
    assert cli.main(["cache", f"--empty={what}"]) == 0
    assert len(bound.list_entries(kept)) + bool(compilation_cache.num_bytes()) == left
    assert (kept / "notes.txt").read_text() == "mine"


def test_another_folder_is_named_by_a_flag(kept, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["cache", f"--cache_dir={tmp_path / 'empty'}", "--empty=decoded"]) == 0
    assert len(bound.list_entries(kept)) == 1
    assert cli.main(["cache", f"--cache_dir={tmp_path / 'missing'}"]) == 2
    assert cli.main(["cache", "--empty=everything"]) == 2
    assert capsys.readouterr().err.count("must be") == 2
