"""Thousands of damaged files: each is decoded as strict decoding would, or refused with a reason; nothing else happens.

What strict decoding is, is said without our code: simplejpeg's own for JPEG; for PNG, where every byte of a chunk is
under a checksum, the picture before the damage; for the others, which have none, Pillow. SIMCLR_TEST_MUTATED is the
number of files where it is not 2,000.
"""

import io
import os
import pathlib
import time
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from simclr_jax.data import decode, full_decode, strict
from tests.data.prepare import makers

simplejpeg = pytest.importorskip("simplejpeg")
ORIGINALS = {
    "jpeg": [
        makers.picture(1, size=(120, 90), quality=90),
        makers.picture(2, size=(64, 64), progressive=True),
        makers.picture(3, size=(50, 70), mode="L", restart_marker_blocks=4),
        makers.picture(4, size=(33, 21), mode="CMYK"),
    ],
    "png": [
        makers.picture(5, size=(60, 40), kind="PNG"),
        makers.picture(6, size=(40, 40), kind="PNG", mode="P"),
        makers.picture(7, size=(40, 40), kind="PNG", mode="LA"),
    ],
    "webp": [
        makers.picture(8, size=(90, 60), kind="WEBP"),
        makers.picture(9, size=(40, 60), kind="WEBP", lossless=True),
    ],
    "gif": [makers.picture(10, size=(60, 40), kind="GIF"), makers.picture(11, size=(40, 40), kind="GIF", mode="L")],
    "bmp": [
        makers.picture(12, size=(33, 21), kind="BMP"),
        makers.picture(13, size=(40, 40), kind="BMP", mode="P"),
        makers.picture(14, size=(41, 20), kind="BMP", mode="1"),
    ],
    "tiff": [
        makers.picture(15, size=(33, 21), kind="TIFF"),
        makers.picture(16, size=(40, 40), kind="TIFF", compression="tiff_lzw"),
        makers.picture(17, size=(40, 30), kind="TIFF", compression="tiff_adobe_deflate", mode="LA"),
        makers.picture(18, size=(50, 40), kind="TIFF", compression="jpeg"),
    ],
}


def mutate(rng, content):
    """The file with one or two kinds of damage: bits, bytes, lost, repeated or foreign pieces, a cut, odd numbers."""
    made = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(0, len(made))) if rng.random() < 0.7 else int(rng.integers(0, min(64, len(made))))
        length = int(rng.integers(1, 1 + min(200, max(1, len(made) // 2))))
        match rng.integers(0, 8):
            case 0:
                made[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                made[at] = int(rng.integers(0, 256))
            case 2:
                made[at : at + length] = bytes(len(made[at : at + length]))
            case 3:
                made[at : at + length] = rng.bytes(len(made[at : at + length]))
            case 4:
                del made[at : at + length]
            case 5:
                made[at:at] = made[at : at + length]
            case 6:
                made[at : at + 2] = b"\xff\xff"[: len(made[at : at + 2])]
            case 7:
                del made[max(at, 8) :]
        if len(made) < 8:
            made += bytes(8)
    return bytes(made)


def strict_jpeg(content):
    """RGB by simplejpeg alone; None if it refuses."""
    try:
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError:
        return None


def by_pillow(content):
    """RGB as Pillow alone shows it, upright and over white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def agrees(kind, content, original, found):
    """Whether a picture is what strict decoding gives."""
    if kind == "jpeg":
        expected = strict_jpeg(content)
        if expected is None:
            return False
        is_cmyk = simplejpeg.decode_jpeg_header(content)[2] in ("CMYK", "YCCK")
        return is_cmyk or np.array_equal(found, expected)  # CMYK is Pillow's, but only where all of it is there
    if kind == "png":
        return np.array_equal(found, decode.decode_image(original, long_side=256).pixels)
    return np.array_equal(found, by_pillow(content))


def decoded_full(content):
    """The same file by the decoder of the streamed feed; None if it is refused."""
    try:
        return full_decode.decode_full(content, size=full_decode.picture_size(content))
    except decode.DamagedImage:
        return None


def resident_bytes():
    return 4096 * int(pathlib.Path("/proc/self/statm").read_text().split()[1])


def run(seed, count):
    """(decoded, refused, JPEGs refused that simplejpeg decodes, most CPU seconds for one file, growth of memory)."""
    rng = np.random.default_rng(seed)
    decoded, refused, too_strict, slowest, early = 0, 0, 0, 0.0, 0
    for number in range(count):
        kind = tuple(ORIGINALS)[number % len(ORIGINALS)]
        original = ORIGINALS[kind][number // len(ORIGINALS) % len(ORIGINALS[kind])]
        content = mutate(rng, original)
        start = time.process_time()
        try:
            found = strict.decode_image(content, long_side=256).pixels
        except decode.DamagedImage as error:
            assert str(error) and "\n" not in str(error)
            found = None
        slowest = max(slowest, time.process_time() - start)
        assert np.array_equal(found, decoded_full(content)) if found is not None else decoded_full(content) is None
        if found is None:
            refused += 1
            too_strict += kind == "jpeg" and strict_jpeg(content) is not None
        else:
            decoded += 1
            assert agrees(kind, content, original, found), f"{kind}, file {number} of seed {seed}"
        if number == count // 5:
            early = resident_bytes()
    return decoded, refused, too_strict, slowest, resident_bytes() - early


def test_mutated_files_are_decoded_or_refused():
    count = int(os.environ.get("SIMCLR_TEST_MUTATED", "2000"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded, refused, too_strict, slowest, growth = run(1, count)
    print(f"{decoded} decoded, {refused} refused, {too_strict} of them JPEGs that simplejpeg takes")
    print(f"slowest {slowest:.3f} s, memory grew by {growth / 1e6:.1f} MB")
    assert min(decoded, refused) > count / 50
    assert too_strict <= count / 50
    assert slowest < 2
    assert growth < 64e6
