"""Files appear whole or not at all, and what cannot be written is said in one line before anything is lost."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from simclr_jax import atomic_files, base


def refused(check, *args, **rest) -> str:
    with pytest.raises(base.InputError) as caught:
        check(*args, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fail_with(number, monkeypatch):
    """Every write of a file ends with this error of the system, halfway."""

    def write(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_write_that_fails_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "page.html"
    atomic_files.write_text(path, "old é")
    fail_with(number, monkeypatch)
    for write in (lambda: atomic_files.write_text(path, "new"), lambda: atomic_files.check_target(path)):
        message = refused(write)
        assert str(path) in message and os.strerror(number) in message
        assert ("MB free" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert path.read_text(encoding="utf-8") == "old é"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_target_is_checked_without_touching_it(tmp_path):
    path = tmp_path / ("long" * 60 + ".json")
    atomic_files.check_target(path)
    assert not list(tmp_path.iterdir())
    path.write_text("mine")
    atomic_files.check_target(path)
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["", "no/such/x.json", "folder", "folder/", "new/", "file/x.json"])
def test_a_target_that_cannot_be_a_file_is_refused_with_its_flag(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert refused(atomic_files.check_target, f"{tmp_path}/{name}", flag="--output").startswith("--output must")


def test_a_link_stays_a_link_and_a_pipe_is_written_into(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    atomic_files.check_target(os.devnull)
    atomic_files.write_text(os.devnull, "gone")
    assert pathlib.Path(os.devnull).is_char_device()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "run"
    for content in ("1", "2"):
        with atomic_files.replacing_folder(target, flag="--output") as fresh:
            (fresh / "file").write_text(content)
    with pytest.raises(KeyError), atomic_files.replacing_folder(target, flag="--output") as fresh:
        (fresh / "file").write_text("3")
        raise KeyError
    message = refused(write_into_a_full_disk, target)
    assert message.startswith("--output must be a folder that can be written") and "No space left" in message
    assert (target / "file").read_text() == "2" and os.listdir(tmp_path / "a") == ["run"]


def test_a_folder_is_made_only_where_files_can_be_written(tmp_path, monkeypatch):
    for _ in range(2):
        atomic_files.make_folder(tmp_path / "a" / "b", flag="workdir")
    assert not list((tmp_path / "a" / "b").iterdir())
    fail_with(errno.ENOSPC, monkeypatch)
    assert "No space" in refused(atomic_files.make_folder, tmp_path / "a" / "c", flag="workdir")
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_folder_is_checked_without_making_it(tmp_path, monkeypatch):
    atomic_files.check_folder(tmp_path / "a" / "b", flag="--output")
    (tmp_path / "file").write_text("")
    assert "file" in refused(atomic_files.check_folder, tmp_path / "file" / "b", flag="--output")
    fail_with(errno.EROFS, monkeypatch)
    message = refused(atomic_files.check_folder, tmp_path / "a", flag="--output")
    assert message.startswith("--output must be a folder") and "Read-only" in message
    assert os.listdir(tmp_path) == ["file"]


def write_into_a_full_disk(target):
    with atomic_files.replacing_folder(target, flag="--output"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here, dead = atomic_files._host(), int(ended.stdout)
    gone = [f".results.json.{here}-{dead}.0123abcd.tmp", f".features.{here}-{dead}.0123abcd.tmp"]
    old = [".config.json.4711.tmp", ".0123abcd.tmp", ".page.html.ffffff-1.0123abcd.tmp"]
    stay = [
        f".results.json.{here}-{os.getpid()}.0123abcd.tmp",
        ".mine.tmp",
        "x.tmp",
        ".page.html.eeeeee-1.0123abcd.tmp",
    ]
    for name in [*gone, *old, *stay]:
        (tmp_path / name).mkdir() if "features" in name else (tmp_path / name).touch()
    for name in old:
        os.utime(tmp_path / name, (1e9, 1e9))
    atomic_files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(stay)
