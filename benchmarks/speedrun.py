"""The race: minutes from nothing to 90 % kNN (k = 10, cosine) on CIFAR-10 with a ResNet-18, seed by seed.

    python benchmarks/speedrun.py --workdir=runs/speedrun --data_name=tfds:cifar10/jpeg --data_dir=FOLDER --minutes=9
    python benchmarks/speedrun.py --workdir=runs/speedrun ... --peer      the peer's recipe on the same data
    python benchmarks/speedrun.py --tiny                              all of it on a CPU in about a minute; no figures

Each call lasts at most `--minutes`; the same command goes on until every seed has reached the target or its last
epoch. The clock counts all of every call: process start, import, reading data, compiling, evaluating, saving. It then
prints a table and draws the curves. Nothing is carried from one seed to the next: each compiles and decodes for itself.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import resumable, timing

RECIPES = {"ours": "cifar10_speedrun", "peer": "cifar10_speedrun_peer"}
# No run begins with less than this left: it would hardly have compiled.
LEAST_SECONDS = 60.0
_COLORS = {"ours": "#0072b2", "peer": "#d55e00"}  # also told apart by those who see fewer colours
# Small enough for a minute on a quiet CPU; what is measured means nothing.
TINY_TARGET = 0.4
TINY = {
    **resumable.TINY,
    "method.proj_hidden_dim": 32,
    "train.batch_size": 64,
    "train.num_epochs": 6.0,
    "train.log_every_steps": 2,
    "train.evaluate_every_epochs": 1.0,
    "schedule.warmup_epochs": 0.5,
}


class Race(NamedTuple):
    """What is run.

    folder: of all its runs. recipes: of RECIPES. target: kNN accuracy in [0, 1]. overrides: section.key -> value of the
    config. epochs: None for the recipe's. environment: added to that of the runs.
    """

    folder: pathlib.Path
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    target: float
    overrides: Mapping[str, Any]
    epochs: int | None = None
    environment: Mapping[str, str] = {}

    def run_folder(self, recipe: str, seed: int) -> pathlib.Path:
        """Where the run of a seed is kept."""
        return self.folder / f"{recipe}-seed{seed}"


def race_on(race: Race, clock: resumable.Clock, *, verdict: resumable.Verdict | None = None) -> bool:
    """Goes on with the speedrun until the clock has run down; returns whether all seeds are at their end.

    `verdict` may stop a run in place of the target.
    """
    for recipe in race.recipes:
        for seed in race.seeds:
            folder = race.run_folder(recipe, seed)
            if resumable.read(folder).ended in ("reached", "finished"):
                continue
            if clock.left < LEAST_SECONDS:
                return False
            config = RECIPES[recipe] + (f":epochs={race.epochs}" if race.epochs else "")
            words = resumable.train_words(config, {**race.overrides, "seed": seed})
            stop = verdict or resumable.reaching(folder, race.target)
            summary = resumable.go_on(folder, words, clock=clock, verdict=stop, environment=race.environment)
            if summary.ended not in ("reached", "finished"):
                if summary.ended:
                    raise RuntimeError(f"{recipe}, seed {seed}: {summary.ended}")
                return False
    return True


def summaries(race: Race) -> dict[str, dict[int, resumable.Summary]]:
    """Recipe -> seed -> summary of all runs in the folder that have begun, the other recipe's as well."""
    found: dict[str, dict[int, resumable.Summary]] = {}
    for recipe in RECIPES:
        for path in sorted(race.folder.glob(f"{recipe}-seed*")):
            found.setdefault(recipe, {})[int(path.name.rpartition("seed")[2])] = resumable.read(path)
    return found


def table(found: Mapping[str, Mapping[int, resumable.Summary]], target: float) -> str:
    """The race as a table in Markdown, with mean and standard deviation over the seeds of a recipe that reached it."""
    goal = f"{100 * target:g} %"
    head = f"| recipe | seed | minutes to {goal} | epochs | best kNN | starting | compiling | evaluating |"
    lines = [head, "| --- " * 8 + "|"]
    for recipe, seeds in found.items():
        firsts = []
        for seed, run in seeds.items():
            first = run.first(target)
            firsts += [first[0]] if first else []
            reached = f"{first[0]:.1f}" if first else f"not in {run.minutes:.1f}" + ("" if run.ended else ", goes on")
            best = "-" if run.best is None else f"{100 * run.best:.2f}"
            shares = [
                resumable.minutes_and_share(s, run.minutes) for s in (run.starting, run.compiling, run.evaluating)
            ]
            lines.append(f"| {recipe} | {seed} | {reached} | {run.epochs:.0f} | {best} | {' | '.join(shares)} |")
        best = resumable.mean_and_spread([100 * run.best for run in seeds.values() if run.best is not None], ".2f")
        count = f"{len(firsts)} of {len(seeds)} seeds"
        lines.append(f"| {recipe} | {count} | {resumable.mean_and_spread(firsts, '.1f')} | | {best} | | | |")
    return "\n".join(lines)


def draw(
    found: Mapping[str, Mapping[int, resumable.Summary]], target: float, *, title: str, path: pathlib.Path
) -> None:
    """The kNN accuracy over minutes as PNG: a line for each seed, the target dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=150, layout="constrained")
    for recipe, seeds in found.items():
        label = recipe if recipe == "ours" else "the peer's recipe"
        for number, (seed, run) in enumerate(seeds.items()):
            points = [(minutes, 100 * accuracy) for minutes, _, accuracy in run.scores]
            axes.plot(
                *zip(*points, strict=True) if points else ((), ()),
                color=_COLORS[recipe],
                marker="o" if recipe == "ours" else "s",
                markersize=3,
                linewidth=1.2,
                linestyle=("-", "--", ":", "-.")[number % 4],
                label=f"{label}, seed {seed}",
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


def report(race: Race, *, output: pathlib.Path) -> str:
    """The text with table and picture, both written into `output`; "" before the first run."""
    found = summaries(race)
    if not found:
        return ""
    title = resumable.data_title(str(race.overrides.get("data.name", "tfds:cifar10")))
    output.mkdir(parents=True, exist_ok=True)
    title += ", tiny" if race.overrides.get("encoder.name") else ", ResNet-18"
    draw(found, race.target, title=title, path=output / "speedrun.png")
    about = timing.describe(("jax", "jaxlib", "flax", "optax"))
    devices = ", ".join(sorted({run.devices for seeds in found.values() for run in seeds.values()} - {""}))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    text = (
        f"{title}, kNN with k = 10, cosine, uniform votes. {about['date']}, commit {about['commit']}, "
        f"Python {about['python']}, {versions}; {devices}; {about['hardware']}.\n\n{table(found, race.target)}\n"
    )
    (output / "speedrun.md").write_text(text)
    return text


def tiny(folder: pathlib.Path) -> bool:
    """All that a speedrun does, on a CPU in a minute: a stop, going on from there, a target reached, a second seed.

    Returns whether the stop left something to go on with and all runs came to their end.
    """
    quick = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    race = Race(folder, ("ours",), (0, 1), TINY_TARGET, TINY, environment=quick)
    clock = resumable.Clock(5)
    # As a clock that has run down would: after some updates, before a score is enough.
    done = race_on(race, clock, verdict=lambda line: clock.stop() or "" if line.startswith("step ") else "")
    stopped = resumable.read(race.run_folder("ours", 0))
    print(f"stopped after {stopped.minutes:.2f} minutes; going on")
    return not done and not stopped.ended and race_on(race, resumable.Clock(5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a call of the speedrun; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, help="where all runs are kept")
    parser.add_argument(
        "--output", type=pathlib.Path, help="where speedrun.md and speedrun.png go; default: the workdir"
    )
    parser.add_argument("--seeds", default="0,1,2", help="of the runs, one after another")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--target", type=float, default=90.0, help="kNN accuracy in per cent")
    parser.add_argument("--epochs", type=int, help="of every run; default: the recipe's")
    parser.add_argument("--peer", action="store_true", help="the peer's recipe in place of ours")
    parser.add_argument("--data_name", default="tfds:cifar10", help="as config.data.name")
    parser.add_argument("--data_dir", help="as config.data.data_dir")
    parser.add_argument("--tiny", action="store_true", help="proves all of it on a CPU in about a minute")
    asked = parser.parse_args(arguments)
    if asked.tiny:
        folder = resumable.tiny_folder(asked.workdir)
        whole = tiny(folder)
        print(report(Race(folder, ("ours",), (0, 1), TINY_TARGET, TINY), output=asked.output or folder))
        return 0 if whole else 1
    if asked.workdir is None:
        parser.error("--workdir is required")
    # Without a cache of decoded images, which one seed would hand to the next.
    overrides: dict[str, Any] = {"data.name": asked.data_name, "data.cache_dir": ""}
    overrides |= {"data.data_dir": asked.data_dir} if asked.data_dir else {}
    recipe = "peer" if asked.peer else "ours"
    seeds = tuple(int(seed) for seed in asked.seeds.split(","))
    race = Race(asked.workdir, (recipe,), seeds, asked.target / 100, overrides, asked.epochs)
    try:
        done = race_on(race, resumable.Clock(asked.minutes))
    except RuntimeError as error:
        print(f"race: {error}", file=sys.stderr)
        return 1
    print(report(race, output=asked.output or asked.workdir))
    if not done:
        print("The race is not over: go on with the same command.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
