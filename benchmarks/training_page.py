"""What `benchmarks/training_parity.py` writes: the rule of agreement, the distances, the pictures and the page."""

import math
import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import page as page_lib

STEM = "training_parity"
Rows = Sequence[Mapping[str, Any]]

# The rule: as unlikely as two standard deviations of a normal distribution, over all numbers of a comparison together.
TWO_SIGMA = math.erfc(2 / math.sqrt(2))
# Of the distance from float64 between the other program and ours in float32.
MOST_RATIO = 10.0
OTHERS = {"own": "official", "lightly": "lightly"}
NUMBERS = {
    "loss": ("loss, last quarter", "{:.4f}", 1.0),
    "contrastive_accuracy": ("contrastive accuracy, last quarter, %", "{:.2f}", 100.0),
    "online_accuracy": ("online linear accuracy, last quarter, %", "{:.2f}", 100.0),
    "knn": ("kNN of the features, %", "{:.2f}", 100.0),
}
AXES = {"loss": "loss", "contrastive_accuracy": "contrastive accuracy", "online_accuracy": "online linear accuracy"}


class Verdict(NamedTuple):
    """Two samples of one number. apart: |difference of the means| in its standard deviations; allowed: at most."""

    name: str
    ours: list[float]
    theirs: list[float]
    apart: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether our mean is as near as the rule asks."""
        return self.apart <= self.allowed


def compare(name: str, ours: Sequence[float], theirs: Sequence[float], *, count: int) -> Verdict | None:
    """The verdict on one of `count` numbers; None if there are fewer than two runs of each program.

    The standard deviation is the pooled one of both samples, the difference of the means has it times
    sqrt(1/n + 1/m). Few runs do not know it well, hence Student's t for n + m - 2 degrees of freedom.
    """
    n, m = len(ours), len(theirs)
    if min(n, m) < 2:
        return None
    from scipy import stats

    pooled = ((n - 1) * statistics.variance(ours) + (m - 1) * statistics.variance(theirs)) / (n + m - 2)
    deviation = math.sqrt(pooled * (1 / n + 1 / m))
    difference = abs(statistics.mean(ours) - statistics.mean(theirs))
    apart = difference / deviation if deviation else math.inf if difference else 0.0
    allowed = float(stats.t.isf(TWO_SIGMA / 2 / count, n + m - 2))
    return Verdict(name, list(ours), list(theirs), apart, allowed)


def verdicts(rows: Rows, comparison: str) -> list[Verdict]:
    """Of all numbers that both programs of a comparison have."""
    samples = {who: samples_of(rows, comparison, who) for who in ("ours", OTHERS[comparison])}
    ours, theirs = samples.values()
    names = [name for name in NUMBERS if ours.get(name) and theirs.get(name)]
    found = [compare(name, ours[name], theirs[name], count=len(names)) for name in names]
    return [verdict for verdict in found if verdict]


def samples_of(rows: Rows, comparison: str, program: str) -> dict[str, list[float]]:
    """The numbers of all seeds of a program, by name."""
    chosen = of_program(rows, comparison, program)
    samples: dict[str, list[float]] = {"knn": [row["knn"] for row in chosen]}
    for name in AXES:
        curves = [row["curves"][name] for row in chosen if name in row["curves"]]
        samples[name] = [statistics.mean(curve[-(len(curve) // 4 or 1) :]) for curve in curves]
    return samples


def of_program(rows: Rows, comparison: str, program: str) -> list[Mapping[str, Any]]:
    """Its rows in a comparison, by seed."""
    named = [row for row in rows if (row["what"]["comparison"], row["what"]["program"]) == (comparison, program)]
    return sorted(named, key=lambda row: row["what"]["seed"])


_EXACT, _FOLLOWING = "ours float64", ("official", "ours float32", "ours rounded")


def distances(trainings: Sequence[Any], folder: pathlib.Path) -> dict[str, Any]:
    """The row of relative distances |a - b| / |b| of all weights, b ours in float64, on given views."""
    from benchmarks.training_rows import ours as worker

    kept = {one.program: dict(np.load(folder / f"{one.stem}.npz")) for one in trainings}
    steps, found = trainings[-1].given["keep"], {name: [] for name in _FOLLOWING}
    for step in steps:
        exact = at_step(kept["ours float64"], step)
        there = worker.by_our_names(kept["official"], step=step)
        for name in _FOLLOWING:
            weights = there if name == "official" else at_step(kept[name], step)
            found[name].append(relative_distance(weights, exact))
    what = {"comparison": "follow", "program": "distances", "seed": 0}
    return {"what": what, "steps": list(steps), "distances": found}


def at_step(arrays: Mapping[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """The weights of one step, without its number."""
    return {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith(f"{step}:")}


def relative_distance(weights: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> float:
    """|weights - exact| / |exact| over all arrays of `exact`, in float64."""
    apart = sum(float(np.sum((np.float64(weights[name]) - exact[name]) ** 2)) for name in exact)
    return math.sqrt(apart / sum(float(np.sum(np.float64(array) ** 2)) for array in exact.values()))


def ratio(row: Mapping[str, Any]) -> float:
    """Their distance from ours in float64 over ours in float32, as the geometric mean of all steps but the first."""
    pairs = zip(row["distances"]["official"], row["distances"]["ours float32"], strict=True)
    logs = [math.log(theirs / own) for theirs, own in pairs if theirs > 0 and own > 0]
    return math.exp(statistics.mean(logs)) if logs else 0.0


def write(rows: Rows, output: pathlib.Path) -> int:
    """Writes the part of the page between its marks and the pictures beside it; 1 if something does not agree."""
    follow = of_program(rows, "follow", "distances")
    parts = [section(rows, "own", output), *(followed(rows, row, output) for row in follow)]
    parts.append(section(rows, "lightly", output))
    text = "\n\n".join(part for part in parts if part) or "No training has been made yet."
    marks = f"<!-- {STEM}: from here on written by a program -->\n<!-- end of {STEM} -->\n"
    page = output.read_text() if output.exists() else marks
    output.write_text(page_lib.replace_part(page, STEM, text))
    bad = [verdict for name in OTHERS for verdict in verdicts(rows, name) if not verdict.agrees]
    return int(bool(bad) or any(ratio(row) > MOST_RATIO for row in follow))


def section(rows: Rows, comparison: str, output: pathlib.Path) -> str:
    """A comparison of trainings on their own random numbers: what it was, the table, the picture."""
    other = OTHERS[comparison]
    ours, theirs = of_program(rows, comparison, "ours"), of_program(rows, comparison, other)
    if not ours or not theirs:
        return ""
    title = {"own": "Own random numbers, beside the official program", "lightly": "Beside lightly's own recipe"}
    picture = output.with_name(f"{output.stem}_{comparison}.svg")
    draw_curves({"ours": ours, other: theirs}, picture)
    found = verdicts(rows, comparison)
    head = ("number", "ours", other, "apart", "allowed", "verdict")
    shown = page_lib.table(head, [line(verdict) for verdict in found], right=(1, 2, 3, 4))
    shown = shown if found else "One seed a program is too few for a verdict."
    alt = f"Ours and {other} over the steps: mean and standard deviation of the seeds"
    return f"## {title[comparison]}\n\n{about(ours, theirs)}\n\n{shown}\n\n![{alt}]({picture.name})"


def line(verdict: Verdict) -> list[str]:
    """Of the table of verdicts."""
    name, form, factor = NUMBERS[verdict.name]
    cells = [
        f"{form.format(factor * statistics.mean(values))} ± {form.format(factor * statistics.stdev(values))}"
        for values in (verdict.ours, verdict.theirs)
    ]
    word = "agrees" if verdict.agrees else "**differs**"
    return [name, *cells, f"{verdict.apart:.2f}", f"{verdict.allowed:.2f}", word]


def about(ours: Rows, theirs: Rows) -> str:
    """When, with what and for how long."""
    last = max(ours, key=lambda row: row["date"])
    versions = [row["versions"] for row in theirs]
    steps = ours[0]["what"]["window"] * len(ours[0]["curves"]["loss"])
    seconds = [statistics.mean(row["cpu_seconds"] for row in of) / steps for of in (ours, theirs)]
    data, split = (ours[0]["what"]["config"][section] for section in ("data", "split"))
    told = [
        page_lib.about(last, hardware="CPU, one thread for a training", more=versions),
        f"{data['name']}, {split['train']} and {split['test']}; {steps} steps of batch "
        f"{ours[0]['what']['config']['train']['batch_size']}, ResNet-18 of width "
        f"{ours[0]['what']['config']['encoder']['width_multiplier']:g}; seeds: {len(ours)} and {len(theirs)}; "
        f"{seconds[0]:.2f} and {seconds[1]:.2f} s of CPU a step, all told.",
    ]
    return textwrap.fill(" ".join(told), 120, break_on_hyphens=False, break_long_words=False)


def followed(rows: Rows, row: Mapping[str, Any], output: pathlib.Path) -> str:
    """The comparison on the same weights and views: distances over the steps, the losses' differences, the picture."""
    losses = {who: of_program(rows, "follow", who)[0]["curves"]["loss"] for who in (*row["distances"], _EXACT)}
    exact = losses[_EXACT]
    away = {who: [abs(a - b) / b for a, b in zip(losses[who], exact, strict=True)] for who in row["distances"]}
    picture = output.with_name(f"{output.stem}_follow.svg")
    draw_distances(row, away, picture)
    head = ("step", *(f"{what}: {who}" for what in ("weights", "loss") for who in row["distances"]))
    shown = [
        [
            str(step),
            *(f"{of[i]:.1e}" for of in row["distances"].values()),
            *(f"{of[step - 1]:.1e}" for of in away.values()),
        ]
        for i, step in enumerate(row["steps"])
    ]
    table = page_lib.table(head, shown, right=range(len(head)))
    said = f"The official program is {ratio(row):.2f} times as far from ours in float64 as ours in float32 is"
    said += f" (geometric mean over the steps; at most {MOST_RATIO:g} allowed): "
    said += (
        "rounding like ours explains it." if ratio(row) <= MOST_RATIO else "rounding like ours does **not** explain it."
    )
    alt = "Relative distances from ours in float64 over the steps"
    text = textwrap.fill(said, 120)
    return f"## Same weights, same views\n\n{text}\n\n{table}\n\n![{alt}]({picture.name})"


def draw_curves(programs: Mapping[str, Rows], path: pathlib.Path) -> None:
    """A panel for each metric: mean of the seeds and a band of one standard deviation on both sides."""
    names = [name for name in AXES if all(name in row["curves"] for rows in programs.values() for row in rows)]
    figure, panels = new_figure(len(names))
    for panel, name in zip(panels, names, strict=True):
        for color, (who, rows) in zip(("#0072b2", "#d55e00"), programs.items(), strict=True):
            curves = np.asarray([row["curves"][name] for row in rows])
            window = programs["ours"][0]["what"]["window"]
            steps, mean = window * (np.arange(curves.shape[1]) + 0.5), curves.mean(axis=0)
            band = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
            panel.fill_between(steps, mean - band, mean + band, color=color, alpha=0.2, linewidth=0)
            panel.plot(steps, mean, color=color, label=f"{who}, {len(curves)} seeds", linewidth=1.5)
        panel.set_title(AXES[name], fontsize=10)
        panel.set_xlabel("step")
    panels[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def draw_distances(row: Mapping[str, Any], losses: Mapping[str, Sequence[float]], path: pathlib.Path) -> None:
    """Two panels with logarithmic scales: the distance of all weights, and of the loss."""
    figure, panels = new_figure(2)
    for color, who in zip(("#d55e00", "#0072b2", "#009e73"), row["distances"], strict=False):
        panels[0].semilogy(row["steps"], row["distances"][who], "o-", color=color, label=who, markersize=3)
        panels[1].semilogy(range(1, len(losses[who]) + 1), losses[who], color=color, label=who, linewidth=1)
    for panel, title in zip(panels, ("all weights", "contrastive loss"), strict=True):
        panel.set_title(f"{title}: relative distance from ours in float64", fontsize=10)
        panel.set_xlabel("step")
    panels[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def new_figure(count: int, *, rows: int = 1) -> tuple[Any, Any]:
    """A figure with `rows` rows of `count` panels, and the panels one row after the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * count, 3.0 * rows), layout="constrained")
    return figure, figure.subplots(rows, count, squeeze=False).ravel()


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes an SVG whose bytes depend on nothing but the numbers."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": STEM, "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
