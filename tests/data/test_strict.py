"""Strict decoding: the same pixels as ever from whole files, and no picture from damaged ones."""

import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data
from simclr_jax.data import decode, imageset, strict
from tests.data.prepare import makers

simplejpeg = pytest.importorskip("simplejpeg")


def decoded(content, long_side=256):
    return strict.decode_image(content, long_side=long_side).pixels


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 95, "subsampling": 0},
        {"progressive": True},
        {"optimize": True, "restart_marker_rows": 1},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"size": (1100, 700)},  # reduced
        {"size": (1, 1)},
        {"size": (3000, 2)},
    ],
)
def test_whole_jpegs_have_the_pixels_that_pillow_gives(options):
    content = makers.picture(3, **options)
    np.testing.assert_array_equal(decoded(content), decode.decode_image(content, long_side=256).pixels)
    strict.check(content)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_kinds_too(kind):
    content = makers.picture(4, kind=kind)
    np.testing.assert_array_equal(decoded(content), decode.decode_image(content, long_side=256).pixels)
    strict.check(content)


def test_rotation_by_exif_is_kept():
    image = Image.open(io.BytesIO(makers.picture(5)))
    exif = image.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    assert decoded(stream.getvalue()).shape == (40, 30, 3)


def even(kind, *, size=(640, 480), noise=0, **options):
    """A picture of one colour, with so many rows of noise at its lower end."""
    pixels = np.full((size[1], size[0], 3), (90, 200, 3), np.uint8)
    pixels[size[1] - noise :] = np.random.default_rng(0).integers(0, 256, (noise, size[0], 3))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue(), pixels


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("noise", [0, 100])
def test_large_areas_of_one_colour_are_no_damage(kind, noise):
    """A WebP of them holds long runs of zeros, as one that has lost a block does."""
    options = {"WEBP": {"quality": 100, "method": 0}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    content, pixels = even(kind, noise=noise, **options)
    assert (bytes(256) in content) >= (kind == "WEBP")
    assert np.abs(decoded(content).astype(int) - pixels)[:-128].max() <= 4
    strict.check(content)


@pytest.mark.parametrize("options", [{"quality": 75}, {"quality": 100, "method": 0}])
def test_a_webp_that_has_lost_a_block_is_refused_wherever_that_is(options):
    content, _ = even("WEBP", size=(400, 300), noise=200, **options)
    for at in range(512, len(content) - 512, len(content) // 16 // 512 * 512 or 512):
        with pytest.raises(decode.DamagedImage):
            decoded(content[:at] + bytes(512) + content[at + 512 :])


@pytest.mark.parametrize("options", [{"quality": 95}, {"kind": "PNG"}, {"kind": "WEBP", "lossless": True}])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_a_lost_block_in_the_middle_is_noticed(options, at):
    content = makers.picture(6, size=(300, 200), **options)
    assert len(content) > 2000
    with pytest.raises(decode.DamagedImage, match="damaged"):
        decoded(makers.zeroed(content, at=at, length=512))
    with pytest.raises(decode.DamagedImage, match="damaged"):
        strict.check(makers.zeroed(content, at=at, length=512))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(kind):
    content = makers.picture(7, size=(300, 200), kind=kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(decode.DamagedImage):
            decoded(content[: int(share * len(content))])


def png_of(width, height, rows):
    """A PNG that says it is width x height."""

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def bomb_jpeg():
    """A progressive JPEG of 3,000 scans of 64 megapixels: some hundred kilobytes that would take minutes."""
    content = makers.picture(8, size=(64, 64), progressive=True)
    at = content.index(b"\xff\xc2")
    content = content[: at + 5] + (8000).to_bytes(2, "big") * 2 + content[at + 9 :]
    first = content.index(b"\xff\xda")
    second = content.index(b"\xff\xda", first + 2)
    return content[:-2] + 3000 * content[first:second] + content[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: png_of(60000, 60000, bytes(10**6)), "megapixels"),
        (lambda: png_of(5000, 5000, bytes(10**6)), "damaged"),
        (bomb_jpeg, "scans"),
        (lambda: b"\xff\xd8\xff" + bytes(10**6), "damaged"),
    ],
)
def test_bombs_are_refused_at_once(content, reason):
    made = content()
    start = time.monotonic()
    with pytest.raises(decode.DamagedImage, match=reason):
        decoded(made)
    assert time.monotonic() - start < 2


def test_the_limit_of_megapixels_is_asked_before_decoding():
    content = makers.picture(9, size=(300, 200))
    with pytest.raises(decode.DamagedImage, match="megapixels"):
        strict.decode_image(content, long_side=64, rules=imageset.Rules(max_megapixels=0.05))


def test_a_folder_with_a_lost_block_is_named_and_left_out(tmp_path):
    makers.class_folders(tmp_path)
    lost = makers.zeroed(makers.picture(6, size=(300, 200), quality=95), length=512)
    (tmp_path / "train/ant/lost.jpg").write_bytes(lost)
    # Without strictness it is a picture like any other.
    assert decode.decode_image(lost, long_side=256).pixels.shape == (200, 300, 3)
    settings = {"cache_dir": "", "progress": False, "canvas_size": 40}
    loaded = data.load_split(f"folder:{tmp_path}", "train", max_corrupt_fraction=0.1, **settings)
    assert len(loaded.ids) == 12 and loaded.skipped[0].startswith("train/ant/lost.jpg: damaged or truncated")
    with pytest.raises(base.InputError, match=r"at most 0 of 13 .* train/ant/lost.jpg"):
        data.load_split(f"folder:{tmp_path}", "train", max_corrupt_fraction=0.0, **settings)


def test_without_simplejpeg_it_is_said_that_less_is_noticed(tmp_path, monkeypatch):
    makers.class_folders(tmp_path)
    monkeypatch.setattr(strict, "is_available", lambda: False)
    loaded = data.load_split(f"folder:{tmp_path}", "train", cache_dir="", progress=False, canvas_size=40)
    assert len(loaded.ids) == 12 and "not noticed without simplejpeg" in loaded.warnings[-1]
