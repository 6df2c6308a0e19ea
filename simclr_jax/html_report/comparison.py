"""Runs side by side: which of their scores may be compared, as a table, a picture and a page."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files
from simclr_jax.html_report import figures, panels, words

Curve = tuple[Sequence[float], Sequence[float]]  # steps, values
NO_LABELS = "none"  # the share of the labels of what is trained on none


class Score(NamedTuple):
    """One score of a run, or the mean over its seeds.

    protocol: its name with version. family: the protocol without its settings, which tells what is alike in kind.
    labels: share of the labels, or NO_LABELS. data: what it was trained and tested on. value: in [0, 1].
    error: standard error of `value`, or with several seeds the standard deviation over them.
    """

    protocol: str
    family: str
    labels: str
    data: str
    value: float
    error: float | None


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """One column: a run, or several that differ in their seed only.

    facts: name -> text, such as "training time" -> "4 min 32 s". curves: metric -> (steps, values).
    num_seeds: how many runs the values are means of. seed_curves: metric -> the curves that those of `curves` are the
    means of; empty for one run. notes: sentences on what is wrong with it.
    """

    name: str
    facts: Mapping[str, str]
    scores: Sequence[Score]
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    num_seeds: int = 1
    seed_curves: Mapping[str, Sequence[Curve]] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()


class Line(NamedTuple):
    """One row of scores: a protocol at a share of the labels on the same data, with a cell for every run.

    best: the places of the runs that no other one beats by more than the error of the difference; empty where fewer
    than two runs have this very line, as there is nothing to rank.
    """

    protocol: str
    labels: str
    data: str
    cells: list[Score | None]
    best: list[int]


def score_lines(runs: Sequence[ComparedRun]) -> list[Line]:
    """All scores of all runs, those of one protocol, share of labels and data on one line, in order of first use."""
    found: dict[tuple[str, str, str], list[Score | None]] = {}
    for place, run in enumerate(runs):
        for score in run.scores:
            cells = found.setdefault((score.protocol, score.labels, score.data), [None] * len(runs))
            cells[place] = score
    return [Line(*key, cells, _best(cells)) for key, cells in found.items()]


def _best(cells: Sequence[Score | None]) -> list[int]:
    present = [(place, cell) for place, cell in enumerate(cells) if cell is not None]
    if len(present) < 2:
        return []
    top = max((cell for _, cell in present), key=lambda cell: cell.value)
    return [
        place
        for place, cell in present
        if cell is top or top.value - cell.value <= 2 * float(np.hypot(top.error or 0.0, cell.error or 0.0))
    ]


def not_ranked(runs: Sequence[ComparedRun]) -> list[str]:
    """Sentences that name what looks alike and is not: protocols of one kind with other settings, and other data."""
    said = []
    families: dict[str, dict[str, set[int]]] = {}
    data: dict[str, set[str]] = {}
    for place, run in enumerate(runs):
        for score in run.scores:
            families.setdefault(score.family, {}).setdefault(score.protocol, set()).add(place)
            data.setdefault(score.protocol, set()).add(score.data)
    for protocols in families.values():
        # One that every run has is ranked by itself.
        partial = {name: places for name, places in protocols.items() if len(places) < len(runs)}
        # Of the same runs they invite no comparison between two.
        if len({frozenset(places) for places in partial.values()}) > 1:
            said.append(f"Not ranked against each other, as they are different protocols: {', '.join(partial)}.")
    other = [protocol for protocol, sets in data.items() if len(sets) > 1]
    if other:
        said.append(f"Scores of {', '.join(other)} are on different data and stand on lines of their own.")
    return said


def notes(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """(name of a run, sentence) of all that is wrong with the runs."""
    return [(run.name, note) for run in runs for note in run.notes]


def fact_names(runs: Sequence[ComparedRun]) -> list[str]:
    """The names of all facts, in order of first use."""
    return list(dict.fromkeys(name for run in runs for name in run.facts))


def written(score: Score | None) -> str:
    """A score with its error, in per cent points: "81.2 ± 0.4"; "-" for none."""
    if score is None:
        return "-"
    error = "" if score.error is None else f" ± {100 * score.error:.1f}"
    return f"{100 * score.value:.1f}{error}"


def write_page(runs: Sequence[ComparedRun], path: str | os.PathLike[str]) -> None:
    """Writes the comparison as one HTML file that loads nothing; an older file is replaced."""
    import jinja2

    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    loader = jinja2.PackageLoader("simclr_jax", "html_report")
    environment = jinja2.Environment(loader=loader, autoescape=True, **options)
    text = environment.get_template("comparison.html.j2").render(
        runs=runs,
        facts=[(name, [run.facts.get(name, "-") for run in runs]) for name in fact_names(runs)],
        lines=[(line, [written(cell) for cell in line.cells]) for line in score_lines(runs)],
        sentences=not_ranked(runs),
        notes=notes(runs),
        curves=[
            (title, figures.line_plot(series, name=f"curve{number}", percent=percent, thin=thin))
            for number, (title, series, thin, percent) in enumerate(_curves(runs))
        ],
        spaced=words.spaced,
        no_labels=NO_LABELS,
    )
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_text(target, text)


def write_picture(runs: Sequence[ComparedRun], path: str | os.PathLike[str]) -> None:
    """Writes the curves, and the scores that can be ranked as bars, as one picture: PNG, or what the name ends in."""
    lines = [line for line in score_lines(runs) if line.best]
    curves = _curves(runs)
    said = [f"{name}: {note}" for name, note in notes(runs)]
    with panels.picture(path, num_panels=max(len(lines) + len(curves), 1), notes=said) as drawn:
        for axes, line in zip(drawn, lines, strict=False):
            share = "" if line.labels == NO_LABELS else f", {words.spaced(line.labels)}"
            title = f"{line.protocol}{share}"
            pairs = [(run.name, cell) for run, cell in zip(runs, line.cells, strict=True) if cell is not None]
            panels.draw_bars(axes, [(name, cell.value, cell.error) for name, cell in pairs], title=title)
        for axes, (title, series, thin, percent) in zip(drawn[len(lines) :], curves, strict=False):
            panels.draw_curves(axes, series, title=title, percent=percent, thin=thin)


def _curves(runs: Sequence[ComparedRun]) -> list[tuple[str, dict[str, Curve], dict[str, Sequence[Curve]], bool]]:
    """(title, run -> its curve, run -> those of its seeds, whether fractions) of every metric that runs have logged."""
    found = []
    titles = {
        "knn_accuracy": ("kNN accuracy while training", True),
        "image_to_text_recall_1": ("Image to text, recall at 1 while training", True),
        "text_to_image_recall_1": ("Text to image, recall at 1 while training", True),
        "loss": ("Loss", False),
        "effective_rank": ("Effective rank", False),
        "uniformity": ("Uniformity", False),
        "alignment": ("Alignment", False),
    }
    for key, (title, percent) in titles.items():
        series = {run.name: run.curves[key] for run in runs if key in run.curves and len(run.curves[key][0])}
        thin = {run.name: run.seed_curves[key] for run in runs if key in run.seed_curves and run.name in series}
        if series:
            found.append((title, series, thin, percent))
    return found
