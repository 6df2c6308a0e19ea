"""A page of links to other pages beside it, each with what it shows and the command that made it."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from simclr_jax import atomic_files


class Link(NamedTuple):
    """title, what the page shows, its file beside this one, and the command that wrote it."""

    title: str
    shows: str
    file: str
    command: str


def write_links(
    title: str, links: Sequence[Link], path: str | os.PathLike[str], *, commands: Sequence[str] = ()
) -> None:
    """Writes the page as one HTML file; `commands` are those that came before and have no page.

    Raises:
        base.InputError: it cannot be written.
    """
    import jinja2

    loader = jinja2.PackageLoader("simclr_jax", "html_report")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Environment(loader=loader, autoescape=True, **options).get_template("links.html.j2")
    page = template.render(title=title, links=links, commands=commands)
    atomic_files.write_text(path, page)
