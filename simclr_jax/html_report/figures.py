"""Plots as inline SVG, by matplotlib without pyplot: curves, probe bars, the 2-D map, the confusion matrix.

Text stays text and takes the page's font; the neutral colours are CSS variables of the page, so that a plot follows
its light or dark theme. The other colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCENT, QUIET = "#0072b2", "#9aa5b1"
# Vermilion, green, orange, purple, sky, blue and two neutrals from the same family.
PALETTE = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P")

# Drawn in these colours, replaced by the theme's when the SVG is written.
INK, MUTED, _LINE = "#111213", "#717273", "#e1e2e3"
_THEME = {INK: "currentColor", MUTED: "var(--muted)", _LINE: "var(--line)"}
_MAX_POINTS = 400


def line_plot(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    name: str,
    reference: tuple[str, float] | None = None,
    percent: bool = False,
    thin: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]] | None = None,
) -> str:
    """One or more curves over the training step, as SVG.

    Args:
        series: label -> (steps, values); long ones are thinned to 400 points.
        name: short word that keeps the ids of several plots on one page apart.
        reference: (label, value) of a dashed horizontal line.
        percent: values are fractions, shown in per cent.
        thin: label -> more curves, drawn thin in its colour: those of single seeds.
    """
    from matplotlib.ticker import MaxNLocator

    with plot_settings():
        figure, axes = new_figure(4.3, 2.5)
        factor = 100.0 if percent else 1.0
        for index, (label, (steps, values)) in enumerate(series.items()):
            x, y = thinned(steps), factor * thinned(values)
            style = ("-", (0, (5, 1.5)))[index % 2]
            marker = "o" if len(x) == 1 else ""
            axes.plot(
                x, y, color=PALETTE[index % len(PALETTE)], linestyle=style, linewidth=1.8, marker=marker, label=label
            )
            draw_thin(axes, (thin or {}).get(label, ()), color=PALETTE[index % len(PALETTE)], factor=factor)
        if reference is not None and np.isfinite(reference[1]):
            value = factor * reference[1]
            axes.axhline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
            axes.margins(y=0.12)
            _note(axes, reference[0], value)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step", color=MUTED)
        if percent:
            axes.yaxis.set_major_formatter("{x:g} %")
        if len(series) > 1:
            for text in axes.legend(frameon=False, loc="best", labelcolor=INK, fontsize=9).get_texts():
                text.set_parse_math(False)
        return to_svg(figure, name)


def draw_thin(
    axes: "Axes", curves: Sequence[tuple[Sequence[float], Sequence[float]]], *, color: str, factor: float
) -> None:
    """Draws curves of single seeds, thin and pale, beside their mean; `factor` times their values."""
    for steps, values in curves:
        axes.plot(thinned(steps), factor * thinned(values), color=color, linewidth=0.7, alpha=0.5)


def bars(
    panels: Sequence[tuple[str, Sequence[tuple[str, float | None]]]], *, strong: str, chance: float | None, name: str
) -> str:
    """Horizontal bars of accuracies, one panel per (probe, share of labels), as SVG.

    Args:
        panels: (title, [(label, accuracy in [0, 1] or None), ...]); all panels list the same labels.
        strong: the label which is drawn in the accent colour.
        chance: a dotted line at this accuracy; None: no line.
        name: see `line_plot`.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    labels = [label for label, _ in panels[0][1]]
    with plot_settings():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        layout = ConstrainedLayoutEngine(hspace=0.08, wspace=0.04)
        figure = Figure(figsize=(11.4, rows * (0.3 * len(labels) + 0.85)), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, values) in zip(grid.flat, panels, strict=False):
            dress(axes)
            axes.grid(visible=False, axis="y")
            axes.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold", parse_math=False)
            for place, (label, value) in enumerate(values):
                if value is not None:
                    axes.barh(place, 100 * value, height=0.68, color=ACCENT if label == strong else QUIET)
                    axes.text(100 * value + 1.5, place, f"{100 * value:.1f}", va="center", color=INK, fontsize=9.5)
            if chance is not None:
                axes.axvline(100 * chance, color=INK, linestyle=":", linewidth=1.2)
            axes.set_yticks(range(len(labels)), labels, parse_math=False)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.set_xlim(0, 112)
            axes.set_xticks(range(0, 101, 25))
            axes.xaxis.set_major_formatter("{x:g} %")
        return to_svg(figure, name)


def scatter(positions: np.ndarray, labels: np.ndarray | None, *, name: str) -> str:
    """Points on a plane, one colour and marker per class with the class's number at its middle, as SVG.

    Args:
        positions: float [n, 2].
        labels: int [n], -1 = unlabelled; None: one colour.
        name: see `line_plot`.
    """
    with plot_settings():
        figure, axes = new_figure(7.6, 5.6)
        axes.set_axis_off()
        labels = np.full(len(positions), -1) if labels is None else labels
        for label in np.unique(labels):
            points = positions[labels == label]
            color, marker = class_style(int(label))
            size = 20 if len(positions) < 800 else 10
            axes.scatter(points[:, 0], points[:, 1], s=size, marker=marker, color=color, alpha=0.75, linewidths=0)
        named = [label for label in np.unique(labels) if label >= 0]
        # With more classes than this, the numbers would hide the points.
        for label in named if len(named) <= 40 else []:
            x, y = _middle(positions[labels == label])
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": class_style(int(label))[0]}
            number = axes.text(x, y, str(label), color="#1a1a1a", fontsize=9, ha="center", va="center", bbox=box)
            number.set_in_layout(False)  # or the number of a lone point squeezes the map
        return to_svg(figure, name)


def class_style(label: int) -> tuple[str, str]:
    """(colour, marker) of a class on the map: colours repeat after eight classes with another marker."""
    if label < 0:
        return QUIET, "o"
    return PALETTE[label % len(PALETTE)], MARKERS[(label // len(PALETTE)) % len(MARKERS)]


def marker_svg(label: int) -> str:
    """The marker of a class as a small SVG for the legend."""
    color, marker = class_style(label)
    shapes = {
        "o": '<circle cx="6" cy="6" r="5"/>',
        "s": '<path d="M1.5 1.5h9v9h-9z"/>',
        "^": '<path d="M6 1l5 10H1z"/>',
        "D": '<path d="M6 0.5L11.5 6 6 11.5 0.5 6z"/>',
        "v": '<path d="M6 11L1 1h10z"/>',
        "P": '<path d="M4 0.5h4V4h3.5v4H8v3.5H4V8H0.5V4H4z"/>',
    }
    return f'<svg viewBox="0 0 12 12" width="12" height="12" fill="{color}" aria-hidden="true">{shapes[marker]}</svg>'


def heatmap(counts: np.ndarray, class_names: Sequence[str], *, name: str) -> str:
    """The confusion matrix, rows in per cent of the class, as SVG. Up to 40 classes are named; more become a picture.

    Args:
        counts: int [C, C], first axis the true class.
        class_names: C names.
        name: see `line_plot`.
    """
    from matplotlib import colors

    share = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(counts)
    # From transparent to the accent colour: reads the same on a light and on a dark page.
    shade = colors.LinearSegmentedColormap.from_list("shade", [(*colors.to_rgb(ACCENT), alpha) for alpha in (0.1, 1.0)])
    with plot_settings():
        figure, axes = new_figure(
            *((max(0.37 * size + 2.6, 4.2), max(0.32 * size + 1.9, 3.4)) if size <= 40 else (7.5, 7.0))
        )
        axes.grid(visible=False)
        # Empty cells stay transparent: they take the colour of the page.
        cells = np.ma.masked_where(counts == 0, share)
        if size > 40:
            axes.imshow(cells, cmap=shade, vmin=0, vmax=100, interpolation="nearest")
        else:
            axes.pcolormesh(cells, cmap=shade, vmin=0, vmax=100, edgecolors=_LINE, linewidth=0.4)
            axes.invert_yaxis()
            ticks = np.arange(size) + 0.5
            names = [shortened(text) for text in class_names]
            axes.set_yticks(ticks, names, parse_math=False)
            axes.set_xticks(ticks, names, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
            for row, column in zip(*np.nonzero(share >= 0.5), strict=True):
                color = "white" if share[row, column] > 60 else INK
                text = f"{share[row, column]:.0f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=color)
        axes.set_xlabel("predicted class", color=MUTED)
        axes.set_ylabel("true class", color=MUTED)
        return to_svg(figure, name)


@contextlib.contextmanager
def plot_settings() -> Iterator[None]:
    """Settings in force while a plot is drawn and written; the caller's own are back afterwards."""
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "simclr",
        "font.size": 10,
        "font.family": "sans-serif",
        "text.usetex": False,
        "axes.unicode_minus": False,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        # From the defaults, so that the reader's own matplotlib settings do not change the page.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # Only widths are measured with matplotlib's font; the reader's browser has the missing letters.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        yield


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of so many inches, inside of `plot_settings`, and its axes in the style of the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    return figure, axes


def dress(axes: "Axes") -> None:
    """Gives one plot the page's colours and grid."""
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0, labelsize=9.5)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _note(axes: "Axes", text: str, value: float) -> None:
    """Writes a word on a dashed line, inside the plot at its right end."""
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9,
        color=MUTED,
        parse_math=False,
    )


def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an <svg> element for the middle of a page: theme colours, ids of its own, no outside addresses."""
    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # Tags only: a class name which happens to look like an id or a colour stays as it is.
    text = re.sub(r"<[^>]*>", lambda tag: _themed(tag.group(), name), text)
    return re.sub(r"[ \t]*\n[ \t]*", "\n", text)


def _themed(tag: str, name: str) -> str:
    """A tag without namespaces, its ids prefixed by the name of the plot, its neutral colours and font the page's."""
    tag = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", tag)
    for drawn, themed in _THEME.items():
        tag = tag.replace(drawn, themed)
    return tag


def thinned(values: Sequence[float]) -> np.ndarray:
    """At most 400 evenly spaced values."""
    array = np.asarray(values, np.float64)
    return array[np.unique(np.linspace(0, len(array) - 1, min(len(array), _MAX_POINTS)).astype(int))]


def _middle(points: np.ndarray) -> np.ndarray:
    """The point of a class with the smallest summed distance to the others: always inside the crowd."""
    sample = points[:: -(-len(points) // 200)]
    return sample[np.linalg.norm(sample[:, None] - sample[None], axis=-1).sum(axis=1).argmin()]


def shortened(text: str, length: int = 22) -> str:
    """The text, its end left out beyond `length` letters."""
    return text if len(text) <= length else text[: length - 3] + "..."
