"""Archives are read in place: nothing in them reaches the disk under its own name, and nothing unpacks without end."""

import gzip
import io
import os
import tarfile

import pytest

from simclr_jax import base
from simclr_jax.data.prepare import archives
from tests.data.prepare import makers


def open_tar(path, tmp_path, *, max_bytes=10**7, tick=lambda: None):
    (tmp_path / "work").mkdir(exist_ok=True)
    return archives.open_tar(path, work=tmp_path / "work", max_bytes=max_bytes, tick=tick)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_are_found_and_read(tmp_path, mode):
    files = {"a/one": b"1" * 700, "a/two": b"2", "long/" + "n" * 180: b"3" * 512}
    path = makers.tar(tmp_path / "a.tar", files, mode=mode)
    found = open_tar(path, tmp_path)
    assert {member.name: archives.read_member(member) for member in found} == files
    assert open_tar(path, tmp_path) == found


def test_links_devices_and_climbing_names_write_nothing(tmp_path):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "hard"), (tarfile.CHRTYPE, "device")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../../climbed", "/tmp/absolute_name", "..\\climbed"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"bad"))
    before = {*tmp_path.rglob("*"), *tmp_path.parent.iterdir()}
    found = open_tar(path, tmp_path)
    assert [member.name for member in found] == ["../../climbed", "/tmp/absolute_name", "..\\climbed"]
    made = {*tmp_path.rglob("*"), *tmp_path.parent.iterdir()} - before
    assert {path.suffix for path in made} == {"", ".tar"} and len(made) == 2  # work, and the plain archive in it
    assert not os.path.exists("/tmp/absolute_name")


def test_an_archive_that_unpacks_without_end_is_stopped(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(40):
            stream.write(bytes(10**6))
    with pytest.raises(base.InputError, match=r"must unpack to 0\.0 GB at most; it is larger"):
        open_tar(path, tmp_path)
    assert sum(file.stat().st_size for file in (tmp_path / "work").iterdir()) <= 10**7


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, mode, share):
    files = {str(number): os.urandom(5000) for number in range(20)}
    path = makers.tar(tmp_path / "a.tar", files, mode=mode)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * 103000)] if mode == "w" else content[: int(share * len(content))])
    with pytest.raises(base.InputError, match="an archive must be whole"):
        open_tar(path, tmp_path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(base.InputError, match="an archive must be whole"):
        open_tar(path, tmp_path)


def test_a_tick_that_raises_stops_the_unpacking(tmp_path):
    path = makers.tar(tmp_path / "a.tar.gz", {"a": b"1"}, mode="w:gz")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_tar(path, tmp_path, tick=stop)
    assert not [*(tmp_path / "work").glob("*.tar")]
