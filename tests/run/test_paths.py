"""What people type as a path: one rule for all flags and keys."""

import os
import pwd
import subprocess

import pytest

from simclr_jax import base
from simclr_jax.run import paths

USER = pwd.getpwuid(os.getuid())


TYPED = ["a", "a/", "/a/b", "./~a", "a~b", "a b", "é/図\u3000/👩‍🔬", "x[1]*?%s{0}", "C:/runs", "C:\\runs", "1:2", ".."]
URLS = ["gs://b/a", "gs:/b/a", "s3://b", "hdfs://n:1/a", "http://h/a", "FILE:///a", "abfs+s://x"]
CONTROLS = ["a\0b", "a\nb", "a\x1b[1m", "a\u2028b", "a\udcffb"]
OTHERS = ["", " ", "x" * 256, "é" * 128, "ab/" * 2000, "~no.body/a"]


@pytest.mark.parametrize("text", TYPED)
def test_a_path_is_taken_as_it_is_typed(text):
    assert paths.typed(text, flag="--workdir") == text


def test_the_home_folder_is_expanded_for_oneself_and_for_others(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of me")
    assert paths.typed("~", flag="--workdir") == "/home/of me"
    assert paths.typed("~/runs/a", flag="--workdir") == "/home/of me/runs/a"
    assert paths.typed(f"~{USER.pw_name}/runs", flag="--workdir") == f"{USER.pw_dir}/runs"
    assert paths.absolute("~/runs/../a/", flag="--workdir") == "/home/of me/a"


def test_an_absolute_path_begins_in_the_current_folder_and_keeps_links(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("/")
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("link/a", flag="--output") == f"{tmp_path}/link/a"


@pytest.mark.parametrize("text", [*URLS, *CONTROLS, *OTHERS])
def test_what_is_no_path_of_this_machine_is_refused_in_one_line(text):
    with pytest.raises(base.InputError) as caught:
        paths.typed(text, flag="--workdir")
    message = str(caught.value)
    assert message.startswith("--workdir must be a path") and message.isprintable() and len(message) < 300


def test_a_folder_whose_name_would_lose_checkpoints_is_refused(tmp_path):
    paths.check_plain(tmp_path / "a{b} %s é:#'&;$~ -x!(1)@^=+,", flag="workdir")
    for name in ("a[1]", "a*", "a?/b", "a\\b"):
        with pytest.raises(base.InputError, match="workdir must lie in folders without"):
            paths.check_plain(tmp_path / name / "run", flag="workdir")


def test_folders_in_a_mix_become_absolute_and_what_cannot_be_read_again_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    typed = "mix:folder:a,b*c*2, tfds:x/y ,folder:~/d*0.3333333333"
    whole = f"mix:folder:{tmp_path}/a,b*c*2,tfds:x/y*1,folder:/home/me/d*0.3333333333"
    assert paths.data_name(typed, None, flag="--data") == whole == paths.data_name(whole, None, flag="--data")
    assert paths.data_name(typed, "sets", flag="--data").startswith("mix:folder:a,b*c*2,tfds:x/y*1")
    assert paths.set_names(whole) == [f"folder:{tmp_path}/a,b*c", "tfds:x/y", "folder:/home/me/d"]
    for text, said in {
        "mix:folder:gs://b/a": "must be a path of this machine",
        "mix:folder:a,folder:./a": "a mix holds each set once",
    }.items():
        with pytest.raises(base.InputError, match=said):
            paths.data_name(text, None, flag="--data")
    (tmp_path / "x,folder:").mkdir()
    monkeypatch.chdir(tmp_path / "x,folder:")
    with pytest.raises(base.InputError, match="a comma before a data set's name"):
        paths.data_name("mix:folder:a", None, flag="--data")


def test_a_suggested_command_can_be_pasted_into_a_shell():
    assert paths.as_flag("workdir", "runs/a-1_é") == "'--workdir=runs/a-1_é'"
    assert paths.as_flag("workdir", "runs/a.1") == "--workdir=runs/a.1"
    for name in ("my runs/it's", "$HOME;ls", "a\\b"):
        printed = subprocess.run(
            ["sh", "-c", f"printf %s {paths.as_flag('workdir', name)}"], capture_output=True, check=True
        )
        assert printed.stdout.decode() == f"--workdir={name}"


def test_a_folder_whose_name_is_not_utf_8_holds_no_checkpoints(tmp_path):
    with pytest.raises(base.InputError, match=r"whose names are UTF-8.*x\\udcff") as caught:
        paths.check_plain(os.fsdecode(b"/data/x\xff/run"), flag="workdir")
    assert str(caught.value).isascii()
