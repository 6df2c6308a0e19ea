"""Many small pictures in few files: sheets of equal cells, as WebP, that a page loads when it shows one of them."""

import io
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_QUALITY = 80


class Sheets(NamedTuple):
    """`num` sheets of `pictures` cells each, in rows of `columns`, of `side` pixels; the last one may have fewer.

    read: number of a sheet -> its file. sizes: uint8 [N, 2], height and width of every picture in its cell's corner.
    """

    side: int
    columns: int
    pictures: int
    num: int
    sizes: np.ndarray
    read: Callable[[int], bytes]


def make_sheets(
    count: int,
    draw: Callable[[range], list[np.ndarray]],
    *,
    side: int,
    folder: pathlib.Path | None,
    tell: Callable[[int], None] = lambda done: None,
) -> Sheets:
    """Sheets of so many pictures.

    Args:
        count: N.
        draw: a range of pictures -> uint8 [h, w, 3] each, of which `side` pixels are shown; asked for one sheet after
            another.
        side: of a cell, up to 255 pixels.
        folder: for files `sheet-NUMBER.webp`; None to hold them in memory.
        tell: called with the number of pictures that are done.
    """
    columns = min(max(1, 1600 // side), 24, math.ceil(math.sqrt(max(count, 1))))
    pictures = columns * columns
    sizes = np.zeros((count, 2), np.uint8)
    held: list[bytes] = []
    for number, start in enumerate(range(0, count, pictures)):
        rows = range(start, min(start + pictures, count))
        shots = [shot[:side, :side] for shot in draw(rows)]
        sizes[rows.start : rows.stop] = [shot.shape[:2] for shot in shots]
        content = _encode(shots, side, columns)
        if folder is None:
            held.append(content)
        else:
            (folder / f"sheet-{number}.webp").write_bytes(content)
        tell(rows.stop)

    def read(number: int) -> bytes:
        return held[number] if folder is None else (folder / f"sheet-{number}.webp").read_bytes()

    return Sheets(side, columns, pictures, math.ceil(count / pictures), sizes, read)


def _encode(shots: list[np.ndarray], side: int, columns: int) -> bytes:
    from PIL import Image

    lines = math.ceil(len(shots) / columns)
    sheet = np.full((lines * side, columns * side, 3), 127, np.uint8)
    for place, shot in enumerate(shots):
        top, left = side * (place // columns), side * (place % columns)
        # The edge is continued, so that nothing grey is blended in where a picture is shown larger.
        padded = np.pad(shot, ((0, side - shot.shape[0]), (0, side - shot.shape[1]), (0, 0)), mode="edge")
        sheet[top : top + side, left : left + side] = padded
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "WEBP", quality=_QUALITY, method=2)
    return stream.getvalue()
