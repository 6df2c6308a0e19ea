"""Whole runs on a CPU by the verbs: pretraining, few labels, a student; writes what came out into docs/cpu_runs.md.

    python benchmarks/cpu_runs.py --workdir=runs/cpu --data_dir=FOLDER          # rows that are missing; the page
    python benchmarks/cpu_runs.py --workdir=runs/cpu --data_dir=FOLDER --seeds 3 --only imagenette
    python benchmarks/cpu_runs.py --workdir=FOLDER --tiny --rows FILE --output PAGE        # proves it with a few steps

Every row is one `simclr-jax train` and one `simclr-jax evaluate`, whose commands stand on the page. It is kept in
--rows as soon as it is made and is not made again while its command stays the same; a run that was killed goes on.
"""

import argparse
import os
import pathlib
import resource
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import children, kept_rows, timing
from benchmarks import page as page_lib
from simclr_jax import base
from simclr_jax.run import workdir as workdir_lib

PAGE, KEPT, STEM = ROOT / "docs" / "cpu_runs.md", ROOT / "benchmarks" / "cpu_runs.json", "cpu_runs"
_WHERE = "DATA"  # in the place of the folder of the data, which a row does not depend on
_HOURS = 3.0


class Set(NamedTuple):
    """What is trained on. data: the words that name it. network: the encoder's. config: that of the pretraining."""

    title: str
    data: tuple[str, ...]
    network: tuple[str, ...]
    config: str


SETS = {
    "imagenette": Set(
        "Imagenette (224 px square copy) at 64 px",
        (
            "--config.data.name=tfds:imagenette/square224",
            f"--config.data.data_dir={_WHERE}",
            "--config.augment.image_size=64",
        ),
        ("--config.encoder.stem=imagenet", "--config.encoder.width_multiplier=0.5"),
        "cifar10_tiny:epochs=8",
    ),
    "cifar10": Set(
        "CIFAR-10 (JPEG)",
        ("--config.data.name=tfds:cifar10/jpeg", f"--config.data.data_dir={_WHERE}"),
        ("--config.encoder.stem=cifar", "--config.encoder.width_multiplier=0.25"),
        "cifar10_tiny:epochs=2",
    ),
    "tiny": Set(
        "a few steps of a thin network",
        ("--config.data.name=photo-patches",),
        ("--config.encoder.stem=cifar", "--config.encoder.width_multiplier=0.0625"),
        "cifar10_tiny:epochs=1",
    ),
}
_TINY = ("--config.train.num_epochs=0.01", "--config.train.batch_size=16", "--config.schedule.warmup_epochs=0.0")
# What else the recipes of fine-tuning and distillation need here: they are those of ImageNet and a large batch.
_SMALL = ("--config.encoder.name=resnet10", "--config.encoder.dtype=float32")
_STUDENT = ("--config.train.batch_size=128", "--config.train.num_epochs=6", "--config.schedule.warmup_epochs=0.6")


def plan(name: str, folder: str) -> dict[str, tuple[str, ...]]:
    """The words of `simclr-jax train`, by the run's name, in an order in which each finds those that it starts from."""
    of = SETS[name]
    network, more = (*_SMALL, *of.network), _TINY if name == "tiny" else ()
    runs = {"pretrained": (f"--config={of.config}", *network, *of.data)}
    for labels in (1, 10):
        runs[f"tuned{labels}"] = (f"--config=finetune:{folder}/pretrained,labels={labels}",)
        runs[f"scratch{labels}"] = (f"--config=finetune:,labels={labels}", *network, *of.data)
    runs["student"] = (f"--config=distill:{folder}/tuned10", *network, *_STUDENT)
    return {run: (*words, "--config.train.evaluate_every_epochs=0.0", *more) for run, words in runs.items()}


WHAT = {
    "pretrained": "SimCLR without labels, then a linear probe on the frozen features",
    "tuned1": "the same network fine-tuned with 1 % of the labels",
    "scratch1": "the same recipe from nothing, 1 % of the labels",
    "tuned10": "the same network fine-tuned with 10 % of the labels",
    "scratch10": "the same recipe from nothing, 10 % of the labels",
    "student": "a new network of the same size that learns what the one tuned with 10 % says of all images, no labels",
}


def make_row(name: str, run: str, seed: int, folder: pathlib.Path, data_dir: str) -> dict[str, Any]:
    """Trains and evaluates; the row. Raises RuntimeError with what the program said if it fails."""
    home, begin = folder / f"{name}-seed{seed}", _cpu_seconds()
    words = [word.replace(_WHERE, data_dir) for word in plan(name, str(home))[run]]
    train = ["train", f"--workdir={home / run}", f"--config.seed={seed}", *words]
    for verb in (train, ["evaluate", f"--workdir={home / run}"]):
        command = [sys.executable, "-m", "simclr_jax", *verb]
        ended = children.run(command, children.Clock(60 * _HOURS), environment=children.environment({}))
        if ended.reason:
            raise RuntimeError(f"{name} {run} {seed}: {ended.reason}")
    results = workdir_lib.read_results(home / run)
    return {
        "what": _what(name, run, seed),
        "scores": scores_of(results),
        "cpu_seconds": _cpu_seconds() - begin,
        "load": os.getloadavg()[0],
        **timing.describe(("jax", "flax", "optax", "numpy")),
    }


def _what(name: str, run: str, seed: int) -> dict[str, Any]:
    return {"set": name, "run": run, "seed": seed, "words": list(plan(name, "RUNS")[run])}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Of `results.json`: the classifier's accuracy, and kNN and the linear probe by features and labels, in %."""
    scores = {f"{row['features']}, {row['probe']}, {row['labels']}": row["accuracy"] for row in results["probes"]}
    if results["classifier"]:
        scores["classifier"] = results["classifier"]["top_1"]
    kept = {key: of for key, of in scores.items() if key == "classifier" or key.split(", ")[1] in ("knn", "linear")}
    return {key: round(100 * of, 2) for key, of in kept.items()}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The part of the page: a section a set, its table and its commands."""
    parts = [section(name, found) for name in SETS if (found := [row for row in rows if row["what"]["set"] == name])]
    return "\n\n".join(parts) or "No run has been made yet."


def section(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What was made of a set."""
    last = max(rows, key=lambda row: row["date"])
    load, minutes = max(row["load"] for row in rows), sum(row["cpu_seconds"] for row in rows) / 60
    told = page_lib.about(last, hardware=f"two shared CPU cores, load up to {load:.0f}")
    told += f" {minutes:.0f} minutes of CPU in all, evaluations and the start of every process included."
    lines = [line for run in WHAT for line in table_lines(run, [row for row in rows if row["what"]["run"] == run])]
    table = page_lib.table(("run", "labels", "test accuracy, %", "seeds"), lines, right=(2, 3))
    return f"## {SETS[name].title}\n\n{textwrap.fill(told, 120, break_on_hyphens=False)}\n\n{table}\n\n{commands(name)}"


def table_lines(run: str, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The lines of a run: its classifier's, or those of the probes on its features beside those that learnt nothing."""
    if not rows:
        return [[WHAT[run], "-", "-", "0"]]
    if run != "pretrained":
        labels = "of the teacher" if run == "student" else f"{run.strip('tunedscrah')} %"
        values = [row["scores"]["classifier"] for row in rows]
        return [[WHAT[run], labels, page_lib.mean_and_spread(values, ".1f"), str(len(rows))]]
    lines = []
    for features, said in (("pixels", "pixels"), ("untrained", "the untrained network"), ("simclr", WHAT[run])):
        for labels in ("1%", "10%", "100%"):
            values = [row["scores"][f"{features}, linear, {labels}"] for row in rows]
            cells = [said if features == "simclr" else f"a linear probe on {said}", labels.replace("%", " %")]
            lines.append([*cells, page_lib.mean_and_spread(values, ".1f"), str(len(rows))])
    return lines


def commands(name: str) -> str:
    """What was called, `RUNS` and `DATA` being folders."""
    lines = []
    for run, words in plan(name, "RUNS").items():
        call = " ".join(f"'{word}'" if " " in word else word for word in words)
        call = f"simclr-jax train --workdir=RUNS/{run} --config.seed=SEED {call}"
        lines.append(" \\\n    ".join(textwrap.wrap(call, 112, break_on_hyphens=False, break_long_words=False)))
    return "```\n" + "\n".join([*lines, "simclr-jax evaluate --workdir=RUNS/...    # each"]) + "\n```"


def main(arguments: list[str] | None = None) -> int:
    """Makes the missing rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where the runs are kept")
    parser.add_argument("--only", nargs="+", default=("imagenette", "cifar10"), metavar="SET")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data_dir", default="", help="where TFDS finds imagenette/square224 and cifar10/jpeg")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a thin network on embedded pictures")
    parser.add_argument("--rows", type=pathlib.Path, default=KEPT)
    parser.add_argument("--output", type=pathlib.Path, default=PAGE, help="its part between the marks is replaced")
    options: Any = parser.parse_args(arguments)
    for name in options.only:
        base.check_choice(name, SETS, name="--only")
    kept_rows.check_tiny(options, KEPT)
    rows = kept_rows.Rows(options.rows, ("set", "run", "seed"))
    names = ["tiny"] if options.tiny else options.only
    for seed, name, run in ((seed, name, run) for seed in range(options.seeds) for name in names for run in WHAT):
        if rows.has(_what(name, run, seed)):
            continue
        row = make_row(name, run, seed, options.workdir.absolute(), options.data_dir)
        rows.put(row)
        print(name, run, seed, row["scores"], f"{row['cpu_seconds']:.0f} s of CPU", flush=True)
    options.output.write_text(page_lib.replace_part(options.output.read_text(), STEM, render(rows.rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
