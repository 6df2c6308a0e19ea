"""What a file is called by its first bytes and its name."""

import pytest

from simclr_jax.data import kinds

FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page (HTML) instead of a picture"),
        (b"<html><head><title>403", "web page (HTML) instead of a picture"),
        (b'{"error": "not found"}', "JSON or XML"),
        (b"<?xml version='1.0'?><Error>", "JSON or XML"),
        (FTYP + b"heic\0\0\0\0mif1heic", "HEIC, a kind of picture that is not read (convert it"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"P5\n64 64\n255\n", "PPM"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"<?xml version='1.0'?><svg xmlns=", "SVG"),
        (b"PK\3\4", "archive (unpack it)"),
        (bytes(200), "zeros only"),
        (b"hello", "not a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file"),
    ],
)
def test_a_file_that_is_not_read_is_called_what_it_is(head, said):
    assert kinds.image_format(head) is None
    assert said in kinds.why_not_read(head)


@pytest.mark.parametrize(
    ("name", "head", "sort"),
    [
        ("a.jpg", b"", "image"),
        ("a.TIFF", b"", "image"),
        ("a", b"II*\0" + bytes(12), "image"),
        ("a", b"II+\0" + bytes(12), "image"),
        # A raw file is built like a TIFF: what a decoder would show is its thumbnail.
        ("a.NEF", b"II*\0" + bytes(12), "unread picture"),
        ("a.heic", b"", "unread picture"),
        ("a", FTYP + b"heic\0\0\0\0", "unread picture"),
        ("a", FTYP + b"mif1\0\0\0\0mif1avif", "image"),
        ("a.zip", b"PK\3\4", "archive"),
        ("a.txt", b"BM is not enough", "other"),
        ("a.txt", b"", "other"),
    ],
)
def test_files_are_sorted_by_name_and_then_by_content(name, head, sort):
    assert kinds.sort_of(name, head) == sort
