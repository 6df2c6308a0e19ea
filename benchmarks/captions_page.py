"""What `benchmarks/captions.py` writes: the table of the last recalls, the curves, and what they were made with."""

import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import page as page_lib
from benchmarks import training_page

STEM, KS = "captions", (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
# The programs of rows: their words and colours.
PROGRAMS = {
    "ours": ("this program", "#0072b2"),
    "open_clip": ("open_clip", "#d55e00"),
    "open_clip_crops": ("open_clip, crops as ours", "#009e73"),
}
Rows = Sequence[Mapping[str, Any]]


def write(rows: Rows, output: pathlib.Path) -> None:
    """Writes the part of the page between its marks, and the picture beside it."""
    marks = f"<!-- {STEM}: from here on written by a program -->\n<!-- end of {STEM} -->\n"
    page = output.read_text() if output.exists() else marks
    picture = output.with_name(f"{output.stem}_recall.svg")
    output.write_text(page_lib.replace_part(page, STEM, render(rows, picture.name)))
    if rows:
        draw(rows, picture)


def render(rows: Rows, picture: str) -> str:
    """The part of the page: what was made with what, a line a program, the picture."""
    if not rows:
        return "No training has been made yet."
    head = ("", "parameters (of images)", *(f"{way.replace('_', ' ')} at {k}" for way in WAYS for k in KS), "seeds")
    lines = [line(words, of_program(rows, name)) for name, (words, _) in PROGRAMS.items() if of_program(rows, name)]
    chance = [f"{100 * rows[0]['chance'][name]:.1f}" for name in names()]
    table = page_lib.table(head, [*lines, ["chance", "-", *chance, "-"]], right=range(1, len(head)))
    alt = "Recall at 1, 5 and 10 over epochs, from images to texts and from texts to images"
    return f"{about(rows)}\n\n{table}\n\n![{alt}]({picture})"


def names() -> list[str]:
    """Of all recalls, in the order of the columns."""
    return [f"{way}_recall_{k}" for way in WAYS for k in KS]


def of_program(rows: Rows, program: str) -> list[Mapping[str, Any]]:
    """Its rows, by seed."""
    return sorted((row for row in rows if row["what"]["program"] == program), key=lambda row: row["what"]["seed"])


def line(words: str, rows: Rows) -> list[str]:
    """Of the table: the recalls after the last update, in per cent."""
    sizes = rows[0]["parameters"]
    shown = [page_lib.mean_and_spread([100 * row["recalls"][name][-1] for row in rows], ".1f") for name in names()]
    return [words, f"{sizes['all']:,} ({sizes['image']:,})", *shown, str(len(rows))]


def about(rows: Rows) -> str:
    """When, with what, how long, and on how much."""
    last = max(rows, key=lambda row: row["date"])
    counts, steps = last["counts"], last["steps"][-1]
    batch = batch_of(last)
    seconds = {
        words: statistics.mean(row["cpu_seconds"] for row in of_program(rows, name))
        for name, (words, _) in PROGRAMS.items()
        if of_program(rows, name)
    }
    told = [
        page_lib.about(last, hardware="CPU, one thread for a training", more=[row["versions"] for row in rows]),
        f"{steps} updates of batch {batch}, {epochs_of(last)[-1]:.0f} epochs of {counts['pictures']:,} photographs; "
        f"recall in per cent on {counts['test_pictures']:,} others with {counts['test_texts']:,} captions.",
        "Seconds of CPU, all told: " + ", ".join(f"{words} {time:.0f}" for words, time in seconds.items()) + ".",
    ]
    return textwrap.fill(" ".join(told), 120, break_on_hyphens=False, break_long_words=False)


def batch_of(row: Mapping[str, Any]) -> int:
    """The batch of a row of any program."""
    what = row["what"]
    return int(what["config"]["train"]["batch_size"] if "config" in what else what["batch_size"])


def epochs_of(row: Mapping[str, Any]) -> list[float]:
    """How often every photograph has been seen, on average, at the points of measurement."""
    return [step * batch_of(row) / row["counts"]["pictures"] for step in row["steps"]]


def draw(rows: Rows, path: pathlib.Path) -> None:
    """A panel for each way and k: the mean of the seeds of every program, each seed as a thin line, and chance."""
    figure, panels = training_page.new_figure(len(KS), rows=len(WAYS))
    for panel, name in zip(panels, names(), strict=True):
        for program, (words, color) in PROGRAMS.items():
            chosen = of_program(rows, program)
            curves = [[100 * recall for recall in row["recalls"][name]] for row in chosen]
            for curve in curves if len(curves) > 1 else []:
                panel.plot(epochs_of(chosen[0]), curve, color=color, linewidth=0.5, alpha=0.4)
            if curves:
                mean = [statistics.mean(of) for of in zip(*curves, strict=True)]
                panel.plot(epochs_of(chosen[0]), mean, color=color, label=words, linewidth=1.5)
        panel.axhline(100 * rows[0]["chance"][name], color="#777777", linestyle=":", linewidth=1.2, label="chance")
        way, _, k = name.partition("_recall_")
        panel.set_title(f"{way.replace('_', ' ')}, recall at {k}, %", fontsize=10)
        panel.set_ylim(bottom=0)
    for panel in panels[-len(KS) :]:
        panel.set_xlabel("epoch")
    panels[0].legend(frameon=False, fontsize=9)
    training_page.save(figure, path)
