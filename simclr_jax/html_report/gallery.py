"""A page of pictures in rows, with plots and tables between them: what search, duplicates and their like show."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_jax import atomic_files
from simclr_jax.html_report import pictures


@dataclasses.dataclass(frozen=True)
class Shot:
    """A picture, uint8 [h, w, 3], with what stands below it; a frame and a tick or a cross where `right` is known."""

    image: np.ndarray
    caption: str = ""
    right: bool | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """Pictures beside each other, below a line that says what they are."""

    title: str
    shots: Sequence[Shot]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a note, a plot (SVG drawn by this package), a table with its head first, rows."""

    title: str
    note: str = ""
    svg: str = ""
    svg_label: str = ""
    table: Sequence[Sequence[str]] = ()
    rows: Sequence[Row] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A page: title, a sentence in larger letters, and sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def write_gallery(gallery: Gallery, path: str | os.PathLike[str]) -> None:
    """Writes the page as one HTML file that loads nothing from anywhere.

    Raises:
        base.InputError: it cannot be written.
    """
    import jinja2

    loader = jinja2.PackageLoader("simclr_jax", "html_report")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Environment(loader=loader, autoescape=True, **options).get_template("gallery.html.j2")
    page = template.render(gallery=gallery, uri=lambda image: pictures.data_uri(image, max_side=160))
    atomic_files.write_text(path, page)
