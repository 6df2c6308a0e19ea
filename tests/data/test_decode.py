"""Every kind of picture file, made on the fly; the expected pixels are known before encoding."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from simclr_jax import base
from simclr_jax.data import decode, imageset

RED, GREEN = (200, 30, 40), (20, 180, 60)


def _encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _two_halves():
    """24x16, left half red, right half green."""
    image = Image.new("RGB", (24, 16), RED)
    image.paste(GREEN, (12, 0, 24, 16))
    return image


def _png_header(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        # Lossy formats at their best quality: a few levels.
        ("WEBP", {"quality": 100}, 12),
        ("JPEG", {"quality": 100, "subsampling": 0}, 2),
    ],
)
def test_each_allowed_format_decodes(kind, options, tolerance):
    data = _encode(_two_halves(), kind, **options)
    assert decode.image_format(data[:16]) == kind
    assert decode.image_size(data) == (16, 24)
    pixels = decode.decode_image(data, long_side=64)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels[:, 2:10].astype(int) - RED).max() <= tolerance
    assert np.abs(pixels[:, 14:22].astype(int) - GREEN).max() <= tolerance


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PPM", "PDF", "EPS"])
def test_other_formats_never_reach_a_decoder(kind):
    data = _encode(_two_halves(), kind)
    assert decode.image_format(data[:16]) is None
    with pytest.raises(decode.DamagedImage, match="not a JPEG, PNG, WebP or BMP file"):
        decode.decode_image(data, long_side=64)


def test_text_which_begins_like_a_bitmap_is_not_an_image():
    assert decode.image_format(b"BMW drives well.") is None


def test_grey_and_one_bit_become_three_equal_channels():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    pixels = decode.decode_image(_encode(ramp, "PNG"), long_side=64)
    np.testing.assert_array_equal(pixels, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=-1))
    bits = decode.decode_image(_encode(ramp.point(lambda level: 255 * (level > 99), mode="1"), "PNG"), long_side=64)
    np.testing.assert_array_equal(bits.reshape(-1, 3)[[0, 99, 100, 255], 0], [0, 0, 255, 255])


def test_sixteen_bit_grey_keeps_its_high_byte():
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = decode.decode_image(_encode(Image.fromarray(levels), "PNG"), long_side=64)
    np.testing.assert_array_equal(pixels[..., 1].ravel(), np.arange(256))


def test_palette_and_cmyk_become_rgb():
    pixels = decode.decode_image(_encode(_two_halves().quantize(2), "PNG"), long_side=64)
    assert np.abs(pixels[0, 0].astype(int) - RED).max() <= 1
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode.decode_image(_encode(cmyk, "JPEG", quality=100), long_side=64)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (8, 8), (*RED, 0)),
        Image.new("LA", (8, 8), (30, 0)),
    ],
)
def test_transparent_pixels_show_white(image):
    assert (decode.decode_image(_encode(image, "PNG"), long_side=64) == 255).all()


def test_half_transparent_pixels_are_mixed_with_white():
    pixels = decode.decode_image(_encode(Image.new("RGBA", (4, 4), (0, 100, 200, 128)), "PNG"), long_side=64)
    expected = 255 * (1 - 128 / 255) + np.asarray([0, 100, 200]) * 128 / 255
    assert np.abs(pixels - expected).max() <= 1
    palette = _two_halves().quantize(2)
    transparent = _encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert (decode.decode_image(transparent, long_side=64)[0, 0] == 255).all()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise to see it upright
    pixels = decode.decode_image(_encode(_two_halves(), "PNG", exif=exif), long_side=64)
    assert pixels.shape == (24, 16, 3)
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[-1, -1]) == GREEN
    photo = decode.decode_image(_encode(_two_halves(), "JPEG", exif=exif), long_side=64)
    assert photo.shape == (24, 16, 3)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN)]
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    pixels = decode.decode_image(data, long_side=64)
    assert pixels.shape == (16, 16, 3)
    assert (pixels == RED).all()


def test_a_phone_photo_with_a_second_picture_inside_decodes():
    other = Image.new("RGB", (24, 16), GREEN)
    data = _encode(Image.new("RGB", (24, 16), RED), "MPO", save_all=True, append_images=[other])
    assert np.abs(decode.decode_image(data, long_side=64).astype(int) - RED).max() <= 3


def test_a_large_jpeg_is_decoded_reduced_but_twice_as_large_as_needed():
    picture = Image.effect_noise((800, 600), 20).resize((1600, 1200), Image.Resampling.BICUBIC).convert("RGB")
    data = _encode(picture, "JPEG", quality=95)
    reduced = decode.decode_image(data, long_side=100)
    assert reduced.shape == (150, 200, 3)
    fitted, size = imageset.fit_to_canvas(reduced, 100)
    direct, direct_size = imageset.fit_to_canvas(np.asarray(picture), 100)
    assert size == direct_size == (75, 100)
    # Two antialiasing filters one after the other differ slightly from one: a few levels of 255.
    assert np.abs(fitted.astype(int) - direct).mean() <= 1.5
    assert decode.decode_image(data, long_side=500).shape == (1200, 1600, 3)


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (16_385, 8), (8, 16_385), (9000, 9000), (12_000, 9000)]
)
def test_image_bombs_are_refused_by_their_header(width, height):
    with pytest.raises(decode.DamagedImage, match="pixels"):
        decode.decode_image(_png_header(width, height), long_side=64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_damaged_files_are_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _encode(noise, kind)
    for cut in (12, 30, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(decode.DamagedImage):
            decode.decode_image(data[:cut], long_side=64)
    with pytest.raises(decode.DamagedImage, match="empty file"):
        decode.decode_image(b"", long_side=64)


def test_random_damage_never_escapes_as_another_error():
    generator = np.random.default_rng(1)
    originals = [_encode(_two_halves(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    outcomes = {"decoded": 0, "refused": 0}
    for trial in range(200):
        data = bytearray(originals[trial % 4])
        for place in generator.integers(2, len(data), 5):
            data[place] = generator.integers(256)
        try:
            decode.decode_image(bytes(data), long_side=64)
            outcomes["decoded"] += 1
        except decode.DamagedImage as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


def test_embedded_colour_profiles_do_not_disturb():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = decode.decode_image(_encode(_two_halves(), "PNG", icc_profile=profile), long_side=64)
    assert tuple(pixels[0, 0]) == RED


def test_printable_names_stay_on_one_line():
    assert decode.printable("a\nb\r\t\x1b[31m.jpg") == "a\\nb\\r\\t\\x1b[31m.jpg"
    assert decode.printable("größe 猫.png") == "größe 猫.png"
    assert len(decode.printable("x" * 500)) == 80


def _encoded(items):
    """A split whose files are `items`: bytes, or an exception to raise."""

    def read(index):
        if isinstance(items[index], Exception):
            raise items[index]
        return items[index], index

    ids = [f"file{index}" for index in range(len(items))]
    return imageset.Encoded("test", "0" * 64, (), ids, lambda: 16, read)


def _decode(items, max_skipped):
    rows = []
    decoded = decode.decode_split(_encoded(items), rows.append, canvas_size=16, max_skipped=max_skipped, progress=False)
    return decoded, np.concatenate(rows)


def test_decoding_keeps_the_order_whatever_the_threads_do():
    items = [_encode(Image.new("RGB", (8 + i % 9, 16), (i % 256, i // 256, 0)), "PNG") for i in range(700)]
    decoded, rows = _decode(items, 0)
    np.testing.assert_array_equal(rows[:, 0, 0, 0] + 256 * rows[:, 0, 0, 1].astype(int), np.arange(700))
    np.testing.assert_array_equal(decoded.labels, np.arange(700))
    np.testing.assert_array_equal(decoded.sizes, [[16, 8 + i % 9] for i in range(700)])
    assert decoded.images.shape == rows.shape


def test_damaged_files_are_named_and_left_out():
    good = _encode(_two_halves(), "PNG")
    decoded, rows = _decode([good, b"junk", good, good[:60], PermissionError(13, "Permission denied"), good], 0.5)
    assert decoded.ids == ("file0", "file2", "file5")
    np.testing.assert_array_equal(decoded.labels, [0, 2, 5])
    assert len(rows) == 3
    assert [line.partition(":")[0] for line in decoded.skipped] == ["file1", "file3", "file4"]
    assert decoded.skipped[2] == "file4: Permission denied"


@pytest.mark.parametrize(
    ("num_bad", "max_skipped", "fine"),
    [
        (0, 0, True),
        (1, 0, False),
        (1, 0.01, True),
        (2, 0.01, False),
        (2, 0.02, True),
        (50, 0.5, True),
        (51, 0.5, False),
    ],
)
def test_the_quota_is_a_share_of_the_files_rounded_up(num_bad, max_skipped, fine):
    items = [b"junk"] * num_bad + [_encode(Image.new("RGB", (8, 8)), "PNG")] * (100 - num_bad)
    if fine:
        assert len(_decode(items, max_skipped)[0].skipped) == num_bad
        return
    with pytest.raises(base.InputError, match=f"got {num_bad} among the first 100: file0: not a JPEG") as caught:
        _decode(items, max_skipped)
    assert "\n" not in str(caught.value)


def test_a_split_of_damaged_files_only_is_refused():
    with pytest.raises(base.InputError, match="at least one readable image; got 1 damaged ones: file0: empty file"):
        _decode([b""], 1.0)
