"""Records as TFDS writes and reads them."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_jax.data import records

VALUES = st.dictionaries(
    st.text(min_size=1, max_size=20), st.one_of(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1)), max_size=5
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_protobuf_reads_what_is_written_and_we_read_what_protobuf_writes(values):
    proto = pytest.importorskip("tensorflow_datasets.proto.tf_example_pb2")
    record = records.encode_example(values)
    read = proto.Example.FromString(record).features.feature
    assert {name: [*(f.bytes_list.value or f.int64_list.value)] for name, f in read.items()} == {
        name: [value] for name, value in values.items()
    }
    theirs = proto.Example.FromString(record).SerializeToString()
    assert records.decode_example(theirs) == values == records.decode_example(record)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.data())
def test_a_damaged_record_is_a_value_error_or_other_values(values, data):
    record = bytearray(records.encode_example(values))
    for _ in range(3):
        if record:
            record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = records.decode_example(bytes(record))
    except ValueError as error:
        assert not isinstance(error, UnicodeError)
    else:
        assert all(isinstance(value, bytes | int) for value in found.values())


def test_files_come_back_in_order(tmp_path):
    pytest.importorskip("array_record")
    rows = [bytes([number]) * number for number in range(1, 200)]
    records.write_records(tmp_path / "a", rows)
    assert [*records.read_records(tmp_path / "a")] == rows


def test_the_fingerprint_is_the_sum_of_hashes():
    rows = [b"one", b"two", b"two"]
    total = 0
    for row in rows:
        total = records.add_digest(total, row, prefix="train")
    expected = sum(int(hashlib.sha256(b"train\0" + row).hexdigest(), 16) for row in rows)
    assert total == expected % 2**256
