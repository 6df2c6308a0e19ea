"""Repeats the paper's ablations with a small network for a short while and writes docs/ablations.md.

    python benchmarks/ablations.py --data_dir FOLDER                         # rows that are missing; the page
    python benchmarks/ablations.py --data_dir FOLDER --seeds 3 --only augmentation head
    python benchmarks/ablations.py --tiny --rows FILE --output PAGE          # proves it with a few steps

A row is one training: an axis, its value, a seed. It is kept in --rows as soon as it is made and is not made again
while its settings stay the same.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp

from benchmarks import kept_rows, timing
from benchmarks import page as page_lib
from simclr_jax import base, models, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import compilation_cache, features, setup, splits
from simclr_jax.run import config as config_lib

PAGE, KEPT = ROOT / "docs" / "ablations.md", ROOT / "benchmarks" / "ablations.json"
STEM = "ablations"
NUM_TEST = 2000
Sections = dict[str, dict[str, Any]]

_NO_COLOUR = {"color_jitter_probability": 0.0, "grayscale_probability": 0.0}
_NO_CROP = {"crop_min_scale": 1.0, "crop_sampler": "torchvision"}


class Value(NamedTuple):
    """One value of an axis. changes: of the config's sections. paper: its figure there, "" if it names none."""

    changes: Sections
    paper: str = ""


class Axis(NamedTuple):
    """values: by name. paper: where the effect stands. effect: its words. better: pairs of values, the better first."""

    values: dict[str, Value]
    paper: str
    effect: str
    better: tuple[tuple[str, str], ...]


AXES = {
    "augmentation": Axis(
        {
            "crop": Value({"augment": _NO_COLOUR}, "33.1"),
            "colour": Value({"augment": _NO_CROP}, "18.8"),
            "crop and colour": Value({}, "56.3"),
        },
        "SimCLR, figure 5, ImageNet linear top-1, the views of one branch changed",
        "Crop and colour together beat either alone.",
        (("crop and colour", "crop"), ("crop and colour", "colour")),
    ),
    "head": Axis(
        {
            "none": Value({"method": {"num_proj_layers": 0}}),
            "linear": Value({"method": {"num_proj_layers": 1}}),
            "non-linear": Value({}),
        },
        "SimCLR, figure 8 and section 4.2: non-linear above linear by 3 points, above none by more than 10",
        "A non-linear head beats a linear one, and that beats none.",
        (("non-linear", "linear"), ("linear", "none")),
    ),
    "batch size": Axis(
        {f"{size}": Value({"train": {"batch_size": size}}) for size in (32, 128, 512)},
        "SimCLR, figure 9: larger batches are better where epochs are few",
        "Larger batches help at few epochs.",
        (("512", "128"), ("128", "32")),
    ),
    "temperature": Axis(
        {
            "0.05": Value({"method": {"temperature": 0.05}}, "59.7"),
            "0.1": Value({"method": {"temperature": 0.1}}, "64.4"),
            "0.5": Value({"method": {"temperature": 0.5}}, "60.7"),
            "1.0": Value({"method": {"temperature": 1.0}}, "58.0"),
        },
        "SimCLR, table 5, ImageNet linear top-1",
        "A temperature in the middle is best.",
        (("0.1", "0.05"), ("0.1", "1.0")),
    ),
}


class Asked(NamedTuple):
    """What the command line asks for."""

    data_name: str
    data_dir: str | None
    train_split: str
    test_split: str
    num_epochs: float
    width: float


def make_config(axis: str, value: str, seed: int, asked: Asked) -> dict[str, Any]:
    """The config of a row: the small CIFAR-10 recipe of AdamW with one thing changed."""
    config = config_lib.load_file("cifar10_tiny").to_dict()
    config["seed"] = seed
    config["data"] |= {"name": asked.data_name, "data_dir": asked.data_dir}
    config["split"] |= {"train": asked.train_split, "test": asked.test_split}
    config["encoder"] |= {"name": "resnet10", "width_multiplier": asked.width}
    config["schedule"] |= {"warmup_epochs": asked.num_epochs / 10}
    config["train"] |= {"batch_size": 128, "num_epochs": asked.num_epochs, "evaluate_every_epochs": 0.0}
    config["train"] |= {"steps_per_dispatch": 1}
    for section, changes in AXES[axis].values[value].changes.items():
        config[section] |= changes
    # Between AdamW's two habits, a rate that does not change and one in proportion.
    config["schedule"]["base_learning_rate"] *= (config["train"]["batch_size"] / 128) ** 0.5
    return config


def what_of(axis: str, value: str, seed: int, asked: Asked) -> Any:
    """What a row depends on, as it comes back from a file."""
    config = make_config(axis, value, seed, asked._replace(data_dir=None))
    sections = ("data", "split", "augment", "encoder", "method", "optimizer", "schedule", "train")
    kept = {section: config[section] for section in sections}
    return json.loads(json.dumps({"axis": axis, "value": value, "seed": seed, **kept}))


def _settings(what: Mapping[str, Any]) -> dict[str, Any]:
    """What of `what_of` decides the training, whatever axis it is for."""
    return {key: value for key, value in what.items() if key not in ("axis", "value")}


def train(config: Mapping[str, Any]) -> tuple[base.TrainState, int]:
    """(the last state, its steps)."""
    run = setup.make_run(config)
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    key = sharding.make_key(run.mesh, config["seed"])
    for step in range(run.num_steps):
        source, indices = run.feed.draw(step)
        state, metrics = run.train_steps(state, key, source, indices, jnp.asarray(1, jnp.int32))
        jax.block_until_ready(metrics)
    run.feed.close()
    return state, run.num_steps


def score(config: Mapping[str, Any], state: base.TrainState) -> dict[str, float]:
    """Accuracies in per cent of kNN and of the linear probe, learnt from all training images."""
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    encode, both = features.make_encode(encoder, **features.evaluation_settings(config)), splits.load(config)
    assert both.test_set is not None
    variables = features.encoder_variables(state.params, state.method_state)
    h, test_h = encode(variables, both.train_set), encode(variables, both.test_set)
    known = {"test_labels": both.test_set.labels}
    knn = probes.knn_accuracy(h, both.train_set.labels, test_h, **known)
    linear = probes.linear_accuracy(h, both.train_set.labels, test_h, **known)
    return {"kNN": 100 * (knn or 0.0), "linear": 100 * (linear or 0.0)}


def make_row(axis: str, value: str, seed: int, asked: Asked) -> dict[str, Any]:
    """A row, made now."""
    config, begin = make_config(axis, value, seed, asked), time.process_time()
    state, num_steps = train(config)
    seconds = time.process_time() - begin
    return {
        "what": what_of(axis, value, seed, asked),
        "accuracy": score(config, state),
        "num_steps": num_steps,
        "cpu_seconds": seconds,
        "load": os.getloadavg()[0],
        **timing.describe(("jax", "flax", "optax", "numpy")),
    }


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The part of the page: an axis a section, with what was made of it."""
    parts = [section(name, axis, rows) for name, axis in AXES.items()]
    return "\n\n".join([about(rows), *parts]) if rows else "No training has been made yet."


def about(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the rows were made with."""
    last = max(rows, key=lambda row: row["date"])
    what = last["what"]
    told = [
        page_lib.about(last, hardware=f"shared CPU cores, load up to {max(row['load'] for row in rows):.0f}"),
        f"{what['data']['name']}, {what['split']['train']} and {what['split']['test']}, {what['encoder']['name']} of "
        f"width {what['encoder']['width_multiplier']:g}, {what['train']['num_epochs']:g} epochs; "
        f"{sum(row['cpu_seconds'] for row in rows):.0f} s of CPU in all.",
    ]
    return textwrap.fill(" ".join(told), 120, break_on_hyphens=False, break_long_words=False)


def section(name: str, axis: Axis, rows: Sequence[Mapping[str, Any]]) -> str:
    """An axis: what the paper says, the table, and whether ours shows it."""
    lines = []
    for value, of in axis.values.items():
        found = samples(rows, name, value)
        cells = [page_lib.mean_and_spread([row[probe] for row in found], ".1f") for probe in ("kNN", "linear")]
        lines.append([value, *cells, str(len(found)), of.paper or "-"])
    head = (name, "kNN, %", "linear, %", "seeds", "the paper's figure")
    source = textwrap.fill(f"{axis.paper}.", 120, break_on_hyphens=False)
    table = page_lib.table(head, lines, right=range(1, len(head)))
    return f"## {name.capitalize()}\n\n{source}\n\n{table}\n\n{verdict(name, axis, rows)}"


def samples(rows: Sequence[Mapping[str, Any]], axis: str, value: str) -> list[Mapping[str, float]]:
    """The accuracies of a value's seeds."""
    return [row["accuracy"] for row in rows if (row["what"]["axis"], row["what"]["value"]) == (axis, value)]


def verdict(name: str, axis: Axis, rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the linear probe's means are in the paper's order, by how many points, and whether that is enough."""
    said = []
    for better, worse in axis.better:
        values = [[row["linear"] for row in samples(rows, name, value)] for value in (better, worse)]
        if not all(values):
            return f"{axis.effect} Not measured here yet."
        gain, error = statistics.mean(values[0]) - statistics.mean(values[1]), _error(*values)
        found = "as there" if gain > 2 * error else "the **other** way" if gain < -2 * error else "**not told apart**"
        said.append(f"{better} against {worse} {gain:+.1f} ± {error:.1f} points ({found})")
    return textwrap.fill(f"{axis.effect} Linear probe here: {'; '.join(said)}.", 120, break_on_hyphens=False)


def _error(*values: Sequence[float]) -> float:
    """The standard error of the difference of two means of accuracies in per cent, by the number of test images."""
    shares = [(statistics.mean(of) / 100, len(of)) for of in values]
    return 100 * math.sqrt(sum(share * (1 - share) / (NUM_TEST * count) for share, count in shares))


def main(arguments: list[str] | None = None) -> int:
    """Makes the missing rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(AXES), metavar="AXIS")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data_dir", help="where TFDS finds cifar10/jpeg")
    parser.add_argument("--num_epochs", type=float, default=4.0)
    parser.add_argument("--tiny", action="store_true", help="a few steps of a thin network on embedded pictures")
    parser.add_argument("--rows", type=pathlib.Path, default=KEPT)
    parser.add_argument("--output", type=pathlib.Path, default=PAGE, help="its part between the marks is replaced")
    options: Any = parser.parse_args(arguments)
    for name in options.only:
        base.check_choice(name, AXES, name="--only")
    kept_rows.check_tiny(options, KEPT)
    asked = Asked(
        "tfds:cifar10/jpeg", options.data_dir, "train[:10000]", f"test[:{NUM_TEST}]", options.num_epochs, 0.25
    )
    if options.tiny:
        asked = Asked("photo-patches", None, "train", "test", 0.002, 0.0625)
    compilation_cache.keep()
    rows = kept_rows.Rows(options.rows, ("axis", "value", "seed"))
    wanted = [
        (axis, value, seed) for seed in range(options.seeds) for axis in options.only for value in AXES[axis].values
    ]
    for axis, value, seed in wanted:
        what = what_of(axis, value, seed, asked)
        if rows.has(what):
            continue
        # Several axes have the recipe as it is among their values: it is trained once.
        same = next((row for row in rows.rows if kept_rows.are_same(_settings(row["what"]), _settings(what))), None)
        row = make_row(axis, value, seed, asked) if same is None else {**same, "what": what, "cpu_seconds": 0.0}
        rows.put(row)
        print(axis, value, seed, {name: round(of, 1) for name, of in row["accuracy"].items()}, flush=True)
    options.output.write_text(page_lib.replace_part(options.output.read_text(), STEM, render(rows.rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
