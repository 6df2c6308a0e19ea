"""Panels of bars and curves side by side in one picture file, for `simclr-jax compare`."""

import contextlib
import io
import os
import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from simclr_jax import atomic_files
from simclr_jax.html_report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOTE_WIDTH, _NOTE_INCHES = 70, 0.15  # letters in a line for each panel, and its height


@contextlib.contextmanager
def picture(path: str | os.PathLike[str], *, num_panels: int, notes: Sequence[str] = ()) -> "Iterator[list[Axes]]":
    """Panels to draw into, three in a row on white, with notes below; written to `path` as the block ends."""
    from matplotlib.figure import Figure

    columns = min(3, num_panels)
    rows = -(-num_panels // columns)
    with figures.plot_settings():
        text = [line for note in notes for line in textwrap.wrap(note, _NOTE_WIDTH * columns)]
        size = 4.4 * columns, 2.9 * rows + _NOTE_INCHES * len(text)
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        if text:
            style = {"color": figures.MUTED, "fontsize": 8, "parse_math": False}
            figure.supxlabel("\n".join(text), x=0.01, ha="left", **style)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        yield list(grid.flat)
        ending = pathlib.Path(path).suffix.lstrip(".").lower() or "png"
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, dpi=150)
    atomic_files.write_bytes(path, buffer.getvalue())


def draw_bars(axes: "Axes", values: Sequence[tuple[str, float, float | None]], *, title: str) -> None:
    """Horizontal bars of (label, fraction, error), in per cent, into one panel of `picture`."""
    _dress_panel(axes, title)
    for place, (_, value, error) in enumerate(values):
        axes.barh(place, 100 * value, xerr=None if error is None else 100 * error, height=0.68, color=figures.ACCENT)
        axes.text(101, place, f"{100 * value:.1f}", va="center", color=figures.INK, fontsize=9)
    axes.set_yticks(range(len(values)), [figures.shortened(label) for label, _, _ in values], parse_math=False)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 114)
    axes.set_xticks(range(0, 101, 25))
    axes.xaxis.set_major_formatter("{x:g} %")


def draw_curves(
    axes: "Axes",
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    percent: bool,
    thin: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
) -> None:
    """Curves over the step into one panel of `picture`; see `line_plot`."""
    _dress_panel(axes, title)
    for index, (label, (steps, values)) in enumerate(series.items()):
        factor = 100.0 if percent else 1.0
        y = factor * figures.thinned(values)
        marker = "o" if len(y) == 1 else ""
        color = figures.PALETTE[index % len(figures.PALETTE)]
        axes.plot(figures.thinned(steps), y, color=color, marker=marker, label=figures.shortened(label))
        figures.draw_thin(axes, thin.get(label, ()), color=color, factor=factor)
    axes.set_xlabel("step", color=figures.MUTED)
    for text in axes.legend(frameon=False, loc="best", labelcolor=figures.INK, fontsize=8).get_texts():
        text.set_parse_math(False)


def _dress_panel(axes: "Axes", title: str) -> None:
    axes.set_visible(True)
    figures.dress(axes)
    axes.set_title(title, loc="left", color=figures.INK, fontsize=10, parse_math=False)
