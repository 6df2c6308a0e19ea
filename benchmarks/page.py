"""What the programs write for readers: Markdown tables, the parts of pages between marks, numbers and versions."""

import datetime
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import timing

README = timing.ROOT / "benchmarks" / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A Markdown table; numbers of the columns that are aligned right."""
    rules = [" ---: " if column in right else " --- " for column in range(len(head))]
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def replace_part(page: str, stem: str, text: str) -> str:
    """`page` with what stands between the marks of `stem` replaced by `text`.

    Raises:
        ValueError: the page does not have both marks, once each.
    """
    begin, end = f"<!-- {stem}: from here on written by a program -->", f"<!-- end of {stem} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must hold {begin} and behind it {end}, once each")
    return page.partition(begin)[0] + f"{begin}\n\n{text}\n\n{end}" + page.partition(end)[2]


def write_part(stem: str, text: str, *, page: pathlib.Path | None = None) -> None:
    """Puts the text of one program into a page, benchmarks/README.md by default."""
    page = page or README
    page.write_text(replace_part(page.read_text(), stem, text))


def about(facts: Mapping[str, Any], *, hardware: str = "", more: Iterable[Mapping[str, str]] = ()) -> str:
    """When, of which commit, on what and with which versions: `facts` of `timing.describe`, `more` versions."""
    versions: dict[str, str] = {}
    for known in [*more, facts["versions"]]:
        versions |= known
    told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    day = datetime.date.fromisoformat(facts["date"])
    return f"{day.day} {day:%B %Y}, commit {facts['commit']}, {hardware}; Python {facts['python']}, {told}."


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.3g}" if abs(number) < 100 else f"{number:,.0f}"


def mean_and_spread(values: Sequence[float], form: str) -> str:
    """The mean, and the standard deviation of the sample where there are two or more."""
    if not values:
        return "-"
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean
