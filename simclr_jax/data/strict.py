"""Decoding that notices damage which lenient decoders hide: a file is decoded whole, or refused with a reason.

Pillow and OpenCV return a picture, grey or shifted from some row on, where bytes in the middle of a JPEG are lost;
simplejpeg (libjpeg-turbo) then refuses. What no decoder can notice is damage that leaves a valid file of another
content, as in formats without a checksum (BMP, TIFF without compression).
"""

import functools
import importlib.util
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_jax.data import decode, extras, imageset, kinds

# A progressive JPEG is read once a scan: twenty scans are usual at most, a thousand of them a way to stop a program.
_FREE_SCANS = 20
_MAX_SCANNED_PIXELS = 2 * 10**8
# A WebP has no checksum. So many zeros are a lost block of a disk, or a large area of one colour ...
_ZEROS = bytes(256)
# ... in a file that is whole, of which a decoder needs all but its last bytes.
_SPARE_BYTES = 16
_MARGIN = 4  # see `decode.decode_image`: from this many times the canvas on, a JPEG is decoded reduced


@functools.cache
def is_available() -> bool:
    """Whether damage in the middle of a JPEG can be noticed: whether simplejpeg is installed."""
    return importlib.util.find_spec("simplejpeg") is not None


def decode_image(data: bytes, *, long_side: int, rules: imageset.Rules = imageset.DEFAULT_RULES) -> decode.Picture:
    """As `decode.decode_image`, with equal pixels; damage that Pillow passes over is refused too.

    Without simplejpeg a JPEG is decoded as Pillow does, see `is_available`.

    Raises:
        decode.DamagedImage: see `decode.decode_image`; also bytes lost in the middle, a wrong checksum, or a JPEG of so
            many scans that it would take minutes.
    """
    kind = kinds.image_format(data[: kinds.HEAD_BYTES])
    if kind != "JPEG" or not is_available():
        _CHECKS.get(kind or "", bool)(data)
        return decode.decode_image(data, long_side=long_side, rules=rules)
    height, width, color = _jpeg_header(data, rules)
    # Orientation, CMYK and reduction are Pillow's; all else is decoded and checked at once.
    if color not in ("YCbCr", "Gray") or may_be_rotated(data) or max(height, width) >= _MARGIN * long_side:
        _check_jpeg(data, (height, width))
        return decode.decode_image(data, long_side=long_side, rules=rules)
    return decode.Picture(decode_jpeg(data, (height, width)), None, False)


def check(data: bytes, rules: imageset.Rules = imageset.DEFAULT_RULES) -> None:
    """Makes sure that an image can be decoded whole, at the least expense.

    Raises:
        decode.DamagedImage: see `decode_image`.
    """
    if kinds.image_format(data[: kinds.HEAD_BYTES]) == "JPEG" and is_available():
        height, width, _ = _jpeg_header(data, rules)
        _check_jpeg(data, (height, width))
    else:
        decode_image(data, long_side=decode.DEFAULT_CANVAS_SIZE, rules=rules)


def _jpeg_header(data: bytes, rules: imageset.Rules) -> tuple[int, int, str]:
    """(height, width, colour space) of a JPEG that is not too large."""
    simplejpeg = extras.require("simplejpeg")
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # a KeyError where there is no valid header
        decode.image_size(data, rules)  # may know it better
        raise decode.DamagedImage(_reason(error)) from error
    decode.check_size((width, height), decode.jpeg_kind(data), rules.max_megapixels)
    return height, width, color


def may_be_rotated(data: bytes) -> bool:
    """Whether the EXIF header of a JPEG, if it has one, asks for a rotation or cannot be read."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        if data[at + 1 : at + 2] == b"\xe1" and data[at + 4 : at + 10] == b"Exif\0\0":
            return _orientation(data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]) != 1
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF header; 1 = upright, also where it says nothing; 0 = unreadable."""
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None:
        return 0

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == 0x0112:
            return number(entry + 8, 2)
    return 1


def _check_jpeg(data: bytes, size: tuple[int, int]) -> None:
    # The entropy code is read whole at any scale; an eighth of the size takes little memory.
    decode_jpeg(data, size, min_factor=8, colorspace="GRAY")


def decode_jpeg(data: bytes, size: tuple[int, int], **options: Any) -> np.ndarray:
    """The pixels of a JPEG of `size` (height, width) by simplejpeg, with its `options`.

    Raises:
        decode.DamagedImage: anything is wrong with its bytes, or it would take very long.
    """
    scans = data.count(b"\xff\xda")
    if scans > _FREE_SCANS and scans * size[0] * size[1] > _MAX_SCANNED_PIXELS:
        raise decode.DamagedImage(f"{scans} scans of {size[1]}x{size[0]} pixels, made to take very long")
    try:
        pixels: np.ndarray = extras.require("simplejpeg").decode_jpeg(data, **options)
    except ValueError as error:
        raise decode.DamagedImage(_reason(error)) from error
    return pixels


def _reason(error: Exception) -> str:
    said = str(error).removeprefix("Corrupt JPEG data: ")
    return f"damaged or truncated ({imageset.printable(said)})"


def _check_png(data: bytes) -> None:
    """Every chunk has its checksum, and the last one is there."""
    place, chunk = 8, b""
    while chunk != b"IEND":
        if place + 12 > len(data):
            raise decode.DamagedImage("damaged or truncated (a PNG without its end)")
        length, chunk = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            raise decode.DamagedImage("damaged or truncated (a PNG without its end)")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise decode.DamagedImage(f"damaged (wrong checksum of the PNG's {imageset.printable(repr(chunk)[2:-1])})")
        place = end + 4


def _check_webp(data: bytes) -> None:
    """All of it is there, and no block of its pixels is lost."""
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise decode.DamagedImage("damaged or truncated (a WebP shorter than it says)")
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        if name in (b"VP8 ", b"VP8L"):  # of an animation the first frame, the only one that is read
            zeros = data.find(_ZEROS, place + 8, place + 8 + length)
            if zeros >= 0 and _ends_early(name, data[place + 8 : place + 8 + length], zeros=zeros - place - 8):
                raise decode.DamagedImage("damaged (a block of zeros in the middle of a WebP)")
            return
        place += 24 if name == b"ANMF" else 8 + length + length % 2


def _ends_early(name: bytes, coded: bytes, *, zeros: int) -> bool:
    """Whether the part of a WebP's code in which there are `zeros` decodes without its last bytes.

    Behind a lost block the decoder reads something else than was written, and comes to the last pixel earlier: zeros
    are the cheapest of all codes. Of a file in several token partitions only the last one is looked at.
    """
    start, size = int.from_bytes(coded[:3], "little"), len(coded)
    first = start >> 5  # bytes of the first partition of VP8, behind a header of ten bytes
    if name == b"VP8 " and zeros < 10 + first and first > _SPARE_BYTES:
        tag = (start & 31 | (first - _SPARE_BYTES) << 5).to_bytes(3, "little")
        cut = tag + coded[3 : 10 + first - _SPARE_BYTES] + coded[10 + first :]
    else:
        cut = coded[: size - _SPARE_BYTES]
    cut += bytes(len(cut) % 2)
    whole = b"RIFF" + struct.pack("<I", 12 + len(cut)) + b"WEBP" + struct.pack("<4sI", name, len(cut)) + cut
    decode.image_size(whole)  # says what else is wrong
    try:
        decode.decode_image(whole, long_side=decode.WHOLE)
    except decode.DamagedImage:
        return False
    return True


_CHECKS: dict[str, Callable[[bytes], object]] = {"PNG": _check_png, "WEBP": _check_webp}
