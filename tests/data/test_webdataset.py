"""WebDataset shards: names and braces, texts of .txt and .json, splits, the same data as files, damage."""

import io
import json
import tarfile

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.data import webdataset
from tests.data import test_pairs


def write_shard(path, members):
    """A tar file of (name, bytes or text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Name of a colour -> the bytes of its picture."""
    test_pairs.make_pictures(tmp_path / "loose")
    return {name: (tmp_path / "loose" / "images" / f"{name}.png").read_bytes() for name in test_pairs.COLOURS}


def write_colours(folder, pictures):
    """Four pictures in two shards, as img2dataset and others lay them out."""
    red = [("0001.png", pictures["red"]), ("0001.txt", "a red, red square\nit is red\n"), ("0001.json", "{}")]
    green = [("0002.json", json.dumps({"caption": "a green  square", "width": 12})), ("0002.png", pictures["green"])]
    write_shard(folder / "shard-00.tar", [*red, *green])
    # Deep names, several captions, a mask beside the picture, and what is no example.
    blue = [("./a/b.blue.png", pictures["blue"]), ("./a/b.json", json.dumps({"caption": ["it is blue", "blue"]}))]
    rest = [("c.png", pictures["white"]), ("d.txt", "no picture"), (".hidden.txt", "x"), ("e.cls", "3")]
    write_shard(folder / "shard-01.tar", [*blue, *rest])


def load(path, split="all", **changes):
    return data.load_split(f"pairs:{path}", split, cache_dir="", progress=False, **changes)


def test_a_folder_of_shards_and_their_names_with_braces_are_the_same_pairs(tmp_path, pictures):
    write_colours(tmp_path / "set", pictures)
    found = load(tmp_path / "set")
    assert found.ids == ("shard-00.tar/0001", "shard-00.tar/0002", "shard-01.tar/a/b")
    assert found.texts == (("a red, red square", "it is red"), ("a green square",), ("it is blue", "blue"))
    colours = [test_pairs.COLOURS[name] for name in ("red", "green", "blue")]
    np.testing.assert_array_equal(found.images[:, 0, 0], colours)
    for name in ("shard-{00..01}.tar", "shard-{00,01}.tar", "{shard}-0{0..1}.tar"):
        assert load(tmp_path / "set" / name).fingerprint == found.fingerprint
    assert load(tmp_path / "set" / "shard-01.tar").ids == found.ids[2:]
    streamed = load(tmp_path / "set", stream_above=-1)
    assert data.is_encoded(streamed) and streamed.texts == found.texts
    with pytest.raises(base.InputError, match=r"missing are 2 of 4, such as .*shard-02.tar"):
        load(tmp_path / "set" / "shard-{00..03}.tar")
    with pytest.raises(base.InputError, match="must not be compressed"):
        load(tmp_path / "set" / "shard-00.tar.gz")


def test_names_of_shards_and_of_their_folders_are_splits(tmp_path, pictures):
    pair = [("x.png", pictures["red"]), ("x.txt", "red")]
    for name in ("train/0.tar", "train/1.tar", "val/0.tar"):
        write_shard(tmp_path / "a" / name, pair)
    for name in ("train-0.tar", "test_0.tar"):
        write_shard(tmp_path / "b" / name, pair)
    assert load(tmp_path / "a", "train").ids == ("train/0.tar/x", "train/1.tar/x")
    assert load(tmp_path / "a", "test").ids == ("val/0.tar/x",)
    assert (load(tmp_path / "b", "train").ids, load(tmp_path / "b", "test").ids) == (
        ("train-0.tar/x",),
        ("test_0.tar/x",),
    )
    many = [
        (f"{number}.{kind}", content) for number in range(20) for kind, content in (("png", pair[0][1]), ("txt", "y"))
    ]
    write_shard(tmp_path / "c" / "0.tar", many)
    sizes = [len(load(tmp_path / "c", split).ids) for split in ("train", "test")]
    assert sizes == [18, 2], "a tenth is held out"


def test_damage_is_left_out_and_named(tmp_path, pictures):
    members = [
        (f"{name}.{kind}", pictures[name] if kind == "png" else name) for name in pictures for kind in ("txt", "png")
    ]
    path = write_shard(tmp_path / "whole" / "0.tar", members)
    places, whole = webdataset.list_members(path)
    content = path.read_bytes()
    assert whole and [place.name for place in places] == [name for name, _ in members]
    assert all(content[at : at + size] in (pictures.get(n[:-4]), n[:-4].encode()) for n, at, size in places)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "0.tar").write_bytes(content[: places[-1].offset + 20])  # in the middle of the last picture
    cut = load(tmp_path / "cut", max_corrupt_fraction=1.0)
    assert cut.ids == ("0.tar/blue", "0.tar/green", "0.tar/red")
    assert cut.skipped == (f"0.tar/white: the file around it ends after 20 of its {places[-1].num_bytes} bytes",)
    assert any("0.tar is damaged from byte" in warning for warning in cut.warnings)
    torn = bytearray(content)
    start = places[3].offset + places[3].num_bytes  # the header behind the second picture
    start += -start % 512
    torn[start : start + 512] = b"x" * 512
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "0.tar").write_bytes(torn)
    kept = load(tmp_path / "torn")
    assert kept.ids == ("0.tar/green", "0.tar/red") and any("the rest is left out" in one for one in kept.warnings)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "0.tar").write_bytes(b"<html>" * 200)
    with pytest.raises(base.InputError, match=r"must be a tar file; .* Fetch it again"):
        load(tmp_path / "none")
    write_shard(tmp_path / "twice" / "0.tar", members)
    write_shard(tmp_path / "twice" / "1.tar", members)
    assert len(load(tmp_path / "twice").ids) == 8, "of two shards"


def test_a_step_of_a_host_reads_its_own_members_only(tmp_path, pictures):
    """Places of rows, as workers are handed them: the file and the bytes of one member."""
    write_colours(tmp_path, pictures)
    streamed = load(tmp_path, stream_above=-1)
    asked = []
    for row in (2, 0):
        place = streamed.images.place(row)
        asked.append((place[0].rpartition("/")[2], streamed.images.fetch(place)[0]))
    assert asked == [("shard-01.tar", pictures["blue"]), ("shard-00.tar", pictures["red"])]
