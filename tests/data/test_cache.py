"""Hits, misses, damage, and what is left behind."""

import io
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base
from simclr_jax.data import block_digests, bound, cache, imageset


class _Split:
    """A split of three pictures and one damaged file which counts its reads."""

    def __init__(self, key="a" * 64):
        self.reads = 0
        self.encoded = imageset.Encoded(
            "folder:x/../y, split 'train'", key, ("only",), ["a", "b", "c", "bad"], lambda: 16, self._read
        )

    def _read(self, index):
        self.reads += 1
        if index == 3:
            return b"junk", 0
        stream = io.BytesIO()
        Image.new("RGB", (16, 8 + index), (index, 100, 200)).save(stream, "PNG")
        return stream.getvalue(), 0


def _load(split, cache_dir, max_corrupt_fraction=0.25):
    return cache.load_or_decode(
        split.encoded, cache_dir=cache_dir, max_corrupt_fraction=max_corrupt_fraction, progress=False
    )


def _assert_equal(left, right):
    for name in imageset.ImageSet._fields:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_second_load_reads_no_file_and_gives_the_same(tmp_path):
    split = _Split()
    first = _load(split, tmp_path)
    assert split.reads == 4
    second = _load(split, tmp_path)
    assert split.reads == 4
    _assert_equal(first, second)
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert first.images.shape == (3, 16, 16, 3)
    assert first.skipped == ("bad: not a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file",)


def test_without_a_cache_the_result_is_the_same_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    in_memory = _load(_Split(), "")
    assert not list(tmp_path.iterdir())
    assert not isinstance(in_memory.images, np.memmap)
    _assert_equal(in_memory, _load(_Split(), tmp_path / "cache"))


def test_the_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _load(_Split(), None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["simclr_jax"]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / ".cache" / "simclr_jax"


def test_the_fingerprint_matches_the_images_written(tmp_path):
    loaded = _load(_Split(), tmp_path)
    rebuilt = imageset.make_image_set(
        np.asarray(loaded.images), loaded.labels, class_names=loaded.class_names, ids=loaded.ids
    )
    assert rebuilt.fingerprint != loaded.fingerprint  # other sizes
    assert _load(_Split(), "").fingerprint == loaded.fingerprint


def test_another_key_is_another_entry(tmp_path):
    _load(_Split(), tmp_path)
    other = _Split("b" * 64)
    _load(other, tmp_path)
    assert other.reads == 4
    assert len(list(tmp_path.iterdir())) == 2


def _flip_a_pixel(entry):
    data = bytearray((entry / "images.npy").read_bytes())
    data[-5] ^= 1
    (entry / "images.npy").write_bytes(data)


def _edit_meta(entry, **changes):
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps(meta | changes))


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_pixel,
        lambda entry: (entry / "images.npy").write_bytes((entry / "images.npy").read_bytes()[:-7]),
        lambda entry: (entry / "images.npy").write_bytes(b""),
        lambda entry: (entry / "images.npy").unlink(),
        lambda entry: (entry / "labels.npy").write_bytes(b"not an array"),
        lambda entry: np.save(entry / "labels.npy", np.zeros(3, np.int32) + 1),
        lambda entry: np.save(entry / "sizes.npy", np.zeros((2, 2), np.int32)),
        lambda entry: (entry / "meta.json").write_text("{"),
        lambda entry: (entry / "meta.json").write_text("[]"),
        lambda entry: (entry / "meta.json").write_bytes(b"\xff\xfe"),
        lambda entry: _edit_meta(entry, format=0),
        lambda entry: _edit_meta(entry, ids=["a"]),
        lambda entry: _edit_meta(entry, key="c" * 64),
    ],
)
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path, damage):
    split = _Split()
    first = _load(split, tmp_path)
    expected = first._replace(images=np.array(first.images))
    (entry,) = tmp_path.iterdir()
    del first
    damage(entry)
    again = _load(split, tmp_path)
    assert split.reads == 8
    _assert_equal(again, expected)
    _load(split, tmp_path)
    assert split.reads == 8


def test_an_entry_too_large_to_be_read_whole_is_compared_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FULL_CHECK_BYTES", 100)
    monkeypatch.setattr(block_digests, "_BLOCK_BYTES", 16 * 16 * 3)  # a picture a block
    split = _Split()
    expected = np.array(_load(split, tmp_path).images)
    (entry,) = tmp_path.iterdir()
    assert len(np.load(entry / "digests.npy")) == 3
    _flip_a_pixel(entry)
    for _ in range(40):  # one of three blocks is looked at each time
        again = _load(split, tmp_path)
        if split.reads == 8:
            break
    np.testing.assert_array_equal(again.images, expected)
    assert split.reads == 8
    (entry / "digests.npy").unlink()  # as entries of before
    _load(split, tmp_path)
    assert split.reads == 8


def test_the_umask_says_who_may_share_a_cache(tmp_path):
    for umask, group in ((0o022, 0o050), (0o077, 0)):
        before = os.umask(umask)
        try:
            _load(_Split(key=f"{umask:x}" * 32), tmp_path / f"{umask:o}")
        finally:
            os.umask(before)
        (entry,) = (tmp_path / f"{umask:o}").iterdir()
        assert entry.stat().st_mode & 0o070 == group
        assert all(file.stat().st_mode & 0o040 == group & 0o040 for file in entry.iterdir())


def test_pickled_arrays_are_never_loaded(tmp_path):
    split = _Split()
    _load(split, tmp_path)
    (entry,) = tmp_path.iterdir()
    np.save(entry / "labels.npy", np.asarray([{}, {}, {}], object), allow_pickle=True)
    _load(split, tmp_path)
    assert split.reads == 8


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    with pytest.raises(base.InputError, match="at most 0 of 4 images"):
        _load(_Split(), tmp_path, max_corrupt_fraction=0)
    assert not list(tmp_path.iterdir())


def test_the_quota_holds_for_a_cached_split_too(tmp_path):
    _load(_Split(), tmp_path)
    with pytest.raises(base.InputError, match="at most 0 of 4 images"):
        _load(_Split(), tmp_path, max_corrupt_fraction=0)


def test_remains_of_a_killed_run_are_removed_after_a_day(tmp_path):
    _load(_Split(), tmp_path)
    (entry,) = tmp_path.iterdir()
    old, fresh = (tmp_path / f"{entry.name}.tmp-{name}" for name in ("old", "fresh"))
    for work in (old, fresh):
        work.mkdir()
    day_ago = time.time() - 90_000
    os.utime(old, (day_ago, day_ago))
    (entry / "meta.json").unlink()
    _load(_Split(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([entry.name, fresh.name])


def test_an_entry_which_another_process_finished_first_is_used(tmp_path, monkeypatch):
    split = _Split()
    write_rest = cache._write_rest

    def racing(work, decoded, key):
        monkeypatch.setattr(cache, "_write_rest", write_rest)
        _load(_Split(), tmp_path)
        write_rest(work, decoded, key)

    monkeypatch.setattr(cache, "_write_rest", racing)
    _assert_equal(_load(split, tmp_path), _load(_Split(), ""))
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unusable_cache_folder_is_a_one_line_error(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(base.InputError, match="cache folder must be writable") as caught:
        _load(_Split(), blocker / "below")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: cache.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(base.InputError, match="needs room"):
        _load(_Split(), tmp_path / "full")


def test_a_split_larger_than_memory_needs_a_cache():
    split = _Split()
    encoded = split.encoded._replace(ids=range(10**9), canvas_size=lambda: 4096)
    with pytest.raises(base.InputError, match="Give a cache_dir"):
        cache.load_or_decode(encoded, cache_dir="", max_corrupt_fraction=0, progress=False)


def test_labels_of_records_that_cannot_be_read_are_kept_only_within_the_tolerated_share(tmp_path):
    split = _Split()
    failing = [0, 1, 2, 3]

    def read(index):
        if index in failing:
            raise OSError(5, "Input/output error")
        return split.encoded.read(index)

    encoded = split.encoded._replace(read=read, identity="b" * 64)

    def load(share):
        return cache.load_or_read_labels(encoded, cache_dir=tmp_path, max_corrupt_fraction=share).tolist()

    with pytest.raises(
        base.InputError, match=r"at most 2 of 4 images.*got 4 among the first 4: a: Input/output error;"
    ):
        load(0.5)
    assert not list(tmp_path.iterdir())
    failing[:] = [1]
    assert load(0.01) == [0, -1, 0, 0]
    failing[:] = [0, 1, 2, 3]
    assert load(0.01) == [0, -1, 0, 0]  # read once
    (kept,) = tmp_path.iterdir()
    (tmp_path / "labels-mine.npy").write_text("mine")
    num_bytes = kept.stat().st_size
    assert bound.empty(tmp_path) == (0, num_bytes)
    assert [path.name for path in tmp_path.iterdir()] == ["labels-mine.npy"]


def test_a_letter_that_flips_in_a_header_makes_the_entry_anew(tmp_path):
    """The header is Python's text: NumPy's errors of many kinds come out of its parser."""
    _load(_Split(), tmp_path)
    (entry,) = tmp_path.iterdir()
    path = entry / "sizes.npy"
    content = path.read_bytes()
    for at in range(8, 64, 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x0F]) + content[at + 1 :])
        _assert_equal(_load(_Split(), tmp_path), _load(_Split(), ""))


def test_a_link_in_the_place_of_an_entry_is_removed_and_what_it_leads_to_is_not(tmp_path):
    cached, mine = tmp_path / "cached", tmp_path / "mine"
    _load(_Split(), cached)
    (entry,) = cached.iterdir()
    for target in (mine, tmp_path / "nowhere"):
        mine.mkdir(exist_ok=True)
        (mine / "thesis.tex").write_text("years")
        cache.shutil.rmtree(entry)
        entry.symlink_to(target)
        _assert_equal(_load(_Split(), cached), _load(_Split(), ""))
        assert not entry.is_symlink() and (mine / "thesis.tex").read_text() == "years"
