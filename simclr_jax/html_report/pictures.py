"""Pictures made of images: contact sheets, thumbnails, a map of thumbnails. Pillow only; bytes or Pillow images out."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simclr_jax import base

if TYPE_CHECKING:
    from PIL import Image

_PAPER, _INK, _MUTED = (255, 255, 255), (29, 35, 42), (107, 117, 128)
_CELL = 128
_SMALL = 64


def contact_sheet(
    images: np.ndarray,
    *,
    scale: float | None = None,
    padding: int = 8,
    captions: Sequence[str] | None = None,
    title: str | None = None,
) -> "Image.Image":
    """A grid of images on white, one row per example, with a caption over every column: an RGB Pillow image.

    Args:
        images: uint8 [M, K, h, w, 3]; column 0 is the original and columns 1..K-1 are its views, unless `captions`
            says otherwise.
        scale: size of a picture relative to its pixels. None: about 128 px a side, by a whole factor if enlarged.
            Enlarged pictures keep hard pixel edges.
        padding: white space between pictures in px.
        captions: K column names; None: "original", "view 1", "view 2", ...
        title: a line above the sheet.

    Raises:
        InputError: if the images are not uint8 [M, K, h, w, 3] with at least one image, or captions do not fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = _checked_sheet(images)
    rows, columns, height, width = images.shape[:4]
    captions = list(captions or ["original", *(f"view {index}" for index in range(1, columns))])
    if len(captions) != columns:
        raise base.InputError(f"captions must name every column; got {len(captions)} for {columns}. Add or drop some.")
    scale = _default_scale(max(height, width)) if scale is None else scale
    cell_w, cell_h = max(1, round(width * scale)), max(1, round(height * scale))
    margin = 3 * padding
    font_size = max(11, min(20, cell_w // 8))
    font, title_font = ImageFont.load_default(font_size), ImageFont.load_default(font_size + 5)
    # The originals stand apart from what was made of them.
    gap = 2 * padding if columns > 1 else 0
    top = margin + (2 * font_size + 10 if title else 0) + font_size + padding
    sheet_w = 2 * margin + columns * cell_w + (columns - 1) * padding + gap
    if title:
        sheet_w = max(sheet_w, 2 * margin + int(title_font.getlength(title)))
    sheet = Image.new("RGB", (sheet_w, top + rows * (cell_h + padding) - padding + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin - 4), title, fill=_INK, font=title_font)
    for column, caption in enumerate(captions):
        left = margin + column * (cell_w + padding) + (gap if column else 0)
        draw.text((left, top - padding), _fitted(caption, font, cell_w), fill=_MUTED, font=font, anchor="ls")
        for row in range(rows):
            picture = _resized(images[row, column], (cell_w, cell_h))
            sheet.paste(picture, (left, top + row * (cell_h + padding)))
    return sheet


def data_uri(image: np.ndarray, *, max_side: int = 112) -> str:
    """The image as a `data:` address: PNG at its own size if small, else a JPEG of at most `max_side` px."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    if max(picture.size) <= _SMALL:
        return encoded(picture, "PNG")
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return encoded(picture, "JPEG")


def encoded(picture: "Image.Image", kind: str) -> str:
    """A Pillow image as a `data:` address; kind is "PNG" or "JPEG"."""
    buffer = io.BytesIO()
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def image_map(
    positions: np.ndarray, images: np.ndarray, *, width: int = 1080, cell: int | None = None
) -> "Image.Image":
    """Thumbnails laid out where their rows lie on a plane: an RGBA Pillow image, transparent where there is nothing.

    Every cell of a grid shows the image nearest to its centre, so that none covers another.

    Args:
        positions: float [n, 2].
        images: uint8 [n, h, w, 3].
        width: of the picture in px.
        cell: side of a thumbnail in px; None for 36, and for twice that below 200 images.
    """
    from PIL import Image

    cell = cell or (36 if len(images) >= 200 else 72)
    # A few stray points must not squeeze all others into a corner: they are moved to the edge.
    low, high = np.quantile(positions, [0.01, 0.99], axis=0)
    unit = np.clip((positions - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    columns = width // cell
    rows = max(1, round(columns * 0.6))
    place = np.stack([unit[:, 0] * (columns - 1), (1 - unit[:, 1]) * (rows - 1)], axis=1)
    cells = np.rint(place).astype(int)
    distance = np.abs(place - cells).sum(axis=1)
    sheet = Image.new("RGBA", (columns * cell, rows * cell), (0, 0, 0, 0))
    taken: set[tuple[int, int]] = set()
    for index in np.argsort(distance, kind="stable"):
        column, row = (int(value) for value in cells[index])
        if (column, row) not in taken:
            taken.add((column, row))
            sheet.paste(_resized(images[index], (cell - 2, cell - 2)), (column * cell + 1, row * cell + 1))
    return sheet


def _checked_sheet(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise base.InputError(
            f"a contact sheet needs uint8 images [M, K, h, w, 3]; got {images.dtype} {images.shape}."
            " Stack originals and views along axis 1."
        )
    return images


def _default_scale(side: int) -> float:
    return max(1, round(_CELL / side)) if side < _CELL else _CELL / side


def _resized(image: np.ndarray, size: tuple[int, int]) -> "Image.Image":
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    enlarged = size[0] >= picture.width
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _fitted(text: str, font: "object", width: int) -> str:
    """The text, cut with three dots where it would not fit the width in px."""
    length = font.getlength  # type: ignore[attr-defined]
    if length(text) <= width:
        return text
    while text and length(text + "...") > width:
        text = text[:-1]
    return text + "..."
