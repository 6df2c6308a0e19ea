"""Pages of one HTML file from plain values: the report of a run, galleries, maps to explore; and picture sheets."""

from simclr_jax.html_report.explorer import Explorer, Field, Near, Places, map_order, write_page, write_site
from simclr_jax.html_report.figures import heatmap
from simclr_jax.html_report.gallery import Gallery, Row, Section, Shot, write_gallery
from simclr_jax.html_report.html import Confusion, Embedding, Neighbors, ReportContents, render_report, write_report
from simclr_jax.html_report.links import Link, write_links
from simclr_jax.html_report.pictures import contact_sheet
from simclr_jax.html_report.plots import efficiency, histogram
from simclr_jax.html_report.sheets import Sheets, make_sheets

__all__ = [
    "Confusion",
    "Embedding",
    "Explorer",
    "Field",
    "Gallery",
    "Link",
    "Near",
    "Neighbors",
    "Places",
    "ReportContents",
    "Row",
    "Section",
    "Sheets",
    "Shot",
    "contact_sheet",
    "efficiency",
    "heatmap",
    "histogram",
    "make_sheets",
    "map_order",
    "render_report",
    "write_gallery",
    "write_links",
    "write_page",
    "write_report",
    "write_site",
]
