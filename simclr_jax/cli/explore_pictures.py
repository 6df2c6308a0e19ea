"""The pictures of `simclr-jax explore`: sheets of them, and their pixels as features of a space of their own."""

import concurrent.futures
import os
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax import base, html_report, retrieval, units
from simclr_jax.run import feature_file, progress, thumbnails

_SECONDS = 5.0
_SAMPLE = 50
_MANY = 100_000  # from here on an approximate index, and fewer pixels


class Drawn(NamedTuple):
    """The pictures as sheets, and as pixels.

    sheets: None if of a sample no picture can be read. pixels: float16 [N, d]. lost: how many cannot be read.
    """

    sheets: html_report.Sheets | None
    pixels: np.ndarray
    lost: int


def default_side(count: int) -> int:
    """Pixels of a thumbnail, so that a page of so many stays small."""
    return 128 if count <= 1000 else 96 if count <= 5000 else 64


def draw_sheets(embedding: feature_file.Embedding, *, side: int, folder: pathlib.Path | None) -> Drawn:
    """All pictures, read once more from where they lie.

    Args:
        embedding: the pictures. side: of a thumbnail, pixels. folder: for the sheets' files; None to hold them.
    """
    count = len(embedding.names)
    small = 16 if count <= _MANY else 8
    rows = np.zeros((count, small * small * 3), np.float16)
    # Of the sizes that the pictures had when they were embedded; one that has grown since is shrunk to it.
    longest = int(embedding.sizes.max()) if embedding.sizes.size else side
    cell = max(8, min(side, longest))
    draw = thumbnails.open_thumbnails(embedding, side=cell)
    sample = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int)).tolist()
    if all(draw(row) is None for row in sample):
        return Drawn(None, rows, count)
    lost = 0
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata

        def draw_some(wanted: range) -> list[np.ndarray]:
            nonlocal lost
            shots = list(pool.map(draw, wanted))
            lost += sum(shot is None for shot in shots)
            found = [thumbnails.gone(8) if shot is None else shot for shot in shots]
            for row, shot in zip(wanted, found, strict=True):
                rows[row] = thumbnails.squeeze(shot, side=small)
            return found

        sheets = html_report.make_sheets(count, draw_some, side=cell, folder=folder, tell=_teller(count))
    return Drawn(sheets, rows, lost)


def _teller(count: int) -> Callable[[int], None]:
    """Says now and then how many pictures are done."""
    meter, said = progress.Meter(done=0, total=count), time.perf_counter()

    def tell(done: int) -> None:
        nonlocal said
        if time.perf_counter() - said >= _SECONDS:
            rate, left = meter.read(done)
            said = time.perf_counter()
            progress.say(f"{done} of {count} pictures drawn  {rate:.0f} pictures/s  left {units.duration(round(left))}")

    return tell


def texts_of(embedding: feature_file.Embedding) -> list[str]:
    """What is written about every picture of a `pairs:` set, its texts a line each; [] for other pictures."""
    if not str(embedding.meta["images"]).startswith("pairs:"):
        return []
    try:
        pictures = thumbnails.open_source(embedding)
    except (base.InputError, OSError) as error:
        progress.say(f"The page goes without captions: {base.one_line(error, 200)}")
        return []
    known = dict(zip(pictures.ids, pictures.texts, strict=True))
    return ["\n".join(known.get(name, ())) for name in embedding.names]


def find_near(features: np.ndarray, *, k: int, title: str) -> html_report.Near:
    """The k nearest others of every row: exact up to 100,000 rows, else by an index.

    Raises:
        base.InputError: an index is needed and usearch is missing.
    """
    if len(features) <= _MANY:
        similarities, rows = retrieval.search_others(features, k=k)
        return html_report.Near(title, rows, similarities)
    index = retrieval.build_index(features)
    found = [index.search(features[start : start + _MANY], k=k + 1) for start in range(0, len(features), _MANY)]
    similarities, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    similarities, rows = retrieval.without_self(similarities, rows)
    return html_report.Near(f"{title} (approximate)", rows, similarities)


def centred(pixels: np.ndarray) -> np.ndarray:
    """Pixels [N, d] without the mean picture, so that brightness alone makes no two alike; float16."""
    mean = np.zeros(pixels.shape[1])
    for start in range(0, len(pixels), 16384):
        mean += pixels[start : start + 16384].sum(axis=0, dtype=np.float64)
    return pixels - (mean / max(len(pixels), 1)).astype(np.float16)
