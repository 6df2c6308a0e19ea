"""The report of a run: plain values in, one self-contained HTML file out; and the picture sheets `preview` writes."""

from simclr_jax.page.figures import map_2d
from simclr_jax.page.html import Confusion, Embedding, Neighbors, ReportContents, render_report, write_report
from simclr_jax.page.pictures import contact_sheet

__all__ = [
    "Confusion",
    "Embedding",
    "Neighbors",
    "ReportContents",
    "contact_sheet",
    "map_2d",
    "render_report",
    "write_report",
]
