"""Files of features: the digest is that of a loop, and damage of any kind is one line."""

import hashlib
import json
import tracemalloc

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from simclr_jax import base
from simclr_jax.data import block_digests
from simclr_jax.run import array_files, feature_digest, feature_file

RNG = np.random.default_rng(5)
META = {"fingerprint": "f", "layer": "h", "protocol": "p", "images": "here", "class_names": ["a"]}


def rows_of(count, *, dtype=np.float32, width=6):
    names = np.asarray([f"{number}.png" for number in range(count)])
    sizes, digests = np.full((count, 2), 9, np.int32), np.arange(count, dtype=np.uint64)
    features = RNG.normal(size=(count, width)).astype(dtype)
    return feature_file.Rows(features, names, np.zeros(count, np.int32), names, sizes, digests)


def cut(rows, *places):
    return [feature_file.Rows(*(column[a:b] for column in rows)) for a, b in zip((0, *places), (*places, None))]  # noqa: B905


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_digest_is_that_of_blocks_whatever_the_parts(monkeypatch, dtype):
    monkeypatch.setattr(block_digests, "_BLOCK_BYTES", 4 * 6 * np.dtype(dtype).itemsize)  # four rows
    features = rows_of(11, dtype=dtype).features
    blocks = [hashlib.sha256(features[start : start + 4].tobytes()).digest() for start in (0, 4, 8)]
    expected = hashlib.sha256(b"".join(blocks) + f"<f{np.dtype(dtype).itemsize}[6]".encode()).hexdigest()
    collected = feature_digest.Digest()
    for start, stop in ((0, 3), (3, 10), (10, 11)):
        collected.add(features[start:stop])
    assert collected.result() == expected and feature_digest.look(features) == (expected, -1)
    for row, value in ((9, np.nan), (6, -np.inf), (2, np.inf)):
        features[row, 3] = value
        assert feature_digest.look(features).bad_row == row


@pytest.mark.parametrize("ending", feature_file.ENDINGS)
def test_the_bytes_of_a_file_do_not_depend_on_the_blocks(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(feature_file, "_ROW_GROUP", 4)
    rows = rows_of(11)
    made = []
    for number, blocks in enumerate((cut(rows), cut(rows, 3, 8), cut(rows, 1, 2, 10))):
        path = tmp_path / f"{number}{ending}"
        feature_file.save(path, blocks, meta=META, num_rows=11)
        made.append(path.read_bytes())
    assert made[0] == made[1] == made[2]
    found = feature_file.load(tmp_path / f"0{ending}")
    np.testing.assert_array_equal(found.features, rows.features)
    assert found.names == tuple(rows.names.tolist())
    assert found.meta["features_digest"] == feature_digest.look(rows.features).digest


@pytest.mark.parametrize("ending", feature_file.ENDINGS)
def test_a_flipped_byte_anywhere_in_the_columns_is_one_line(tmp_path, ending):
    path, rows = tmp_path / f"f{ending}", rows_of(50)
    feature_file.save(path, [rows], meta=META, num_rows=50)
    content = path.read_bytes()
    place = content.find(rows.features.tobytes()[:64]) if ending == ".npz" else 100
    assert place > 0
    for at in (place + 5, place + 700, content.find(b"\x07", len(content) // 2)):
        changed = bytearray(content)
        changed[at] ^= 0x41
        path.write_bytes(changed)
        with pytest.raises(base.InputError, match="Make it again") as caught:
            feature_file.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", feature_file.ENDINGS)
def test_numbers_that_are_not_finite_are_refused_and_files_without_a_digest_load(tmp_path, monkeypatch, ending):
    path, rows = tmp_path / f"f{ending}", rows_of(5)
    rows.features[3, 1] = np.nan
    feature_file.save(path, [rows], meta=META, num_rows=5)
    with pytest.raises(base.InputError, match=r"features of 3\.png are not finite"):
        feature_file.load(path)
    monkeypatch.setattr(feature_digest.Digest, "result", lambda self: "")  # a file of before
    feature_file.save(path, [rows_of(5)], meta=META, num_rows=5)
    assert len(feature_file.load(path).names) == 5


def test_the_long_texts_that_other_programs_write_are_read(tmp_path):
    feature_file.save(tmp_path / "features.parquet", [rows_of(5)], meta=META, num_rows=5)
    table = parquet.read_table(tmp_path / "features.parquet")
    schema = pyarrow.schema(
        [field.with_type(pyarrow.large_string()) if field.type == "string" else field for field in table.schema],
        metadata=table.schema.metadata,
    )
    parquet.write_table(table.cast(schema), tmp_path / "long.parquet")
    assert feature_file.load(tmp_path / "long.parquet").names == tuple(f"{number}.png" for number in range(5))


def test_a_column_is_in_memory_once_while_it_is_read(tmp_path):
    names = np.full(20_000, "x" * 100)
    np.savez(tmp_path / "columns.npz", names=names)
    tracemalloc.start()
    try:
        found = array_files.read_arrays(tmp_path / "columns.npz", ["names"])["names"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, names) and names.nbytes < peak < 1.5 * names.nbytes


def test_features_are_alike_by_all_that_made_them():
    how = {"rule": "They must be alike", "remedy": "Embed both alike."}
    mine = {**META, "encoder": {"mean": [0.5], "std": [0.5]}}
    feature_file.check_alike(mine, json.loads(json.dumps(mine)), **how)
    feature_file.check_alike(mine, META, **how)  # a file of before
    for other in (
        {**mine, "fingerprint": "g"},
        {**mine, "layer": "z"},
        {**mine, "protocol": "p.views2"},
        {**mine, "encoder": {"mean": [0.1], "std": [0.5]}},
    ):
        with pytest.raises(base.InputError, match=r"They must be alike; their \w+ is .* and not .*Embed both alike"):
            feature_file.check_alike(mine, other, **how)
