"""What a stranger may have done to a file, by a seed: to its bytes, to its JSON, to the members of its archives."""

import io
import json
import random
import struct
import tarfile
import zipfile
from typing import Any

DEEP = b"[" * 100_000 + b"]" * 100_000
WHOLE = (
    *(b"", b"\0", b"{}", b"[]", b"null", b"nan", b"\xff\xfe", b"\x80\x04.", b"PK\x05\x06" + bytes(18), b"<html>", DEEP),
    *(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'"' + b"a" * 10**6 + b'"', b"1" * 5000),
)
NUMBERS = (b"\xff" * 8, bytes(8), struct.pack("<Q", 2**62), struct.pack("<Q", 2**31), struct.pack(">Q", 2**40))
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**64, 10**30, 1.5, float("nan"), float("inf"), "", "a", "\ud800", "../../etc/passwd"),
    *("/etc/passwd", "x" * 100_000, [], {}, [[]], [1, 2, 3], {"a": 1}, [None], [2**40, 2**40], "auto", "1e400", "\x00"),
)


def npy(header: str, data: bytes = b"") -> bytes:
    """A file `.npy` with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def _of(descr: str, shape: str, data: bytes = b"") -> bytes:
    return npy(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n", data)


ARRAYS = (
    *(_of("<f4", "(1099511627776,)"), _of("<f4", "(200000000,)"), _of("<f4", f"({2**63 - 1}, {2**63 - 1})")),
    *(_of("<f4", "(-5,)", bytes(64)), _of("<f4", f"(0, {2**63 - 1})"), _of("|O", "(1,)", b"\x80\x04.")),
    *(_of("<U1000000000", "(2,)"), _of("<U1000000000", "()"), _of("<M8[s]", "(2,)", bytes(16))),
    *(_of("<c16", "(2,)", bytes(32)), _of("<f4", "(2.0,)", bytes(16)), _of("<f4", "'x'", bytes(16))),
    *(npy("(" * 5000 + "\n"), npy("'''\n"), npy("\x00\n"), npy("{'descr': '<f4'"), npy("2**2**2**30\n"), b""),
    *(_of("|V0", "(12,)"), _of("<U0", "(12,)"), _of("<U1", "(12,)", b"\xff" * 48), _of("<f4", "()", bytes(4))),
    *(_of("<f4", "(12,)", bytes(48)), _of("<f8", "(12, 4)", bytes(384)), _of("<f4", "(12, 4)", b"\xff" * 192)),
    *(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1), b"\x93NUMPY\x09\x00aa"),
)


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a flip, a cut, a hole, more of them, a huge number in the middle, or others altogether."""
    data, kind = bytearray(content), rng.randrange(8)
    at = rng.randrange(len(data)) if data else 0
    if kind == 0 and data:
        for _ in range(rng.choice([1, 1, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + rng.randrange(1, 64)]
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 4:
        data[at : at + 8] = rng.choice(NUMBERS)
    elif kind == 5:
        data[at : at + 200] = bytes(len(data[at : at + 200]))
    elif kind == 6:
        return rng.choice(WHOLE)
    else:
        return content + content
    return bytes(data)


def of_json(content: bytes, rng: random.Random) -> bytes:
    """The JSON with a value of another kind, a key too much or too few; in a quarter of the cases its bytes."""
    if rng.random() < 0.25:
        return of_bytes(content, rng)
    value = json.loads(content)
    for _ in range(rng.choice([1, 1, 2])):
        value = _changed(value, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed."""
    path, inside = [], value
    while isinstance(inside, dict | list) and inside and rng.random() < 0.8:
        key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
        path.append((inside, key))
        inside = inside[key]
    if not path:
        return rng.choice(VALUES)
    holder, key = path[-1]
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(inside, int | float) and not isinstance(inside, bool):
        holder[key] = inside * rng.choice([-1, 0, 2, 10**6, 0.5])
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(["a", "", "__class__", "\x00"])] = rng.choice(VALUES)
    else:
        holder[key] = rng.choice(VALUES)
    return value


def of_npz(content: bytes, rng: random.Random) -> bytes:
    """The archive with another array for a member, a member less, compressed, twice; or its bytes."""
    if rng.random() < 0.35:
        return of_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, kind, out = rng.choice(list(members)), rng.randrange(5), io.BytesIO()
    members[name] = rng.choice(ARRAYS) if kind <= 2 else of_bytes(members[name], rng)
    if kind == 4:
        del members[name]
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", how) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        if rng.random() < 0.1:
            archive.writestr("../../evil.npy", b"x")
    return out.getvalue()


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The file with another length, header or entry of its header; or its bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data, kind = json.loads(content[8 : 8 + length]), content[8 + length :], rng.randrange(7)
    name = rng.choice([name for name in header if name != "__metadata__"])
    if kind == 0:
        return of_bytes(content, rng)
    if kind == 1:  # also a header of 100 MB in a file of some bytes
        return struct.pack("<Q", rng.choice([2**62, 10**8, 0, length + 1, length - 1])) + content[8:]
    if kind == 2:
        choices = ([-1, 4], [4, 0], [0, 2**63], [0, 2**64 - 1], [0, 4], "x", None, [0, len(data)])
        header[name]["data_offsets"] = rng.choice(choices)
    elif kind == 3:
        header[name]["shape"] = rng.choice([[-1], [2**40, 2**40], [], [0], [1.5], None, [1] * 1000, [0, 2**62]])
    elif kind == 4:
        header[name]["dtype"] = rng.choice(["F64", "I8", "BOOL", "BF16", "F8_E4M3", "F4", "C64", "x", None])
    elif kind == 5:
        header[rng.choice(["", "../x", "encoder/", "encoder", "\n", f"{name}/kernel"])] = header.pop(name)
    text = of_json(json.dumps(header).encode(), rng) if kind == 6 else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_tar(content: bytes, rng: random.Random) -> bytes:
    """The archive with links, devices, sparse files, odd names and sizes, or a field of a header; or its bytes."""
    if rng.random() < 0.3:
        return of_bytes(content, rng)
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as source,
        tarfile.open(fileobj=out, mode="w", format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as target,
    ):
        for member in source:
            data, kind = source.extractfile(member).read(), rng.randrange(6)
            info = tarfile.TarInfo(member.name)
            if kind == 0:
                info.name = rng.choice(
                    ["/etc/passwd.png", "../../x.png", "a" * 300 + ".png", ".png", "a/../b.png", "."]
                )
            elif kind == 1:
                info.type, info.linkname = rng.choice([b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"x", b"g"]), "../x"
            elif kind == 2:
                info.pax_headers = {"size": rng.choice(["-1", "99999999999", "abc"]), "GNU.sparse.map": "0,1"}
            elif kind == 3:
                data = rng.choice([b'{"caption":' + DEEP + b"}", b'{"caption": 7}', b"[]", b"\xff\xfe\0", b"1" * 9999])
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return _with_field(bytearray(out.getvalue()), rng) if rng.random() < 0.4 else out.getvalue()


def _with_field(data: bytearray, rng: random.Random) -> bytes:
    """The archive with another field in one of its blocks, under a checksum that fits."""
    at = 512 * rng.randrange(len(data) // 512)
    field, length = rng.choice([(124, 12), (156, 1), (257, 8), (0, 100), (345, 155), (386, 96)])
    ends = (b"\xff", b"7", b"\x80" + b"\xff" * 200, b"-" + b"1" * 200, b" ", b"\0")
    data[at + field : at + field + length] = (rng.choice(ends) * 200)[:length]
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)
