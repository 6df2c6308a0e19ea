"""Plots: what they hold, that they repeat exactly, that they leave matplotlib as it was; and the 2-D map."""

import functools
import html
import re
import sys

import matplotlib
import numpy as np
import pytest

from simclr_jax.html_report import figures

# LaTeX's beginnings, markup, other scripts, a control character, look-alikes of what the SVG is searched for.
STRANGE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=1>',
    "$x_{",
    "$x_{$",
    r"\frac{",
    "日本語",
    "_hidden",
    "{x:q} %s",
    'id="a" url(#b) #111213',
    "",
]


KINDS = ("line", "lines", "bars", "scatter", "heatmap", "large heatmap")


def drawings(text="loss"):
    """One SVG of every kind, with the text wherever a text may go."""
    grid = np.random.default_rng(1).normal(size=(30, 2))
    return {
        "line": figures.line_plot({text: ([0, 1, 2], [3.0, 2.0, 1.0])}, name="a", reference=(text, 2.5)),
        "lines": figures.line_plot({text: ([0, 1], [0.1, 0.2]), "b": ([0, 1], [0.3, 0.2])}, name="b", percent=True),
        "bars": figures.bars([(text, [(text, 0.5), ("c", None)])] * 2, strong=text, chance=0.1, name="c"),
        "scatter": figures.scatter(grid, np.arange(30) % 11 - 1, name="d"),
        "heatmap": figures.heatmap(np.array([[5, 1], [0, 3]]), [text, "b"], name="e"),
        "large heatmap": figures.heatmap(np.eye(50, dtype=int), [text] * 50, name="f"),
    }


@functools.cache
def plain_drawings():
    return drawings()


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.slow
def test_same_input_gives_the_same_svg():
    first = plain_drawings()
    assert tuple(first) == KINDS
    assert first == drawings()


@pytest.mark.slow
def test_plots_neither_touch_nor_follow_the_settings_of_matplotlib():
    plain = plain_drawings()
    own = {"font.size": 17.0, "lines.linewidth": 9.0, "svg.image_inline": False, "axes.facecolor": "red"}
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        changed = drawings()
        assert dict(matplotlib.rcParams) == before
    assert changed == plain


def test_settings_are_back_after_a_plot_that_fails():
    before = dict(matplotlib.rcParams)
    with pytest.raises((ValueError, TypeError)):
        figures.line_plot({"loss": ([0, 1], [1.0])}, name="a")
    assert dict(matplotlib.rcParams) == before


def test_plots_do_without_pyplot():
    plain_drawings()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("kind", KINDS)
def test_svg_stands_alone_and_follows_the_theme_of_the_page(kind):
    svg = plain_drawings()[kind]
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "http" not in svg and "xmlns" not in svg and "<script" not in svg and "<!--" not in svg
    assert not {"#111213", "#717273", "#e1e2e3"} & set(re.findall(r"#[0-9a-f]{6}", svg))
    assert "DejaVu" not in svg
    targets = re.findall(r'href="([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids)) > 0
    assert all(target.startswith("data:") or target.removeprefix("#") in ids for target in targets)


def test_names_keep_the_ids_of_two_plots_apart():
    first, second = (figures.heatmap(np.eye(3, dtype=int), list("abc"), name=name) for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert all(name.startswith("one-") for name in ids[0])


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "text", [*STRANGE[::3], *(pytest.param(text, marks=pytest.mark.slow) for text in STRANGE[1::3] + STRANGE[2::3])]
)
def test_strange_text_is_escaped_and_shown_as_it_is(text):
    svgs = drawings(text)
    cut = text if len(text) <= 22 else text[:19] + "..."
    expected = {"line": text, "lines": text, "bars": text, "heatmap": cut}
    if text.startswith("_"):
        # matplotlib keeps labels with a leading underscore out of legends.
        del expected["lines"]
    for kind, shown in expected.items():
        assert not shown or html.escape(shown, quote=False) in texts(svgs[kind]), kind
    for svg in svgs.values():
        assert "<script" not in svg and "<img" not in svg


def test_line_plot_shows_its_axis_names_and_reference():
    svg = figures.line_plot(
        {"loss": ([0, 10], [2.0, 1.0]), "other": ([0, 10], [1.0, 1.5])}, name="a", reference=("collapsed", 3.0)
    )
    assert {"loss", "other", "step", "collapsed"} <= set(texts(svg))


def test_line_plot_in_per_cent_shows_per_cent():
    svg = figures.line_plot({"accuracy": ([0, 10], [0.0, 1.0])}, name="a", percent=True)
    assert {"0 %", "100 %"} <= set(texts(svg))


@pytest.mark.parametrize(
    "values", [[1.0], [float("nan")] * 3, [1.0, float("nan"), float("inf"), 2.0]], ids=["one", "nan", "mixed"]
)
def test_line_plot_takes_a_single_point_and_values_that_are_not_finite(values):
    assert "step" in texts(figures.line_plot({"loss": (list(range(len(values))), values)}, name="a"))


def test_line_plot_takes_more_curves_than_there_are_colours():
    names = [f"curve {index}" for index in range(10)]
    assert set(names) <= set(texts(figures.line_plot({name: ([0, 1], [0, 1]) for name in names}, name="a")))


def test_a_long_curve_stays_small_and_keeps_its_ends():
    steps = np.arange(100_000)
    svg = figures.line_plot({"loss": (steps, np.random.default_rng(0).normal(size=len(steps)))}, name="a")
    assert len(svg) < 40_000
    kept = figures.thinned(steps)
    assert (kept[0], kept[-1], len(kept)) == (0, 99_999, 400)


def test_bars_hold_labels_titles_and_numbers_and_skip_what_was_not_run():
    svg = figures.bars(
        [("kNN", [("SimCLR", 0.875), ("Raw pixels", None)]), ("Linear", [("SimCLR", 0.5), ("Raw pixels", 0.25)])],
        strong="SimCLR",
        chance=0.1,
        name="a",
    )
    assert {"kNN", "Linear", "SimCLR", "Raw pixels", "87.5", "50.0", "25.0"} <= set(texts(svg))
    # The bars of the strong label carry the accent colour.
    assert svg.count(f"fill: {figures.ACCENT}") == 2
    assert svg.count(f"fill: {figures.QUIET}") == 1


def test_heatmap_holds_class_names_and_row_percentages():
    svg = figures.heatmap(np.array([[3, 1], [0, 8]]), ["cat", "dog"], name="a")
    assert texts(svg).count("cat") == texts(svg).count("dog") == 2
    assert sorted(text for text in texts(svg) if text.isdigit()) == ["100", "25", "75"]


def test_heatmap_takes_a_class_without_test_images_and_a_class_name_of_any_length():
    svg = figures.heatmap(np.array([[3, 1], [0, 0]]), ["a" * 200, "dog"], name="a")
    assert "a" * 19 + "..." in texts(svg)


def test_scatter_numbers_the_classes_and_not_the_unlabelled():
    points = np.random.default_rng(0).normal(size=(60, 2))
    assert sorted(texts(figures.scatter(points, np.arange(60) % 4 - 1, name="a"))) == ["0", "1", "2"]
    assert texts(figures.scatter(points, None, name="a")) == []
    # More than 40 numbers would hide the points.
    assert texts(figures.scatter(points, np.arange(60), name="a")) == []


def test_the_first_48_classes_differ_in_colour_or_marker():
    styles = [figures.class_style(label) for label in range(48)]
    assert len(set(styles)) == 48
    assert figures.class_style(48) == figures.class_style(0)
    assert all(figures.marker_svg(label).count(figures.class_style(label)[0]) == 1 for label in range(48))
