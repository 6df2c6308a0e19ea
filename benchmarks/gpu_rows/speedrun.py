"""The speedrun: minutes from nothing to 90 % kNN (k = 10, cosine) on CIFAR-10 with a ResNet-18, seed by seed.

    python benchmarks/gpu.py speedrun --workdir=runs/speedrun --data_name=tfds:cifar10/jpeg --data_dir=FOLDER
    python benchmarks/gpu.py speedrun --workdir=runs/speedrun ... --peer      the peer's recipe on the same data
    python benchmarks/gpu.py speedrun --tiny         all of it on a CPU in about a minute; no figures

Each call lasts at most `--minutes`; the same command goes on until every seed has reached the target or its last
epoch. The clock counts all of every call: process start, import, reading data, compiling, evaluating, saving. It then
prints a table and draws the curves. Nothing is carried from one seed to the next: each compiles and decodes for itself.
"""

import argparse
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import children, page, timing
from benchmarks.gpu_rows import pieces
from simclr_jax import base

RECIPES = {"ours": "cifar10_speedrun", "peer": "cifar10_speedrun_peer"}
_COLORS = {"ours": "#0072b2", "peer": "#d55e00"}  # also told apart by those who see fewer colours
# Small enough for a minute on a quiet CPU; what is measured means nothing.
TINY_TARGET = 0.4
TINY = {
    **pieces.TINY,
    "method.proj_hidden_dim": 32,
    "train.batch_size": 64,
    "train.num_epochs": 6.0,
    "train.log_every_steps": 2,
    "train.evaluate_every_epochs": 1.0,
    "schedule.warmup_epochs": 0.5,
}
# Recipe -> seed -> summary.
Runs = Mapping[str, Mapping[int, pieces.Summary]]


def make_plan(
    folder: pathlib.Path,
    recipe: str,
    seeds: tuple[int, ...],
    *,
    target: float,
    overrides: Any,
    epochs: int | None = None,
) -> pieces.Plan:
    """The runs of a recipe, each of which may stop at the target; epochs: None for the recipe's."""
    config = RECIPES[recipe] + (f":epochs={epochs}" if epochs else "")
    runs = {f"{recipe}-seed{seed}": (config, seed) for seed in seeds}
    return pieces.Plan(folder, runs, overrides, pieces.reaching(target))


def summaries(folder: pathlib.Path) -> Runs:
    """All runs in the folder that have begun, the other recipe's as well."""
    found: dict[str, dict[int, pieces.Summary]] = {}
    for recipe in RECIPES:
        for path in sorted(folder.glob(f"{recipe}-seed*")):
            found.setdefault(recipe, {})[int(path.name.rpartition("seed")[2])] = pieces.read(path)
    return found


def table(found: Runs, target: float) -> str:
    """The runs in Markdown, with mean and standard deviation over the seeds of a recipe that reached the target."""
    head = ("recipe", "seed", f"minutes to {100 * target:g} %", "epochs", "best kNN")
    return page.table((*head, "starting", "compiling", "evaluating"), _lines(found, target))


def _lines(found: Runs, target: float) -> Iterator[tuple[str, ...]]:
    for recipe, seeds in found.items():
        for seed, run in seeds.items():
            first = run.first(target)
            reached = f"{first[0]:.1f}" if first else f"not in {run.minutes:.1f}" + ("" if run.ended else ", goes on")
            best = "-" if run.best is None else f"{100 * run.best:.2f}"
            shares = [share(seconds, run.minutes) for seconds in (run.starting, run.compiling, run.evaluating)]
            yield recipe, str(seed), reached, f"{run.epochs:.0f}", best, *shares
        firsts = [first[0] for run in seeds.values() if (first := run.first(target))]
        best = page.mean_and_spread([100 * run.best for run in seeds.values() if run.best is not None], ".2f")
        reached = page.mean_and_spread(firsts, ".1f")
        yield recipe, f"{len(firsts)} of {len(seeds)} seeds", reached, "", best, "", "", ""


def share(seconds: float, minutes: float) -> str:
    """For a table: seconds of a run, and their share of its minutes."""
    return f"{seconds:.0f} s ({100 * seconds / 60 / minutes:.0f} %)" if minutes else "-"


def draw(found: Runs, target: float, *, title: str, path: pathlib.Path) -> None:
    """The kNN accuracy over minutes as PNG: a line for each seed, the target dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=150, layout="constrained")
    for recipe, seeds in found.items():
        label = recipe if recipe == "ours" else "the peer's recipe"
        look = {"color": _COLORS[recipe], "marker": "o" if recipe == "ours" else "s", "markersize": 3, "linewidth": 1.2}
        for number, (seed, run) in enumerate(seeds.items()):
            points = [(minutes, 100 * accuracy) for minutes, _, accuracy in run.scores]
            style = ("-", "--", ":", "-.")[number % 4]
            axes.plot(
                *zip(*points, strict=True) if points else ((), ()), **look, ls=style, label=f"{label}, seed {seed}"
            )
    axes.axhline(100 * target, color="0.3", linewidth=0.9, linestyle=(0, (6, 3)))
    axes.annotate(f"{100 * target:g} %", (0.01, 100 * target), xycoords=("axes fraction", "data"), va="bottom", size=9)
    axes.set(xlabel="minutes on the clock, all included", ylabel="kNN accuracy, % (k = 10, cosine)", title=title)
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


def report(plan: pieces.Plan, target: float, *, output: pathlib.Path) -> str:
    """The text with table and picture, both written into `output`; "" before the first run."""
    found = summaries(plan.folder)
    if not found:
        return ""
    title = pieces.data_title(plan.overrides) + (", tiny" if "encoder.name" in plan.overrides else ", ResNet-18")
    output.mkdir(parents=True, exist_ok=True)
    draw(found, target, title=title, path=output / "speedrun.png")
    facts = timing.describe(pieces.PACKAGES)
    devices = {run.devices for seeds in found.values() for run in seeds.values()} - {""}
    about = page.about(facts, hardware=", ".join([*sorted(devices), facts["hardware"]]))
    text = f"{title}, kNN with k = 10, cosine, uniform votes. {about}\n\n{table(found, target)}\n"
    (output / "speedrun.md").write_text(text)
    return text


def tiny(folder: pathlib.Path) -> tuple[bool, pieces.Plan]:
    """All that a speedrun does, on a CPU in a minute: a stop, going on from there, a target reached, a second seed.

    Returns whether the stop left something to go on with and all runs came to their end, and the plan.
    """
    plan = make_plan(folder, "ours", (0, 1), target=TINY_TARGET, overrides=TINY)._replace(environment=pieces.QUICK)
    clock = children.Clock(5)
    # As a clock that has run down would: after some updates, before a score is enough.
    stopping = plan._replace(verdict=lambda _, line: clock.stop() or "" if line.startswith("step ") else "")
    done = pieces.make_all(stopping, clock)
    stopped = pieces.read(plan.folders[0])
    print(f"stopped after {stopped.minutes:.2f} minutes; going on")
    return not done and not stopped.ended and pieces.make_all(plan, children.Clock(5)), plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The speedrun's own, and what it shares with the recorded runs."""
    add_run_arguments(parser, "all by default")
    parser.add_argument("--output", type=pathlib.Path, help="for speedrun.md and speedrun.png; default: the workdir")
    parser.add_argument("--target", type=float, default=90.0, help="kNN accuracy in per cent")
    parser.add_argument("--epochs", type=int, help="of every run; default: the recipe's")
    parser.add_argument("--peer", action="store_true", help="the peer's recipe in place of ours")


def add_run_arguments(parser: argparse.ArgumentParser, seeds: str) -> None:
    """What every program of training runs is told."""
    parser.add_argument("--workdir", type=pathlib.Path, help="where all runs are kept")
    parser.add_argument("--seeds", default="0,1,2", help=f"of the runs, one after another; {seeds}")
    parser.add_argument("--data_name", default="tfds:cifar10", help="as config.data.name")
    parser.add_argument("--data_dir", help="as config.data.data_dir")


def read_run_arguments(options: argparse.Namespace, **overrides: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """(seeds, overrides with those of the data)."""
    if options.workdir is None:
        raise base.InputError("--workdir is required, a folder that outlives the call; got none.")
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    folder = {"data.data_dir": options.data_dir} if options.data_dir else {}
    return seeds, {"data.name": options.data_name, **overrides, **folder}


def main(options: argparse.Namespace) -> int:
    """Runs a call of the speedrun; returns the exit code."""
    if options.tiny:
        folder = pieces.tiny_folder(options.workdir)
        whole, plan = tiny(folder)
        print(report(plan, TINY_TARGET, output=options.output or folder))
        return 0 if whole else 1
    # Without a cache of decoded images, which one seed would hand to the next.
    seeds, overrides = read_run_arguments(options, **{"data.cache_dir": ""})
    target, recipe = options.target / 100, "peer" if options.peer else "ours"
    plan = make_plan(options.workdir, recipe, seeds, target=target, overrides=overrides, epochs=options.epochs)
    done = pieces.make_all(plan, children.Clock(options.minutes))
    print(report(plan, target, output=options.output or options.workdir))
    if not done:
        print("The speedrun is not over: go on with the same command.")
    return 0
