"""Every kind of picture file, made on the fly; the expected pixels are known before encoding."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from simclr_jax.data import decode, imageset, kinds

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
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("GIF", {}, 2),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
        ("DIB", {}, 0),
    ],
)
def test_each_allowed_format_decodes(kind, options, tolerance):
    data = _encode(_two_halves(), kind, **options)
    assert kinds.image_format(data[:16]) == kind
    assert decode.image_size(data) == (16, 24)
    pixels = decode.decode_image(data, long_side=64).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels[:, 2:10].astype(int) - RED).max() <= tolerance
    assert np.abs(pixels[:, 14:22].astype(int) - GREEN).max() <= tolerance


@pytest.mark.parametrize("kind", ["ICO", "PPM", "PDF", "EPS", "TGA", "JPEG2000"])
def test_other_formats_never_reach_a_decoder(kind):
    data = _encode(_two_halves(), kind)
    assert kinds.image_format(data[:16]) is None
    with pytest.raises(
        decode.DamagedImage, match=r"not a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file|kind of picture"
    ):
        decode.decode_image(data, long_side=64)


def test_text_which_begins_like_a_bitmap_is_not_an_image():
    assert kinds.image_format(b"BMW drives well.") is None


def test_grey_and_one_bit_become_three_equal_channels():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    pixels = decode.decode_image(_encode(ramp, "PNG"), long_side=64).pixels
    np.testing.assert_array_equal(pixels, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=-1))
    bits = decode.decode_image(
        _encode(ramp.point(lambda level: 255 * (level > 99), mode="1"), "PNG"), long_side=64
    ).pixels
    np.testing.assert_array_equal(bits.reshape(-1, 3)[[0, 99, 100, 255], 0], [0, 0, 255, 255])


@pytest.mark.parametrize(
    ("levels", "kind", "asked"),
    [
        ((np.arange(256) * 257).astype(np.uint16), "PNG", ()),
        ((np.arange(256) * 257).astype(np.uint16), "TIFF", ()),
        ((np.arange(256) * 16).astype(np.uint16), "PNG", (0, 4080)),
        ((np.arange(256) * 257).astype(np.int32), "TIFF", ()),
        ((np.arange(256) * 10 - 1000).astype(np.int32), "TIFF", (-1000, 1550)),
        ((np.arange(256) / 255).astype(np.float32), "TIFF", ()),
        ((np.arange(256) * 2 - 100).astype(np.float32), "TIFF", (-100, 410)),
    ],
)
def test_grey_of_more_than_8_bits_is_scaled_by_its_range(levels, kind, asked):
    data = _encode(Image.fromarray(levels.reshape(16, 16)), kind)
    picture = decode.decode_image(data, long_side=64, rules=imageset.Rules(asked))
    np.testing.assert_array_equal(picture.pixels, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=-1))
    assert picture.levels[:2] == (float(levels.min()), float(levels.max()))


def test_levels_beyond_the_range_are_clipped_and_no_number_is_black():
    levels = np.asarray([[-5.0, 0.0, 1.0, 7.0, np.nan, np.inf]], np.float32).repeat(2, axis=0)
    pixels = decode.decode_image(_encode(Image.fromarray(levels), "TIFF"), long_side=64).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 255, 255, 0, 255])


def test_palette_and_cmyk_become_rgb():
    pixels = decode.decode_image(_encode(_two_halves().quantize(2), "PNG"), long_side=64).pixels
    assert np.abs(pixels[0, 0].astype(int) - RED).max() <= 1
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode.decode_image(_encode(cmyk, "JPEG", quality=100), long_side=64).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (8, 8), (*RED, 0)),
        Image.new("LA", (8, 8), (30, 0)),
    ],
)
def test_transparent_pixels_show_white(image):
    assert (decode.decode_image(_encode(image, "PNG"), long_side=64).pixels == 255).all()


def test_half_transparent_pixels_are_mixed_with_white():
    pixels = decode.decode_image(_encode(Image.new("RGBA", (4, 4), (0, 100, 200, 128)), "PNG"), long_side=64).pixels
    expected = 255 * (1 - 128 / 255) + np.asarray([0, 100, 200]) * 128 / 255
    assert np.abs(pixels - expected).max() <= 1
    palette = _two_halves().quantize(2)
    transparent = _encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert (decode.decode_image(transparent, long_side=64).pixels[0, 0] == 255).all()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise to see it upright
    pixels = decode.decode_image(_encode(_two_halves(), "PNG", exif=exif), long_side=64).pixels
    assert pixels.shape == (24, 16, 3)
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[-1, -1]) == GREEN
    photo = decode.decode_image(_encode(_two_halves(), "JPEG", exif=exif), long_side=64).pixels
    assert photo.shape == (24, 16, 3)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = decode.decode_image(
        _encode(frames[0], kind, save_all=True, append_images=frames[1:], **options), long_side=64
    )
    assert picture.pixels.shape == (16, 16, 3)
    assert (picture.pixels == RED).all()
    assert picture.has_more
    assert not decode.decode_image(_encode(frames[0], kind, **options), long_side=64).has_more


def test_a_phone_photo_with_a_second_picture_inside_decodes():
    other = Image.new("RGB", (24, 16), GREEN)
    data = _encode(Image.new("RGB", (24, 16), RED), "MPO", save_all=True, append_images=[other])
    picture = decode.decode_image(data, long_side=64)
    assert np.abs(picture.pixels.astype(int) - RED).max() <= 3
    assert not picture.has_more  # the second one is a preview or a depth map


def test_a_large_jpeg_is_decoded_reduced_but_twice_as_large_as_needed():
    picture = Image.effect_noise((800, 600), 20).resize((1600, 1200), Image.Resampling.BICUBIC).convert("RGB")
    data = _encode(picture, "JPEG", quality=95)
    reduced = decode.decode_image(data, long_side=100).pixels
    assert reduced.shape == (150, 200, 3)
    fitted, size = imageset.fit_to_canvas(reduced, 100)
    direct, direct_size = imageset.fit_to_canvas(np.asarray(picture), 100)
    assert size == direct_size == (75, 100)
    # Two antialiasing filters one after the other differ slightly from one: a few levels of 255.
    assert np.abs(fitted.astype(int) - direct).mean() <= 1.5
    assert decode.decode_image(data, long_side=500).pixels.shape == (1200, 1600, 3)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (9000, 9000), (12_000, 9000), (10**6, 100)])
def test_image_bombs_are_refused_by_their_header(width, height):
    with pytest.raises(decode.DamagedImage, match=r"megapixels, above 32 for PNG \(shrink it, or raise max_megapixels"):
        decode.decode_image(_png_header(width, height), long_side=64)


def test_the_limit_of_pixels_can_be_moved_both_ways():
    strip = _encode(Image.new("L", (50_000, 20)), "PNG")  # one megapixel: a long side alone is no bomb
    assert decode.decode_image(strip, long_side=64).pixels.shape == (20, 50_000, 3)
    with pytest.raises(decode.DamagedImage, match="50000x20 are 1 megapixels, above 0 for PNG"):
        decode.decode_image(strip, long_side=64, rules=imageset.Rules(max_megapixels=0.4))
    bomb = _png_header(12_000, 9000)
    with pytest.raises(decode.DamagedImage, match="damaged or truncated"):  # its header is let through
        decode.decode_image(bomb, long_side=64, rules=imageset.Rules(max_megapixels=200))


def _jpeg_of_size(width, height):
    """A small grey JPEG whose header claims another size, as a bomb's does; its data end early."""
    data = bytearray(_encode(Image.new("L", (16, 16), 99), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_a_large_jpeg_passes_the_header_and_a_bomb_does_not():
    assert decode.image_size(_jpeg_of_size(16_320, 12_240)) == (12_240, 16_320)
    with pytest.raises(decode.DamagedImage, match="4290 megapixels, above 256 for JPEG"):
        decode.image_size(_jpeg_of_size(65_500, 65_500))


def test_a_jpeg_of_108_megapixels_is_decoded_reduced():
    picture = Image.new("L", (12_000, 9000), 40)
    picture.paste(200, (6000, 0, 12_000, 9000))
    pixels = decode.decode_image(_encode(picture, "JPEG", quality=50), long_side=256).pixels
    assert pixels.shape == (1125, 1500, 3)
    assert abs(int(pixels[500, 700, 0]) - 40) <= 2 and abs(int(pixels[500, 800, 0]) - 200) <= 2


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
    originals = [_encode(_two_halves(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "DIB")]
    outcomes = {"decoded": 0, "refused": 0}
    for trial in range(200):
        data = bytearray(originals[trial % 8])
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
    pixels = decode.decode_image(_encode(_two_halves(), "PNG", icc_profile=profile), long_side=64).pixels
    assert tuple(pixels[0, 0]) == RED


def _tiff(num_channels, order="<"):
    """A 5x4 TIFF without compression, 8 bits a channel."""
    pixels = bytes(range(20 * num_channels))
    bits = struct.pack(f"{order}{num_channels}H", *[8] * num_channels)
    entries = [
        (256, 5),
        (257, 4),
        (258, None),
        (259, 1),
        (262, 2),
        (273, 8),
        (277, num_channels),
        (278, 4),
        (279, len(pixels)),
    ]
    end = 8 + len(pixels) + 2 + 12 * len(entries) + 4
    made = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(pixels)) + pixels
    made += struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        if value is None:
            made += struct.pack(f"{order}HHII", tag, 3, num_channels, end)
        else:
            made += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    return made + bytes(4) + bits


@pytest.mark.parametrize("order", ["<", ">"])
def test_channels_beyond_rgb_are_not_dropped_in_silence(order, capfd):
    assert decode.decode_image(_tiff(3, order), long_side=64).pixels[0, 1].tolist() == [3, 4, 5]
    for count in (5, 6, 12):
        with pytest.raises(decode.DamagedImage, match=f"{count} channels"):
            decode.decode_image(_tiff(count, order), long_side=64)
    assert capfd.readouterr().err == ""
