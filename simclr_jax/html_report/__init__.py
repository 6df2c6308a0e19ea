"""Pages of one self-contained HTML file from plain values: the report of a run, and galleries; and picture sheets."""

from simclr_jax.html_report.figures import heatmap, map_2d
from simclr_jax.html_report.gallery import Gallery, Row, Section, Shot, write_gallery
from simclr_jax.html_report.html import Confusion, Embedding, Neighbors, ReportContents, render_report, write_report
from simclr_jax.html_report.pictures import contact_sheet
from simclr_jax.html_report.plots import efficiency, histogram

__all__ = [
    "Confusion",
    "Embedding",
    "Gallery",
    "Neighbors",
    "ReportContents",
    "Row",
    "Section",
    "Shot",
    "contact_sheet",
    "efficiency",
    "heatmap",
    "histogram",
    "map_2d",
    "render_report",
    "write_gallery",
    "write_report",
]
