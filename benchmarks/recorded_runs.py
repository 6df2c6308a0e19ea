"""Recorded runs: CIFAR-10 with a ResNet-18, 100 and 200 epochs at batch 512, three seeds, beside the peers' rows.

    python benchmarks/recorded_runs.py --workdir=runs/recorded --data_name=tfds:cifar10/jpeg --data_dir=FOLDER
    python benchmarks/recorded_runs.py --workdir=runs/recorded ... --write    the table into benchmarks/README.md
    python benchmarks/recorded_runs.py --tiny      all of it on a CPU within two minutes; no figures

Every run is an ordinary `simclr-jax train --config=cifar10:epochs=N`; then its frozen features are scored by kNN with
k = 10 (uniform votes), by kNN with k = 200 (weighted) and by the linear probe, all with all labels. Each call lasts at
most `--minutes`; the same command goes on. Seeds first: all lengths of seed 0, then of seed 1.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import harness, resumable, timing
from simclr_jax.run import workdir as workdir_lib

LEAST_SECONDS = 60.0
# The last epochs' features: name -> (k, weights) of kNN; the third score is the linear probe.
NEIGHBORS = {"knn10": (10, "uniform"), "knn200": (200, "similarity")}
SCORES = (*NEIGHBORS, "linear")
# Published for CIFAR-10 itself and a ResNet-18 at batch 512: source, epochs, kNN 10, kNN 200, linear, minutes.
PEERS = (
    ("dkobak/simclr-cifar10, 3 seeds, A100", 100, "83.2 ± .2", "-", "85.6 ± .2", "20"),
    ("lightly's benchmark page, best epoch on the test set, RTX A6000", 200, "-", "84.8", "-", "87"),
)
TINY = {
    **resumable.TINY,
    "train.batch_size": 128,
    "train.log_every_steps": 1,
    "schedule.warmup_epochs": 0.2,
}


class Plan(NamedTuple):
    """What is run: the folder of all runs, numbers of epochs, seeds, values of the config, and the environment."""

    folder: pathlib.Path
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    overrides: Mapping[str, Any]
    environment: Mapping[str, str] = {}

    def runs(self) -> list[tuple[int, int, pathlib.Path]]:
        """(epochs, seed, folder) of all runs in their order."""
        return [(n, seed, self.folder / f"epochs{n}-seed{seed}") for seed in self.seeds for n in self.epochs]


def go_on(plan: Plan, clock: resumable.Clock) -> bool:
    """Trains and scores what is left until the clock has run down; returns whether all is done.

    Raises:
        RuntimeError: a run or its scoring failed.
    """
    for epochs, seed, folder in plan.runs():
        if "scores" in workdir_lib.read_results(folder):
            continue
        if clock.left < LEAST_SECONDS:
            return False
        if resumable.read(folder).ended != "finished":
            words = resumable.train_words(f"cifar10:epochs={epochs}", {**plan.overrides, "seed": seed})
            ended = resumable.go_on(folder, words, clock=clock, environment=plan.environment).ended
            if ended not in ("", "finished"):
                raise RuntimeError(f"{epochs} epochs, seed {seed}: {ended}")
            if not ended or clock.left < LEAST_SECONDS:
                return False
        scores = in_own_process(folder / "run", plan.environment, timeout=max(clock.left, LEAST_SECONDS))
        if scores is None:
            return False
        workdir_lib.update_results(folder, scores=scores)
    return True


def in_own_process(
    folder: pathlib.Path, environment: Mapping[str, str], *, timeout: float
) -> dict[str, float | int] | None:
    """`score` of the run in `folder`; None if there was not time enough.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), f"--worker={folder}"]
    whole = resumable.child_environment(environment)
    try:
        done = subprocess.run(command, env=whole, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(f"scoring {folder}: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def score(folder: pathlib.Path) -> dict[str, float | int]:
    """SCORES of the run's last checkpoint in [0, 1], all labels, and "num_train", "num_test"."""
    from simclr_jax import data, models, probes
    from simclr_jax.distributed import sharding
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import features

    config = workdir_lib.read_config(folder)
    splits = [
        config_lib.call(data.load_split, config, "data", split=config["split"][name]) for name in ("train", "test")
    ]
    _, variables = features.load_encoder_variables(folder, which="latest")
    encode = features.make_encode(
        config_lib.call(models.make_encoder, config, "encoder"),
        size=config["augment"]["image_size"],
        resize=config["augment"]["resize"],
        batch_size=config["probe"]["batch_size"],
        mesh=sharding.make_mesh(),
    )
    train, test = (encode(variables, split) for split in splits)
    labels, truth = splits[0].labels, splits[1].labels
    num_classes = len(splits[0].class_names)
    found: dict[str, float | int] = {"num_train": len(train), "num_test": len(test)}
    for name, (k, weights) in NEIGHBORS.items():
        predictions = probes.knn(train, labels, test, num_classes=num_classes, k=k, weights=weights)
        found[name] = probes.accuracy(predictions, truth)
    linear = probes.linear(train, labels, test, num_classes=num_classes)
    return {**found, "linear": probes.accuracy(linear.predictions, truth)}


def table(plan: Plan) -> str:
    """Our runs and the peers' rows in Markdown: per cent, mean and standard deviation over seeds."""
    lines = [
        "| run | epochs | seeds | kNN, k = 10 | kNN, k = 200 | linear | minutes | views/s | peak memory |",
        "| --- " * 9 + "|",
    ]
    title = resumable.data_title(str(plan.overrides.get("data.name", "tfds:cifar10")))
    for epochs in plan.epochs:
        folders = [
            folder for n, _, folder in plan.runs() if n == epochs and "scores" in workdir_lib.read_results(folder)
        ]
        if not folders:
            continue
        scores, runs = [workdir_lib.read_results(f)["scores"] for f in folders], [resumable.read(f) for f in folders]
        cells = [resumable.mean_and_spread([100 * s[name] for s in scores], ".1f") for name in SCORES]
        cells.append(resumable.mean_and_spread([run.minutes for run in runs], ".1f"))
        rates = [2 * run.images_per_second for run in runs if run.images_per_second]
        cells.append(resumable.mean_and_spread(rates, ",.0f"))
        peaks = [run.peak_bytes for run in runs if run.peak_bytes]
        cells.append(f"{max(peaks) / 1e9:.2f} GB" if peaks else "-")
        lines.append(f"| simclr_jax, {title} | {epochs} | {len(folders)} | {' | '.join(cells)} |")
    for source, epochs, knn10, knn200, linear, minutes in PEERS:
        lines.append(f"| {source}, CIFAR-10 | {epochs} | | {knn10} | {knn200} | {linear} | {minutes} | - | - |")
    return "\n".join(lines)


def part(plan: Plan) -> str:
    """What stands between the marks of benchmarks/README.md: the table with its command, hardware, versions, date."""
    about = timing.describe(("jax", "jaxlib", "flax", "optax"))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    runs = [resumable.read(folder) for _, _, folder in plan.runs()]
    devices = ", ".join(sorted({run.devices for run in runs} - {""}))
    command = f"--workdir=FOLDER --data_name={plan.overrides.get('data.name', 'tfds:cifar10')}"
    return (
        f"```\npython benchmarks/recorded_runs.py {command}\n```\n\n"
        f"{about['date']}, commit {about['commit']}, {devices}, Python {about['python']}, {versions}. Config `cifar10` "
        "at batch 512; minutes are of the whole run: starting, compiling and evaluating included. The peers' rows are "
        "published figures of CIFAR-10 itself, with their own recipes, and not comparable with those of the JPEG copy."
        f"\n\n{table(plan)}"
    )


def write(plan: Plan) -> str:
    """Puts `part` into benchmarks/README.md; returns what was wrong, "" if nothing."""
    runs = [resumable.read(folder) for _, _, folder in plan.runs()]
    if not any("scores" in workdir_lib.read_results(folder) for _, _, folder in plan.runs()):
        return "--write needs a run that is scored; there is none in the workdir yet."
    if any("(cpu)" in run.devices for run in runs):
        return "--write is for runs on an accelerator; these were made on a CPU."
    page = harness.README.read_text()
    harness.README.write_text(harness.replace_part(page, "recorded_runs", part(plan), by="recorded_runs.py --write"))
    return ""


def tiny(folder: pathlib.Path) -> int:
    """A run of one and one of two epochs, stopped once, on a CPU; the exit code."""
    quick = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    plan = Plan(folder, (1, 2), (0,), TINY, quick)
    done = not go_on(
        plan, resumable.Clock((LEAST_SECONDS + 1) / 60)
    )  # a clock that ends within the first run or after it
    while not go_on(plan, resumable.Clock(5)):
        pass
    refused = write(plan)
    print(part(plan))
    return 0 if refused and done else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a call; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, help="where all runs are kept")
    parser.add_argument("--epochs", default="100,200")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--data_name", default="tfds:cifar10", help="as config.data.name")
    parser.add_argument("--data_dir", help="as config.data.data_dir")
    parser.add_argument("--write", action="store_true", help="writes the table of what is done; runs nothing")
    parser.add_argument("--tiny", action="store_true", help="proves all of it on a CPU")
    parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        print(json.dumps(score(asked.worker)))
        return 0
    if asked.tiny and asked.write:
        parser.error("--write is for figures; --tiny has none")
    if asked.tiny:
        return tiny(resumable.tiny_folder(asked.workdir))
    if asked.workdir is None:
        parser.error("--workdir is required")
    overrides: dict[str, Any] = {"data.name": asked.data_name, "data.canvas_size": 32}
    overrides |= {"data.data_dir": asked.data_dir} if asked.data_dir else {}
    epochs, seeds = (tuple(int(number) for number in given.split(",")) for given in (asked.epochs, asked.seeds))
    plan = Plan(asked.workdir, epochs, seeds, overrides)
    if asked.write:
        refused = write(plan)
        print(refused or "Written into benchmarks/README.md.")
        return 2 if refused else 0
    try:
        done = go_on(plan, resumable.Clock(asked.minutes))
    except RuntimeError as error:
        print(f"recorded_runs: {error}", file=sys.stderr)
        return 1
    print(table(plan))
    if not done:
        print("Not all runs are done: go on with the same command.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
