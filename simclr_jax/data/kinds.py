"""Which kind of file this is, by its first bytes: pictures that are read, other pictures, and what is none.

Only the formats of `READ` ever reach a decoder. The rest is known by name, so that a message can say what a file is
and what to do about it instead of that it is "not an image".
"""

import os
import struct

HEAD_BYTES = 256  # enough for every signature below
READ = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF")
READ_NAMES = "JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF"
READ_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .pjpeg .png .apng .webp .bmp .dib .tif .tiff .gif .avif".split()  # noqa: SIM905
)
CONVERT = "find FOLDER -iname '*{ending}' -exec magick mogrify -format png {{}} +"

_UNREAD_ENDINGS = {
    ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".jxl": "JPEG XL", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000",
    ".jpx": "JPEG 2000", ".psd": "Photoshop", ".xcf": "GIMP", ".svg": "SVG", ".svgz": "SVG", ".pdf": "PDF",
    ".eps": "EPS", ".ai": "Illustrator", ".ico": "icon", ".ppm": "PPM", ".pgm": "PGM", ".pbm": "PBM", ".pnm": "PNM",
    ".pam": "PAM", ".pfm": "PFM", ".tga": "TGA", ".exr": "OpenEXR", ".hdr": "Radiance", ".dcm": "DICOM",
    ".dicom": "DICOM", ".nii": "NIfTI", ".mha": "MetaImage", ".czi": "CZI", ".lif": "LIF", ".svs": "slide",
    ".ndpi": "slide", ".mrxs": "slide", ".fits": "FITS", ".qoi": "QOI", ".pcx": "PCX", ".sgi": "SGI", ".ras": "RAS",
    ".wmf": "WMF", ".emf": "EMF", ".jxr": "JPEG XR", ".dds": "DDS",
    **dict.fromkeys(
        ".dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f .3fr .erf .kdc .mrw .iiq .raw".split(),  # noqa: SIM905, E501
        "camera raw",
    ),
}  # fmt: skip
_ARCHIVE_ENDINGS = frozenset(".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .tfrecord .parquet .npz .h5 .lmdb".split())  # noqa: SIM905
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Header sizes of a Windows bitmap.
_BITMAP_HEADERS = (40, 52, 56, 64, 108, 124)


def image_format(head: bytes) -> str | None:
    """A name of `READ` by the first bytes of a file (16 or more); None for everything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    # "BM" alone also begins ordinary text; the four reserved bytes are zero in every real bitmap.
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "BMP"
    # The same without its file header: its own size, then one plane at a usual number of bits.
    if int.from_bytes(head[:4], "little") in _BITMAP_HEADERS and head[12:14] == b"\1\0" and head[15:16] == b"\0":
        return "DIB" if head[14:15] in (b"\1", b"\4", b"\10", b"\20", b"\30", b"\40") else None
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[4:8] == b"ftyp" and (head[8:12] in (b"avif", b"avis") or b"avif" in _brands(head)):
        return "AVIF"
    return None


def _brands(head: bytes) -> list[bytes]:
    """The compatible brands of a file of ISO boxes."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[at : at + 4] for at in range(16, end, 4)]


def tiff_channels(data: bytes) -> int:
    """Samples of a pixel by a TIFF's first directory; 0 where it does not tell (BigTIFF, damage)."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        magic, start = struct.unpack_from(f"{order}HI", data, 2)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * min(count, 256), 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", data, place)
            if magic == 42 and (tag, kind) == (277, 3):
                return int(value)
    except struct.error:
        pass
    return 0


def other_kind(head: bytes) -> str | None:
    """What a file that is not read is, for a message, with what to do about it; None where its bytes do not tell."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer instead of the picture (run: git lfs pull)"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML) instead of a picture: a failed download"
    if text.startswith((b"{", b"[")) or (text.startswith(b"<?xml") and b"<svg" not in text):
        return "text (JSON or XML) instead of a picture: a failed download"
    known = _unread_picture(head)
    if known:
        return f"{known}, a kind of picture that is not read (convert it to PNG or JPEG)"
    if head.startswith((b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")):
        return "an archive (unpack it)"
    if head and not head.strip(b"\0"):
        return "zeros only: a copy or download that was cut short"
    return None


def _unread_picture(head: bytes) -> str | None:
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "HEIC"
    if head[:2] == b"\xff\x0a" or head[4:8] == b"JXL ":
        return "JPEG XL"
    if head[4:8] == b"jP  " or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG 2000"
    if head[:4] in (b"8BPS", b"%PDF"):
        return "Photoshop" if head[:1] == b"8" else "PDF"
    if head[128:132] == b"DICM":
        return "DICOM"
    if b"<svg" in head[:HEAD_BYTES].lower():
        return "SVG"
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3] in b"\n\r\t " and len(head) > 2:
        return "PPM"
    if head[:4] == b"\x76\x2f\x31\x01":
        return "OpenEXR"
    return None


def why_not_read(head: bytes) -> str:
    """The reason why a file with these first bytes is no picture for us."""
    return other_kind(head) or f"not a {READ_NAMES} file"


def sort_of(name: str, head: bytes) -> str:
    """One of "image", "unread picture", "archive", "other" for a file by its name and, where that is no help, `head`.

    A camera's raw file is built like a TIFF, which would show its thumbnail: there the ending decides.
    """
    ending = os.path.splitext(name)[1].lower()
    if ending in READ_ENDINGS:
        return "image"
    if ending in _UNREAD_ENDINGS:
        return "unread picture"
    if image_format(head):
        return "image"
    if _unread_picture(head):
        return "unread picture"
    return "archive" if ending in _ARCHIVE_ENDINGS else "other"


def kind_name(ending: str) -> str:
    """How a kind of picture that is not read is called, by its file ending."""
    return _UNREAD_ENDINGS.get(ending, "unknown")
