"""lightly's rows of the table of methods: how they are made, and how they stand beside ours.

`benchmarks/methods_table.py --peers_python PYTHON` makes them, with `training_rows/methods_of_lightly.py` in that
Python. This process makes the views of every step and the images to evaluate; features come back.
"""

import inspect
import json
import os
import pathlib
import statistics
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import children, timing, training_page
from benchmarks import page as page_lib
from benchmarks.training_rows import views
from simclr_jax import methods, models, optim, units
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, splits
from simclr_jax.run import program as program_lib

NAMES = ("simclr", "byol", "barlow_twins")
STEM = "methods_of_lightly"
SCRIPT = children.ROOT / "benchmarks" / "training_rows" / "methods_of_lightly.py"
MOST_HOURS = 12
MOST_APART = 2.0  # standard deviations of the difference
# Of an array in torch -> its collection and name here; kernels are told by their axes.
_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}

Rows = Sequence[Mapping[str, Any]]


class Features(NamedTuple):
    """What the other program's encoder makes of both splits, float32 [N, D], and its variables by our names."""

    train: np.ndarray
    test: np.ndarray
    variables: dict[str, Any]


def row_name(name: str) -> str:
    """What the row of a method is called."""
    return f"{name} of lightly"


def measure(
    what: Mapping[str, Any], config: Mapping[str, Any], *, python: str, scored: Callable[[Features], dict[str, float]]
) -> dict[str, Any]:
    """The row `what`, made now; see `train`."""
    found, told = train(config, python)
    return {
        "what": what,
        "accuracy": scored(found),
        "num_steps": len(told["losses"]),
        "losses": told["losses"],
        "step_seconds": statistics.median(told["step_seconds"]),
        "cpu_seconds": told["cpu_seconds"],
        "load": os.getloadavg()[0],
        "facts": {key: told[key] for key in ("commit", "python", "versions", "hardware", "date")},
    }


def train(config: Mapping[str, Any], python: str) -> tuple[Features, dict[str, Any]]:
    """(features, what the process told) of a training with the recipe of `config` on the views of its run.

    Raises:
        RuntimeError: with the reason, if the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}" for name in ("views.npy", "images.npz", "out.npz")}
        num_steps = views.save_of_run(pathlib.Path(files["views.npy"]), config)
        both = splits.load(config)
        assert both.test_set is not None
        how, of = features.evaluation_settings(config), {"train": both.train_set, "test": both.test_set}
        np.savez(files["images.npz"], **{name: features.evaluation_images(part, **how) for name, part in of.items()})
        paths = {pathlib.Path(path).stem: path for path in files.values()}
        given = {**settings(config, num_examples=len(both.train_set.images), num_steps=num_steps), **paths}
        command = [python, str(SCRIPT), json.dumps(given)]
        environment = children.environment(timing.ONE_THREAD)
        ended = children.run(command, children.Clock(60 * MOST_HOURS), environment=environment)
        if ended.reason or not ended.lines:
            raise RuntimeError(ended.reason or "no output")
        with np.load(files["out.npz"]) as arrays:
            found = Features(arrays["train"], arrays["test"], by_our_names(arrays))
    return found, ended.lines[-1]


def settings(config: Mapping[str, Any], *, num_examples: int, num_steps: int) -> dict[str, Any]:
    """What the other program is told of the recipe: the method with all its defaults, and the rate of every step."""
    section, name = dict(config["method"]), config["method"]["name"]
    parameters = inspect.signature(methods.METHODS[name]).parameters
    own = {key: one.default for key, one in parameters.items() if one.default is not one.empty}
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    groups = len(encoder.group_sizes)
    sizes = program_lib.run_length(config, num_examples=num_examples)
    schedule = config_lib.call(optim.make_schedule, config, "schedule", **sizes)
    return {
        "seed": config["seed"],
        "method": {**own, **section},
        "widths": [encoder.num_features // 2 ** (groups - 1 - group) for group in range(groups)],
        "rates": [float(schedule(step)) for step in range(num_steps)],
        "weight_decay": config["optimizer"]["weight_decay"],
        "momentum": config["optimizer"]["momentum"],
    }


def by_our_names(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables of our encoder out of the arrays "weights:MODULE.NAME" of the one in torch."""
    trees: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name in arrays:
        *modules, leaf = name.partition(":")[2].split(".")
        if leaf not in _LEAVES:
            continue
        (kind, ours), array = _LEAVES[leaf], arrays[name]
        if array.ndim == 4:
            ours, array = "kernel", array.transpose(2, 3, 1, 0)
        branch = trees[kind]
        for module in modules:
            branch = branch.setdefault(module, {})
        branch[ours] = array
    return trees


def check_twin(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raises RuntimeError unless our encoder makes, with the other program's weights, what that program made."""
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference < 1e-3:  # rounding is a hundredth of it
        raise RuntimeError(f"the encoder in torch is not ours: features differ by {difference:.1e} of the largest")


def render(rows: Rows, columns: Sequence[str]) -> str:
    """The scores of both programs, how far apart they are, and a line of verdict a method."""
    theirs = [row for row in rows if row["what"]["row"] in map(row_name, NAMES)]
    if not theirs:
        return "Not made yet."
    lines, said = [], []
    for name in NAMES:
        pair = {who: [row for row in rows if row["what"]["row"] == row_name_of] for who, row_name_of in _both(name)}
        for who, of in pair.items():
            scores = [page_lib.mean_and_spread([row["accuracy"][column] for row in of], ".1f") for column in columns]
            lines.append([f"`{name}`", who, str(len(of)), *scores])
        apart = {
            column: training_page.compare(
                column, *([row["accuracy"][column] for row in of] for of in pair.values()), count=1
            )
            for column in columns
        }
        lines.append([f"`{name}`", "apart", "", *(f"{one.apart:.1f}" if one else "-" for one in apart.values())])
        said.append(f"- {verdict(name, [one for one in apart.values() if one])}")
    head = ["method", "program", "seeds", *columns]
    told = "\n".join(textwrap.fill(line, 120, subsequent_indent="  ") for line in said)
    return f"{about(theirs)}\n\n{page_lib.table(head, lines, right=range(2, len(head)))}\n\n{told}"


def _both(name: str) -> tuple[tuple[str, str], ...]:
    return ("ours", name), ("lightly", row_name(name))


def verdict(name: str, found: Sequence[training_page.Verdict]) -> str:
    """Whether both programs' means lie within two standard deviations of their difference, and where not."""
    if not found:
        return f"`{name}`: no verdict yet, which needs two seeds or more of both."
    far = [one for one in found if one.apart > MOST_APART]
    if not far:
        return f"`{name}`: within two standard deviations of the difference in all {len(found)} numbers."
    where = "; ".join(
        f"{one.name}, by {statistics.mean(one.ours) - statistics.mean(one.theirs):+.1f} points for ours "
        f"({one.apart:.1f}; Student's t for so few seeds allows {one.allowed:.1f})"
        for one in far
    )
    return f"`{name}`: **beyond two standard deviations** in {units.counted(len(far), 'number')}: {where}."


def about(rows: Rows) -> str:
    """What lightly's rows were made with."""
    last = max((row["facts"] for row in rows), key=lambda facts: facts["date"])
    what, seconds = rows[-1]["what"], [row["cpu_seconds"] for row in rows]
    told = [
        page_lib.about(last, hardware="one thread of two shared CPU cores"),
        f"{what['data']['name']}, {what['split']['train']}, {rows[-1]['num_steps']} steps of batch "
        f"{what['train']['batch_size']}; {statistics.mean(seconds):.0f} s of CPU a row of lightly's.",
    ]
    return textwrap.fill(" ".join(told), 120, break_on_hyphens=False)
