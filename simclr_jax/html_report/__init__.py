"""The report of a run: plain values in, one self-contained HTML file out; and the picture sheets `preview` writes."""

from simclr_jax.html_report.figures import map_2d
from simclr_jax.html_report.html import Confusion, Embedding, Neighbors, ReportContents, render_report, write_report
from simclr_jax.html_report.pictures import contact_sheet

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
