"""Files of the array_record format with one tf.train.Example a record, as TFDS writes and reads them, without both.

A record is written in the wire format of protocol buffers: Example{1: Features{1: map name -> Feature}}, and a Feature
is {1: BytesList{1: bytes}} or {3: Int64List{1: packed numbers}}.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

from simclr_jax.data import extras

# One record a group, TFDS's own choice: random access then reads no neighbours.
_WRITER_OPTIONS = "group_size:1"
_BLOCK = 64


def encode_example(values: Mapping[str, bytes | int]) -> bytes:
    """The tf.train.Example of these features, one value each: bytes or a whole number."""
    entries = (_field(1, *_field(1, name.encode()), *_field(2, *_feature(value))) for name, value in values.items())
    return b"".join(_field(1, *itertools.chain.from_iterable(entries)))


def _feature(value: bytes | int) -> list[bytes]:
    if isinstance(value, bytes):
        return _field(1, *_field(1, value))
    return _field(3, *_field(1, _varint(value & (2**64 - 1))))


def _field(number: int, *content: bytes) -> list[bytes]:
    """The parts of a field, joined once at the end: an image is not copied level by level."""
    return [bytes([8 * number + 2]), _varint(sum(map(len, content))), *content]


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def decode_example(record: bytes) -> dict[str, bytes | int]:
    """The features of a tf.train.Example that hold one value each, bytes or a whole number; others are left out.

    Raises:
        ValueError: not such a record.
    """
    values: dict[str, bytes | int] = {}
    try:
        for _, features in _fields(memoryview(record)):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                for kind, content in _fields(parts[2]):
                    found = [value for _, value in _fields(content)]
                    if len(found) == 1 and kind in (1, 3):
                        values[str(parts[1], "utf-8")] = _value(kind, found[0])
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError("not a tf.train.Example") from error
    return values


def _value(kind: int, content: memoryview) -> bytes | int:
    if kind == 1:
        return bytes(content)
    number, _ = _read_varint(content, 0)
    return number - 2**64 if number >= 2**63 else number


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of every field; a bare number is given as its bytes."""
    place = 0
    while place < len(message):
        tag, start = message[place], place + 1
        length, place = _read_varint(message, start)
        if tag & 7 == 2:
            start, place = place, place + length
        elif tag & 7:
            raise ValueError("not a tf.train.Example")
        if place > len(message):
            raise IndexError
        yield tag >> 3, message[start:place]


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        digit = message[place]
        value |= (digit & 127) << shift
        place, shift = place + 1, shift + 7
        if digit < 128:
            return value, place


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Writes an array_record file of these records."""
    module = extras.require("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Every record of an array_record file, in order.

    Raises:
        RuntimeError: a record's own checksum does not fit.
    """
    module = extras.require("array_record.python.array_record_module")
    reader = module.ArrayRecordReader(os.fspath(path))
    try:
        for start in range(0, reader.num_records(), _BLOCK):
            yield from reader.read(list(range(start, min(start + _BLOCK, reader.num_records()))))
    finally:
        reader.close()


def add_digest(total: int, record: bytes, *, prefix: str = "") -> int:
    """The fingerprint of a set of records, whatever their order and however they are spread over files: with one more.

    The SHA-256 of the records, each after the name of its split (`prefix`), added up modulo 2^256. It begins with 0.
    """
    digest = hashlib.sha256(prefix.encode() + b"\0")
    digest.update(record)
    return (total + int.from_bytes(digest.digest(), "big")) % 2**256
