"""Trains every method for a short while on one small network and writes what its features are worth into a table.

    python benchmarks/methods_table.py                                  # rows that are missing; the table
    python benchmarks/methods_table.py --only byol swav --seeds 3
    python benchmarks/methods_table.py --data_name tfds:cifar10/jpeg --data_dir FOLDER --train_split "train[:20%]"
    python benchmarks/methods_table.py --page docs/history.md ...       # told by years, with a picture
    python benchmarks/methods_table.py --peers_python PYTHON --seeds 3 --only simclr byol barlow_twins  # and lightly's

Encoder, views, optimizer, schedule, batch and number of images are those of `configs/demo.py` for all methods; heads
are scaled to its narrow encoder. It shows that each method learns, not which one is best: see docs/methods.md. Every
row is kept in --rows as soon as it is made and is not made again while its settings stay the same.
"""

import argparse
import collections
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp

from benchmarks import kept_rows, methods_lightly, methods_story, timing
from benchmarks import page as page_lib
from simclr_jax import base, data, methods, models, probes, units
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint, compilation_cache, features, setup, splits
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

PAGE, KEPT = ROOT / "docs" / "methods.md", ROOT / "benchmarks" / "methods_table.json"
STORY = ROOT / "docs" / "history.md"
STEM = "methods_table"
MARGIN = 10.0  # points above the untrained network
SHARES = {"10 %": 0.1, "100 %": 1.0}
COLUMNS = tuple(f"{probe} {share}" for share in SHARES for probe in ("kNN", "linear"))
Rows = list[Mapping[str, Any]]
Scored = Callable[[base.PyTree | methods_lightly.Features | None], dict[str, float]]

# Heads for an encoder of 128 outputs; queues of some batches, and target networks that follow within some dozen steps.
_HEAD = {"num_proj_layers": 2, "proj_out_dim": 128}
_MLP = {"proj_hidden_dim": 256, "proj_out_dim": 128}
_WIDE = {"proj_hidden_dim": 256, "proj_out_dim": 256}
_QUEUE = {"queue_length": 1024}
SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {**_HEAD, "temperature": 0.2},
    "simclr_v2": {**_HEAD, **_QUEUE, "temperature": 0.2, "target_decay": 0.97},
    "byol": {**_MLP, "pred_hidden_dim": 256, "target_decay": 0.97},
    "moco": {**_HEAD, **_QUEUE, "temperature": 0.2, "target_decay": 0.97, "bn_splits": 4},
    "moco_v3": {**_MLP, "pred_hidden_dim": 256, "temperature": 0.2, "target_decay": 0.97},
    "nnclr": {**_MLP, **_QUEUE, "num_proj_layers": 2, "pred_hidden_dim": 256, "temperature": 0.2},
    "simsiam": {**_WIDE, "num_proj_layers": 2, "pred_hidden_dim": 64},
    "barlow_twins": _WIDE,
    "vicreg": _WIDE,
    "swav": {**_MLP, "num_prototypes": 64, "freeze_prototypes_steps": 20},
    "sup_con": {"proj_out_dim": 128, "temperature": 0.2},
    "dcl": {**_MLP, "temperature": 0.2},
    "dclw": {**_MLP, "temperature": 0.2},
    "supervised": {"num_proj_layers": 0},
    "distill": {},
    "rotation": {},
    "patch_location": {"proj_hidden_dim": 128},
    "jigsaw": {"tile_dim": 64, "proj_hidden_dim": 256},
    "autoencoder": {"decoder_width": 64},
    "cpc": {"proj_out_dim": 64, "context_dim": 128},
    "pirl": {"proj_out_dim": 64, "num_negatives": 1024, "objective": "cross_entropy", "temperature": 0.2},
}
ROWS = ("pixels", "untrained", *SETTINGS)
# Crops and flips only, as classifiers are trained with.
_ONE_VIEW = {"num_views": 1, "color_jitter_probability": 0.0, "grayscale_probability": 0.0}
# Of a small crop there are no places to be told apart; tiles are a third of a view.
_TASK = {**_ONE_VIEW, "crop_min_scale": 0.35}
_OF_TILES = {**_TASK, "image_size": 48}
AUGMENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(methods.CLASSIFIERS, _ONE_VIEW),
    **dict.fromkeys(methods.ONE_VIEW, _TASK),
    **dict.fromkeys(("patch_location", "jigsaw"), _OF_TILES),
}


class Asked(NamedTuple):
    """What the command line asks for; `folder` is where the teacher of `distill` is kept."""

    data_name: str
    data_dir: str | None
    train_split: str
    num_epochs: float
    batch_size: int
    folder: pathlib.Path


def make_config(name: str, seed: int, asked: Asked) -> dict[str, Any]:
    """The config of a row: the demo's, with the method's own section.

    "untrained" is SimCLR before its first step, and "pixels" are told from it by their name alone.
    """
    config = config_lib.load_file("demo").to_dict()
    method = name if name in SETTINGS else "simclr"
    config |= {"seed": seed, "method": {"name": method, **SETTINGS[method]}}
    config["data"] |= {"name": asked.data_name, "data_dir": asked.data_dir}
    config["split"]["train"] = asked.train_split
    config["train"] |= {"num_epochs": asked.num_epochs, "batch_size": asked.batch_size, "evaluate_every_epochs": 0.0}
    config["schedule"] |= {"warmup_epochs": asked.num_epochs / 10}
    config["augment"] |= AUGMENT.get(method, {})
    if method == "distill":
        teacher = make_config("supervised", seed, asked)
        num_classes = len(splits.load_split(teacher, "train").class_names)
        config["teacher"] |= {"encoder": teacher["encoder"], "head": SETTINGS["supervised"], "num_classes": num_classes}
    return config


def train(
    config: Mapping[str, Any], *, num_steps: int | None, teacher: pathlib.Path
) -> tuple[base.TrainState, list[float]]:
    """(the last state, CPU seconds of every step); `num_steps` is None for the whole run.

    A classifier is kept in the folder `teacher`, and `distill` reads it there.
    """
    run = setup.make_run(config)
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    if config["method"]["name"] == "distill":
        _, params, method_state = features.load_variables(teacher, which="latest")
        kept = {"params": params, "batch_stats": method_state["batch_stats"]}
        weights = sharding.put_placed(kept, run.placement.method_state["teacher"])
        state = state._replace(method_state={**state.method_state, "teacher": weights})
    key, seconds = sharding.make_key(run.mesh, config["seed"]), []
    for step in range(run.num_steps if num_steps is None else num_steps):
        source, indices = run.feed.draw(step)
        begin = time.process_time()
        state, metrics = run.train_steps(state, key, source, indices, jnp.asarray(1, jnp.int32))
        jax.block_until_ready((state, metrics))
        seconds.append(time.process_time() - begin)
    run.feed.close()
    if config["method"]["name"] == "supervised":
        shutil.rmtree(teacher, ignore_errors=True)
        with checkpoint.open_checkpoints(teacher / "checkpoints", keep=1, scores={}) as checkpoints:
            checkpoint.save(checkpoints, state, step=len(seconds))
    return state, seconds


def what_of(name: str, config: Mapping[str, Any]) -> Any:
    """What a row depends on, as it comes back from a file."""
    sections = ("seed", "data", "split", "augment", "encoder", "method", "optimizer", "schedule", "train", "teacher")
    what = {"row": name, **{section: config[section] for section in sections}}
    return json.loads(json.dumps({**what, "data": {**what["data"], "data_dir": None}}))  # data are the same elsewhere


def measure(
    name: str, seed: int, asked: Asked, *, known: Sequence[Mapping[str, Any]], scored: Scored
) -> Mapping[str, Any]:
    """The row of a method: the one in `known` if it was made with the same settings, otherwise made now."""
    config = make_config(name, seed, asked)
    what = what_of(name, config)
    found = next((row for row in known if kept_rows.are_same(row["what"], what)), None)
    if found is not None:
        return found
    of_teacher = json.dumps(what_of("supervised", make_config("supervised", seed, asked)))
    teacher = asked.folder / hashlib.sha256(of_teacher.encode()).hexdigest()[:16]
    if name == "distill" and not checkpoint.saved_steps(teacher / "checkpoints"):
        train(make_config("supervised", seed, asked), num_steps=None, teacher=teacher)
    begin = time.process_time()
    seconds: list[float] = []
    variables = None
    if name != "pixels":
        state, seconds = train(config, num_steps=0 if name == "untrained" else None, teacher=teacher)
        variables = features.encoder_variables(state.params, state.method_state)
    return {
        "what": what,
        "accuracy": scored(variables),
        "num_steps": len(seconds),
        # The first steps compile.
        "step_seconds": statistics.median(seconds[2:]) if len(seconds) > 2 else None,
        "cpu_seconds": time.process_time() - begin,
        "load": os.getloadavg()[0],
        "facts": timing.describe(("jax", "flax", "optax", "numpy")),
    }


def measure_lightly(
    name: str, seed: int, asked: Asked, *, known: Sequence[Mapping[str, Any]], scored: Scored, python: str
) -> Mapping[str, Any]:
    """lightly's row of a method, with the recipe of ours, as `measure`; RuntimeError if its process fails."""
    config = make_config(name, seed, asked)
    what = {**what_of(name, config), "row": methods_lightly.row_name(name)}
    found = next((row for row in known if kept_rows.are_same(row["what"], what)), None)
    if found is not None:
        return found
    return methods_lightly.measure(what, config, python=python, scored=scored)


def make_scored(asked: Asked) -> Scored:
    """The probes as a function of an encoder's variables, None for the pixels; one compiled encoder serves all.

    Features that another program made are scored as they are, if our encoder makes the same with its weights.
    """
    config = make_config("untrained", 0, asked)
    how = features.evaluation_settings(config)
    encode = features.make_encode(config_lib.call(models.make_encoder, config, "encoder"), **how)
    both, k = splits.load(config), config["probe"]["knn_k"]
    train_set, test_set = both.train_set, both.test_set
    assert test_set is not None

    def represent(variables: base.PyTree | None, image_set: data.ImageSet) -> Any:
        if variables is None:
            return image_set.images.reshape(len(image_set.images), -1).astype("float32") / 255
        return encode(variables, image_set)

    def scored(given: base.PyTree | methods_lightly.Features | None) -> dict[str, float]:
        if isinstance(given, methods_lightly.Features):
            methods_lightly.check_twin(encode(given.variables, test_set), given.test)
            h, test_h = given.train, given.test
        else:
            h, test_h = represent(given, train_set), represent(given, test_set)
        accuracy = {}
        for share, fraction in SHARES.items():
            rows = probes.label_subset(train_set.labels, fraction)
            arrays, test_labels = (h[rows], train_set.labels[rows], test_h), test_set.labels
            accuracy[f"kNN {share}"] = 100 * (probes.knn_accuracy(*arrays, test_labels=test_labels, k=k) or 0.0)
            accuracy[f"linear {share}"] = 100 * (probes.linear_accuracy(*arrays, test_labels=test_labels) or 0.0)
        return accuracy

    return scored


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the rows, a line a method, "*" where a score is less than MARGIN above the untrained network."""
    of = {name: [row for row in rows if row["what"]["row"] == name] for name in ROWS}
    cpu = {name: [row["step_seconds"] for row in of[name] if row["step_seconds"]] for name in ROWS}
    lines = []
    for name in filter(of.get, ROWS):
        cells = [f"`{name}`" if name in SETTINGS else name]
        for column in COLUMNS:
            values, floor = ([row["accuracy"][column] for row in of[key]] for key in (name, "untrained"))
            low = name in SETTINGS and floor and statistics.mean(values) < statistics.mean(floor) + MARGIN
            cells.append(page_lib.mean_and_spread(values, ".1f") + " *" * bool(low))
        known = cpu[name] and cpu["simclr"]
        relative = f"{statistics.mean(cpu[name]) / statistics.mean(cpu['simclr']):.2f}" if known else "-"
        lines.append([*cells, relative])
    head = ["method", *COLUMNS, "CPU time of a step"]
    missing = ", ".join(f"`{name}`" for name in ROWS if not of[name])
    rest = "\n\n" + textwrap.fill(f"Not made yet: {missing}.", 120) if missing else ""
    return f"{about(rows)}\n\n{page_lib.table(head, lines, right=range(1, len(head)))}{rest}"


def about(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the rows were made with, in some lines."""
    rows = [row for row in rows if row["what"]["row"] in ROWS]
    what, last = rows[-1]["what"], max(rows, key=lambda row: row["facts"]["date"])["facts"]
    loads, seeds = [row["load"] for row in rows], collections.Counter(row["what"]["row"] for row in rows)
    steps, batch = max(row["num_steps"] for row in rows), what["train"]["batch_size"]
    cpu = f"{sum(row['cpu_seconds'] for row in rows):.0f} s of CPU in all"
    told = [
        page_lib.about(last, hardware=f"two shared CPU cores, load {min(loads):.0f} to {max(loads):.0f}"),
        f"{what['data']['name']}, {what['split']['train']}, {steps} steps of batch {batch}, "
        f"{_range(seeds.values())} a row, {cpu}.",
    ]
    return textwrap.fill(" ".join(told), 120, break_on_hyphens=False)


def _range(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return units.counted(high, "seed") if low == high else f"{low} to {units.counted(high, 'seed')}"


def make_all(which: Sequence[tuple[int, str]], asked: Asked, *, path: pathlib.Path, peers_python: str | None) -> Rows:
    """The rows of `path` with those of (seed, method) made, ours and, with another Python, lightly's."""
    scored = make_scored(asked) if which else lambda given: {}
    rows: Rows = json.loads(path.read_text()) if path.exists() else []
    for seed, name in which:
        rows = with_row(rows, measure(name, seed, asked, known=rows, scored=scored), path=path)
        if not peers_python or name not in methods_lightly.NAMES:
            continue
        try:
            row = measure_lightly(name, seed, asked, known=rows, scored=scored, python=peers_python)
        except RuntimeError as error:
            print(f"{methods_lightly.row_name(name)} {seed}: {error}", file=sys.stderr, flush=True)
            continue
        rows = with_row(rows, row, path=path)
    return rows


def with_row(rows: Rows, row: Mapping[str, Any], *, path: pathlib.Path) -> Rows:
    """`rows` with a row in the place of that of the same name and seed; kept in the file and told."""
    which = [(one["what"]["row"], one["what"]["seed"]) for one in (*rows, row)]
    rows = [*(old for old, of in zip(rows, which, strict=False) if of != which[-1]), row]
    workdir_lib.write_json(path, rows)
    print(*which[-1], {key: round(value, 1) for key, value in row["accuracy"].items()}, flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Makes the missing rows and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=ROWS, metavar="METHOD", help="none: only writes the page anew")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data_name", default="photo-patches")
    parser.add_argument("--data_dir")
    parser.add_argument("--train_split", default="train", help="trained on, and what probes learn from")
    parser.add_argument("--num_epochs", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--peers_python", help="with torch and lightly: makes lightly's rows of its methods, too")
    parser.add_argument("--rows", type=pathlib.Path, default=KEPT)
    parser.add_argument("--page", type=pathlib.Path, default=PAGE, help="its part between the marks is replaced")
    options: Any = parser.parse_args(arguments)
    folder = pathlib.Path(tempfile.gettempdir()) / "simclr_jax_methods_table"
    asked = Asked(
        options.data_name, options.data_dir, options.train_split, options.num_epochs, options.batch_size, folder
    )
    for name in options.only:
        base.check_choice(name, ROWS, name="--only")
    if options.peers_python and not shutil.which(options.peers_python):
        parser.error(f"--peers_python must be a Python with torch and lightly; got {options.peers_python}. Name one.")
    compilation_cache.keep()
    which = list(itertools.product(range(options.seeds), options.only))
    rows = make_all(which, asked, path=options.rows, peers_python=options.peers_python)
    text = render(rows)
    if options.page.name == STORY.name:
        text = f"{about(rows)}\n\n{methods_story.render(rows, COLUMNS)}"
        methods_story.draw(rows, options.page.with_suffix(".svg"))
    page = page_lib.replace_part(options.page.read_text(), STEM, text)
    if options.page.name != STORY.name:
        page = page_lib.replace_part(page, methods_lightly.STEM, methods_lightly.render(rows, COLUMNS))
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
