"""No picture takes more than 300 MB or two seconds: the largest that is read, and those made to cost more.

Each is decoded in a process of its own, whose peak of memory is read.
"""

import io
import json
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from simclr_jax.data import decode

ROOT = pathlib.Path(__file__).parents[2]
MOST_MEGABYTES, MOST_SECONDS = 300, 2.0
# Of each file in its own fork: [why it was refused or "", seconds of CPU, MB above what the process had before].
MEASURE = """
import json, os, resource, sys, time
from PIL import Image
from simclr_jax.data import decode, strict
Image.init()
def megabytes():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
for path in sys.argv[1:]:
    if os.fork() == 0:
        content, said = open(path, "rb").read(), ""
        before, start = megabytes(), time.process_time()
        try:
            strict.decode_image(content, long_side=256)
        except decode.DamagedImage as error:
            said = str(error)
        print(json.dumps([said, time.process_time() - start, megabytes() - before]), flush=True)
        os._exit(0)
    os.wait()
"""


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def largest(kind):
    """(width, height) of about as many pixels as are read of a kind."""
    return 8000, decode._MAX_PIXELS_OF[kind] // 8000 - 1


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunks(number):
    """A PNG with many small chunks of text."""
    plain = encoded(Image.new("RGB", (600, 600)), "PNG")
    return plain[:33] + chunk(b"tEXt", b"a\0b") * number + plain[33:]


def with_scans(number, size):
    """A progressive JPEG whose last scan is there many times."""
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    plain = encoded(Image.fromarray(noise), "JPEG", progressive=True)
    at, end = plain.rfind(b"\xff\xda"), plain.rfind(b"\xff\xd9")
    return plain[:end] + plain[at:end] * number + plain[end:]


def animated():
    frames = [Image.new("P", (3000, 3000), number) for number in range(20)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


PICTURES = {
    "png_rgba": lambda: encoded(Image.new("RGBA", largest("PNG"), (1, 2, 3, 4)), "PNG"),
    "png_16": lambda: encoded(Image.fromarray(np.zeros(largest("PNG")[::-1], np.uint16)), "PNG"),
    "webp_lossless": lambda: encoded(Image.new("RGBA", largest("WEBP"), (1, 2, 3, 4)), "WEBP", lossless=True),
    "webp": lambda: encoded(Image.linear_gradient("L").resize(largest("WEBP")).convert("RGB"), "WEBP"),
    "gif": lambda: encoded(Image.new("P", largest("GIF")), "GIF"),
    "gif_frames": animated,
    "tiff": lambda: encoded(Image.new("RGB", largest("TIFF")), "TIFF", compression="tiff_adobe_deflate"),
    "tiff_16": lambda: encoded(
        Image.fromarray(np.zeros(largest("TIFF")[::-1], np.uint16)), "TIFF", compression="tiff_adobe_deflate"
    ),
    "bmp": lambda: encoded(Image.new("RGB", (6000, 6000)), "BMP"),
    "jpeg": lambda: encoded(Image.new("RGB", (16000, 15900), (90, 2, 3)), "JPEG"),
    "jpeg_cmyk": lambda: encoded(Image.new("CMYK", largest("CMYK JPEG"), (9, 2, 3, 4)), "JPEG"),
    "jpeg_progressive": lambda: encoded(Image.new("RGB", largest("progressive JPEG")), "JPEG", progressive=True),
    "jpeg_scans": lambda: with_scans(3000, (700, 700)),
    "jpeg_scans_small": lambda: with_scans(20000, (40, 40)),
    "png_chunks": lambda: with_chunks(100_000),
    **({"avif": lambda: encoded(Image.new("RGB", largest("AVIF")), "AVIF")} if features.check("avif") else {}),
}


@pytest.mark.parametrize("names", [("webp_lossless", "jpeg_scans_small"), pytest.param(tuple(PICTURES), marks=pytest.mark.slow)])
def test_no_picture_takes_more_than_is_allowed(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(PICTURES[name]())
    paths = [str(tmp_path / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))
    for name, (said, seconds, megabytes) in found.items():
        print(f"{name}: {seconds:.2f} s, {megabytes:.0f} MB {said}")
    assert all(seconds < MOST_SECONDS and megabytes < MOST_MEGABYTES for _, seconds, megabytes in found.values()), found
    assert all(bool(said) == ("scans" in name) for name, (said, *_) in found.items()), found
