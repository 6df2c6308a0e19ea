"""Recorded runs: CIFAR-10 with a ResNet-18, 100 and 200 epochs at batch 512, three seeds, beside the peers' rows.

    python benchmarks/gpu.py recorded --workdir=runs/recorded --data_name=tfds:cifar10/jpeg --data_dir=FOLDER
    python benchmarks/gpu.py recorded --workdir=runs/recorded ... --write    the table into benchmarks/README.md
    python benchmarks/gpu.py recorded --tiny       all of it on a CPU within two minutes; no figures

Every run is an ordinary `simclr-jax train --config=cifar10:epochs=N`; then its frozen features are scored by kNN with
k = 10 (uniform votes), by kNN with k = 200 (weighted) and by the linear probe, all with all labels. Each call lasts at
most `--minutes`; the same command goes on. Seeds first: all lengths of seed 0, then of seed 1.
"""

import argparse
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import children, page, timing
from benchmarks.gpu_rows import pieces, speedrun
from simclr_jax import base
from simclr_jax.run import workdir as workdir_lib

# The last epochs' features: name -> (k, weights) of kNN; the third score is the linear probe.
NEIGHBORS = {"knn10": (10, "uniform"), "knn200": (200, "similarity")}
SCORES = (*NEIGHBORS, "linear")
# Published for CIFAR-10 itself and a ResNet-18 at batch 512: source, epochs, kNN 10, kNN 200, linear, minutes.
PEERS = (
    ("dkobak/simclr-cifar10, 3 seeds, A100", "100", "83.2 ± .2", "-", "85.6 ± .2", "20"),
    ("lightly's benchmark page, best epoch on the test set, RTX A6000", "200", "-", "84.8", "-", "87"),
)
TINY = {**pieces.TINY, "train.batch_size": 128, "train.log_every_steps": 1, "schedule.warmup_epochs": 0.2}


def make_plan(folder: pathlib.Path, epochs: tuple[int, ...], seeds: tuple[int, ...], *, overrides: Any) -> pieces.Plan:
    """All lengths of a seed, then of the next."""
    runs = {f"epochs{n}-seed{seed}": (f"cifar10:epochs={n}", seed) for seed in seeds for n in epochs}
    return pieces.Plan(folder, runs, overrides)


def make_all(plan: pieces.Plan, clock: children.Clock) -> bool:
    """Trains and scores what is left until the clock has run down; returns whether all is done."""

    def score_once(folder: pathlib.Path) -> bool:
        if "scores" in workdir_lib.read_results(folder):
            return True
        if clock.left < pieces.LEAST_SECONDS:
            return False
        scores = in_own_process(folder, plan.environment, clock)
        if scores:
            workdir_lib.update_results(folder, scores=scores)
        return bool(scores)

    return pieces.make_all(plan, clock, then=score_once)


def in_own_process(folder: pathlib.Path, environment: Mapping[str, str], clock: children.Clock) -> dict[str, Any]:
    """`score` of the run in `folder`; nothing if there was not time enough, a RuntimeError if it failed."""
    command = children.worker("recorded", {"folder": str(folder / "run")})
    ended = children.run(command, clock, environment=children.environment(environment))
    if ended.late:
        return {}
    if ended.reason:
        raise RuntimeError(f"scoring {folder}: {ended.reason}")
    return ended.lines[-1]


def work(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """In a process of its own: the scores of a run."""
    yield score(pathlib.Path(given["folder"]))


def score(folder: pathlib.Path) -> dict[str, Any]:
    """SCORES of the run's last checkpoint in [0, 1], all labels, and "num_train", "num_test"."""
    from simclr_jax import models, probes
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import features, splits

    config = workdir_lib.read_config(folder)
    both, (_, variables) = splits.load(config), features.load_encoder_variables(folder, which="latest")
    assert both.test_set is not None
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    encode = features.make_encode(encoder, **features.evaluation_settings(config))
    train, test = (encode(variables, split) for split in (both.train_set, both.test_set))
    rows, truth = (train, both.train_set.labels, test), {"test_labels": both.test_set.labels}
    found = {
        name: probes.knn_accuracy(*rows, **truth, k=k, weights=weights) for name, (k, weights) in NEIGHBORS.items()
    }
    linear = probes.linear_accuracy(*rows, **truth)
    return {"num_train": len(train), "num_test": len(test), **found, "linear": linear}


def scored(plan: pieces.Plan) -> list[pathlib.Path]:
    """The folders of the runs that have scores."""
    return [folder for folder in plan.folders if "scores" in workdir_lib.read_results(folder)]


def table(plan: pieces.Plan) -> str:
    """Our runs and the peers' rows in Markdown: per cent, mean and standard deviation over seeds."""
    head = ("run", "epochs", "seeds", "kNN, k = 10", "kNN, k = 200", "linear", "minutes", "views/s", "peak memory")
    peers = [(f"{source}, CIFAR-10", epochs, "", *scores, "-", "-") for source, epochs, *scores in PEERS]
    return page.table(head, [*_lines(plan), *peers])


def _lines(plan: pieces.Plan) -> Iterator[tuple[str, ...]]:
    for epochs in dict.fromkeys(name.partition("-")[0] for name in plan.runs):
        folders = [folder for folder in scored(plan) if folder.name.startswith(f"{epochs}-")]
        scores, runs = [workdir_lib.read_results(f)["scores"] for f in folders], [pieces.read(f) for f in folders]
        cells = [page.mean_and_spread([100 * s[name] for s in scores], ".1f") for name in SCORES]
        rates = [2 * run.images_per_second for run in runs if run.images_per_second]
        peaks = [run.peak_bytes for run in runs if run.peak_bytes]
        cells += [page.mean_and_spread([run.minutes for run in runs], ".1f"), page.mean_and_spread(rates, ",.0f")]
        cells.append(f"{max(peaks) / 1e9:.2f} GB" if peaks else "-")
        if folders:
            title = pieces.data_title(plan.overrides)
            yield f"simclr_jax, {title}", epochs.removeprefix("epochs"), str(len(folders)), *cells


def part(plan: pieces.Plan) -> str:
    """What stands between the marks of benchmarks/README.md: the table with its command, hardware, versions, date."""
    devices = ", ".join(sorted({pieces.read(folder).devices for folder in plan.folders} - {""}))
    command = f"--workdir=FOLDER --data_name={plan.overrides.get('data.name', 'tfds:cifar10')}"
    return (
        f"```\npython benchmarks/gpu.py recorded {command}\n```\n\n"
        f"{page.about(timing.describe(pieces.PACKAGES), hardware=devices)} Config `cifar10` "
        "at batch 512; minutes are of the whole run: starting, compiling and evaluating included. The peers' rows are "
        "published figures of CIFAR-10 itself, with their own recipes, and not comparable with those of the JPEG copy."
        f"\n\n{table(plan)}"
    )


def write(plan: pieces.Plan) -> None:
    """Puts `part` into benchmarks/README.md, unless there are no figures or they are a CPU's."""
    if not scored(plan):
        raise base.InputError("--write needs a run that is scored; there is none in the workdir yet.")
    if any("(cpu)" in pieces.read(folder).devices for folder in plan.folders):
        raise base.InputError("--write is for runs on an accelerator; these were made on a CPU.")
    page.write_part("recorded_runs", part(plan))


def tiny(folder: pathlib.Path) -> int:
    """A run of one and one of two epochs, stopped once, on a CPU; the exit code."""
    plan = make_plan(folder, (1, 2), (0,), overrides=TINY)._replace(environment=pieces.QUICK)
    # A clock that ends within the first run or after it.
    stopped = not make_all(plan, children.Clock((pieces.LEAST_SECONDS + 1) / 60))
    while not make_all(plan, children.Clock(5)):
        pass
    print(part(plan))
    try:
        write(plan)
    except base.InputError:
        return 0 if stopped else 1
    return 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recorded runs' own, and what they share with the speedrun."""
    speedrun.add_run_arguments(parser, "all lengths of one before the next")
    parser.add_argument("--epochs", default="100,200")
    parser.add_argument("--write", action="store_true", help="writes the table of what is done; runs nothing")


def main(options: argparse.Namespace) -> int:
    """Runs a call; returns the exit code."""
    if options.tiny and options.write:
        raise base.InputError("--write is for figures; --tiny has none.")
    if options.tiny:
        return tiny(pieces.tiny_folder(options.workdir))
    seeds, overrides = speedrun.read_run_arguments(options, **{"data.canvas_size": 32})
    epochs = tuple(int(number) for number in options.epochs.split(","))
    plan = make_plan(options.workdir, epochs, seeds, overrides=overrides)
    if options.write:
        write(plan)
        print("Written into benchmarks/README.md.")
        return 0
    done = make_all(plan, children.Clock(options.minutes))
    print(table(plan))
    if not done:
        print("Not all runs are done: go on with the same command.")
    return 0
