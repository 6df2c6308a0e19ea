"""The bound on the cache: what goes, what stays, and what is never touched."""

import json
import os
import subprocess
import sys
import time

import pytest

from simclr_jax.data import bound

GB = 10**9


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch):
    monkeypatch.setattr(bound, "_held", {})
    yield
    for descriptor in bound._held.values():
        os.close(descriptor)


def _entry(folder, name, *, num_bytes=1000, age=0.0, title=None):
    path = folder / f"{name}-{name * 32}"
    path.mkdir(parents=True)
    (path / "images.npy").write_bytes(bytes(num_bytes))
    (path / "meta.json").write_text(json.dumps({"title": title or f"split {name}"}))
    used = time.time() - age
    os.utime(path / "meta.json", (used, used))
    return path


def _names(folder):
    return {path.name[0] for path in folder.iterdir()}


def test_entries_used_longest_ago_go_first(tmp_path):
    for name, age in (("a", 30), ("b", 20), ("c", 10)):
        _entry(tmp_path, name, age=age)
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=3200 / GB)
    assert _names(tmp_path) == {"b", "c"}
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=0)
    assert _names(tmp_path) == set()


def test_an_entry_used_again_stays(tmp_path):
    first = _entry(tmp_path, "a", age=30)
    _entry(tmp_path, "b", age=20)
    os.utime(first / "meta.json")
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=2200 / GB)
    assert _names(tmp_path) == {"a"}


def test_older_states_of_a_changed_folder_go(tmp_path):
    for name, age in (("a", 40), ("b", 30), ("c", 20), ("d", 10)):
        _entry(tmp_path, name, age=age, title="folder:photos, split 'train'")
    _entry(tmp_path, "e", age=90, title="another")
    bound.make_room(tmp_path, 1000, title="folder:photos, split 'train'", max_gigabytes=None)
    assert _names(tmp_path) == {"c", "d", "e"}


def test_an_entry_in_use_here_stays(tmp_path):
    bound.hold(_entry(tmp_path, "a", age=30))
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=0)
    assert bound.empty(tmp_path) == (0, 0)
    assert _names(tmp_path) == {"a"}


def test_an_entry_in_use_by_another_process_stays_until_it_ends(tmp_path):
    entry = _entry(tmp_path, "a", age=30)
    code = (
        "import pathlib, sys; from simclr_jax.data import bound; bound.hold(pathlib.Path(sys.argv[1]));"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(entry)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        bound.make_room(tmp_path, 1000, title="new", max_gigabytes=0)
        assert _names(tmp_path) == {"a"}
        other.communicate("")
    assert bound.empty(tmp_path)[0] == 1


def test_what_is_not_ours_is_neither_listed_nor_removed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / f"x-{'f' * 32}.txt").write_text("mine")
    foreign = _entry(tmp_path, "b")
    (foreign / "notes.txt").write_text("mine")
    (tmp_path / f"link-{'c' * 32}").symlink_to(_entry(tmp_path / "elsewhere", "d"))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert bound.list_entries(tmp_path) == []
    bound.make_room(tmp_path, GB, title="new", max_gigabytes=0)
    assert bound.empty(tmp_path) == (0, 0)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_remains_of_a_killed_run_go_after_a_day(tmp_path):
    old, fresh = (tmp_path / f"a-{'a' * 32}.tmp-{name}" for name in ("old", "fresh"))
    for work in (old, fresh):
        work.mkdir()
        (work / "images.npy").write_bytes(b"x")
    day_ago = time.time() - 90_000
    os.utime(old, (day_ago, day_ago))
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=None)
    assert list(tmp_path.iterdir()) == [fresh]
    assert bound.empty(tmp_path) == (0, 0)


def test_without_a_limit_half_of_the_disk_may_be_filled(tmp_path, monkeypatch):
    _entry(tmp_path, "a", num_bytes=5000)
    monkeypatch.setattr(bound.shutil, "disk_usage", lambda folder: bound.shutil._ntuple_diskusage(10**5, 0, 7000))
    assert bound.default_limit(tmp_path) == pytest.approx(6000, rel=0.01)
    bound.make_room(tmp_path, 900, title="new", max_gigabytes=None)
    assert _names(tmp_path) == {"a"}
    bound.make_room(tmp_path, 1100, title="new", max_gigabytes=None)
    assert _names(tmp_path) == set()


def test_a_full_disk_makes_old_entries_go_whatever_the_limit(tmp_path, monkeypatch):
    _entry(tmp_path, "a")
    monkeypatch.setattr(bound.shutil, "disk_usage", lambda folder: bound.shutil._ntuple_diskusage(10**5, 0, 500))
    bound.make_room(tmp_path, 1000, title="new", max_gigabytes=100)
    assert _names(tmp_path) == set()
