"""The table of methods told in the order of their years, with its picture: docs/history.md."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import page as page_lib

# The year in which the paper came out first, and what is on the bar.
YEARS = {
    "pixels": None,
    "untrained": None,
    "autoencoder": 2008,
    "patch_location": 2015,
    "jigsaw": 2016,
    "rotation": 2018,
    "cpc": 2018,
    "pirl": 2019,
    "moco": 2019,
    "simclr": 2020,
    "byol": 2020,
    "swav": 2020,
    "simsiam": 2020,
    "barlow_twins": 2021,
    "vicreg": 2021,
    "supervised": None,
}
GROUPS = {
    "no training": ("pixels", "untrained"),
    "pretext tasks": ("autoencoder", "patch_location", "jigsaw", "rotation", "cpc"),
    "instances and views": ("pirl", "moco", "simclr", "byol", "swav", "simsiam", "barlow_twins", "vicreg"),
    "labels": ("supervised",),
}
_COLORS = ("#9a9a9a", "#d08a3c", "#3c78b4", "#5a9a5a")
LABEL = "linear 100 %"

Means = Mapping[str, Mapping[str, float]]


def means(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean over seeds of every column, by row, in the order of YEARS."""
    of = {name: [row["accuracy"] for row in rows if row["what"]["row"] == name] for name in YEARS}
    return {name: {c: statistics.mean(x[c] for x in found) for c in columns} for name, found in of.items() if found}


def render(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The table in the order of the years; rows that were not made are named behind it."""
    scores = means(rows, columns)
    lines = [
        [f"`{name}`" if YEARS[name] or name == "supervised" else name, str(YEARS[name] or "-")]
        + [f"{scores[name][column]:.1f}" for column in columns]
        for name in scores
    ]
    head = ["method", "year", *columns]
    missing = ", ".join(f"`{name}`" for name in YEARS if name not in scores)
    return page_lib.table(head, lines, right=range(1, len(head))) + (f"\n\nNot run: {missing}." if missing else "")


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """A bar a method, as high as a linear probe is right with all labels: an SVG, the same bytes each time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    scores = means(rows, (LABEL,))
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "history", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(scores) + 1.1), layout="constrained")
    for color, (group, names) in zip(_COLORS, GROUPS.items(), strict=True):
        shown = [name for name in names if name in scores]
        places = [list(scores).index(name) for name in shown]
        bars = axes.barh(places, [scores[name][LABEL] for name in shown], color=color, label=group)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(scores)), [f"{name}  {YEARS[name] or ''}".rstrip() for name in scores])
    axes.invert_yaxis()
    axes.set_xlabel("per cent of the test images that a linear probe gets right")
    axes.axvline(10, color="black", linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(GROUPS), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
