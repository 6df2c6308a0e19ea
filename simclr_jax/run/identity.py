"""Which settings and data a run must keep when it is started again, and which may change.

A run is its network, method, views, schedule, seed and training data. Where decoded images are kept, how often is
logged, saved and evaluated, and what saves memory changes no result (beyond the order of sums): a run may go on with
other values. Before its first checkpoint everything may change.
"""

import inspect
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from simclr_jax import base, data, methods
from simclr_jax.run import checkpoint, config_rules, paths
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

_DATA = "data.json"
# Of the data, the fingerprint is compared instead of the section. "probe." and "data." are whole sections. What chooses
# labelled images, split.label_fraction and split.label_list, chooses those that are trained on, and is not free.
_FREE = (
    "data.",
    "probe.",
    "split.test",
    "feed.kind",  # the fingerprint tells decoded and encoded pictures apart
    "feed.workers",
    "feed.num_workers",
    "encoder.remat",
    "method.loss_form",
    "train.steps_per_dispatch",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.evaluate_every_epochs",
    "train.max_resident_gigabytes",
    "train.parameter_sharding",
    "train.fused_conv_bn",
    "train.deterministic",
    "train.stretch_schedule",
)
_LENGTH = ("train.num_epochs", "schedule.restart_epochs")
_ABSENT = "absent"


# How older runs called a key -> today's name; and old words for today's values.
OLD_NAMES = {
    "augment.size": "augment.image_size",
    "augment.strength": "augment.color_jitter_strength",
    "augment.jitter_probability": "augment.color_jitter_probability",
    "augment.gray_probability": "augment.grayscale_probability",
    "augment.min_area": "augment.crop_min_scale",
    "data.max_skipped": "data.max_corrupt_fraction",
    "method.head_layers": "method.num_proj_layers",
    "method.head_dim": "method.proj_out_dim",
    "method.head_width": "method.proj_hidden_dim",
    "method.selector": "method.ft_proj_selector",
    "probe.knn_votes": "probe.knn_weights",
    "schedule.scaling": "schedule.learning_rate_scaling",
    "train.folded_bn": "train.fused_conv_bn",
}
_OLD_VALUES = {("probe.knn_weights", "weighted"): "similarity"}


class Data(NamedTuple):
    """The training split that a run was started with, as data.json in its workdir keeps it.

    weights: of the sets of a mix.
    """

    name: str
    fingerprint: str
    num_images: int
    class_names: tuple[str, ...]
    weights: tuple[float, ...] = ()


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config of a run, completed: a key that did not exist when it was made has the value that means "as before".

    Raises:
        base.InputError: config.json cannot be read.
    """
    config = with_new_names(workdir_lib.read_config(workdir))
    try:
        config_rules.check_values(config)
    except base.InputError as error:
        raise base.InputError(f"{workdir / 'config.json'} is not of a run: {error}") from error
    return _completed(config)


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with today's names for the keys of `OLD_NAMES`."""
    renamed: dict[str, Any] = {}
    for section, values in config.items():
        renamed[section] = values
        if isinstance(values, Mapping):
            renamed[section] = {}
            for key, value in values.items():
                name = OLD_NAMES.get(f"{section}.{key}", f"{section}.{key}")
                renamed[section][name.partition(".")[2]] = _OLD_VALUES.get((name, str(value)), value)
    return renamed


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    complete = json.loads(json.dumps(config_lib.load_file("default").to_dict()))
    complete["method"] = _method_defaults(config.get("method", {}).get("name"))
    complete["feed"]["kind"] = "canvas"  # as all runs of before were fed
    for section, values in config.items():
        complete[section] = {**complete.get(section, {}), **values} if isinstance(values, Mapping) else values
    return complete


def _method_defaults(name: Any) -> dict[str, Any]:
    parameters = inspect.signature(methods.METHODS[name]).parameters if name in methods.METHODS else {}
    # By the program.
    given = ("num_classes", "num_steps", "num_examples", "teacher", "mesh", "dtype", "vocab_size", "text_length")
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in given and parameter.default is not inspect.Parameter.empty
    }


def check_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> str:
    """Whether the run in `workdir` may go on with this config; returns a line about what differs, "" if nothing does.

    Raises:
        base.InputError: a setting differs that makes the run another one; all such settings are named.
    """
    if not workdir_lib.has_config(workdir):
        return ""
    mine = _completed(json.loads(json.dumps(config)))
    theirs = read_config(workdir)
    if mine["feed"]["kind"] == "auto":  # whatever that came to
        mine["feed"]["kind"] = theirs["feed"]["kind"]
    old, new = base.flat(theirs), base.flat(mine)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    if not changed:
        return ""
    if not checkpoint.saved_steps(workdir / "checkpoints"):
        return f"The run in {workdir} had saved nothing yet; it starts with {_listed(changed, old, new)}."
    length = [key for key in changed if key in _LENGTH]
    if length:
        _check_length(theirs, mine, finished=f"{workdir}")
    kept = [key for key in changed if key not in length and not _is_free(key, mine)]
    if kept:
        raise base.InputError(
            f"A workdir belongs to one run; that in {workdir} was made with other settings: "
            f"{'; '.join(f'{key}: {_shown(old, key)} there, {_shown(new, key)} asked' for key in kept)}. "
            "Use the same values to go on with that run, or another --workdir."
        )
    return f"Going on with settings that differ from those before: {_listed(changed, old, new)}."


def with_kept_feed(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, its feed.kind "auto" replaced by what that came to when the run in `workdir` was started.

    "auto" goes by the memory of the devices: on others the same run would train on other crops.
    """
    if config["feed"]["kind"] != "auto" or not checkpoint.saved_steps(workdir / "checkpoints"):
        return dict(config)
    return _with_feed(config, read_config(workdir)["feed"]["kind"])


def with_resolved_feed(config: Mapping[str, Any], train_set: data.ImageSet) -> dict[str, Any]:
    """The config as a run keeps it: feed.kind "auto" replaced by what it has come to, for all verbs alike."""
    if config["feed"]["kind"] != "auto":
        return dict(config)
    return _with_feed(config, "streamed" if data.is_encoded(train_set) else "canvas")


def _with_feed(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {**config, "feed": {**config["feed"], "kind": kind}}


def _is_free(key: str, config: Mapping[str, Any]) -> bool:
    if key == "train.num_chunks":  # BatchNorm sees a chunk; without it chunks are exact
        return config["encoder"]["norm"] in ("group", "frozen")
    return key.startswith(_FREE)


def _check_length(theirs: Mapping[str, Any], mine: Mapping[str, Any], *, finished: str) -> None:
    """Raises InputError unless the rates of the updates made so far stay, or the config says how they change."""
    before, after = theirs["train"]["num_epochs"], mine["train"]["num_epochs"]
    had, wanted = (list(config["schedule"]["restart_epochs"]) for config in (theirs, mine))
    if mine["train"]["stretch_schedule"] or (after >= before and wanted == [*had, before]):
        return
    raise base.InputError(
        f"The run in {finished} was made for train.num_epochs {before:g}{_restarts(had)}; got {after:g}"
        f"{_restarts(wanted)}. Use the same values to go on as it was. To change its length say how the learning rate "
        f'goes on: --config.schedule.restart_epochs="{(*had, before)}" gives the epochs after {before:g} a warm-up and '
        "a cosine of their own; --config.train.stretch_schedule=True follows the schedule of that length from here on."
    )


def _restarts(epochs: list[float]) -> str:
    return f" with restarts at {', '.join(f'{epoch:g}' for epoch in epochs)}" if epochs else ""


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else _ABSENT


def _listed(keys: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_shown(new, key)} (was {_shown(old, key)})" for key in keys)


def describe(name: str, train_set: data.ImageSet) -> Data:
    """What a run keeps about its training split, of which `split.label_fraction` may take a part."""
    weights = () if train_set.mix is None else train_set.mix.weights
    return Data(name, train_set.fingerprint, len(train_set.images), tuple(train_set.class_names), weights)


def check_data(workdir: pathlib.Path, now: Data) -> None:
    """Raises base.InputError if a run that has saved a state was started with other training data."""
    if not checkpoint.saved_steps(workdir / "checkpoints"):
        return
    before = read_data(workdir)
    problem = "" if before is None else _difference(before, now)
    if problem:
        raise base.InputError(
            f"A run goes on with the data it was started with; {problem}. Put the data back, or start another "
            f"--workdir from its weights: {paths.as_flag('config.init.workdir', workdir)}. To go on with the data as "
            f"they are now, remove {workdir / _DATA}."
        )


def _difference(before: Data, now: Data) -> str:
    """How the data differ, "" if they do not."""
    if before.fingerprint == now.fingerprint and before.weights == now.weights:
        return ""
    if len(before.weights) == len(now.weights) and before.weights != now.weights:
        had, has = (", ".join(f"{weight:g}" for weight in which.weights) for which in (before, now))
        return f"the run was started with a mix of the weights {had}, {now.name} has {has}"
    if before.class_names != now.class_names:
        news = [f"new: {name}" for name in now.class_names if name not in before.class_names]
        news += [f"gone: {name}" for name in before.class_names if name not in now.class_names]
        return (
            f"the run was started with {len(before.class_names)} classes, {now.name} has {len(now.class_names)} "
            f"({', '.join(news[:6]) or 'in another order'})"
        )
    if before.num_images != now.num_images:
        return f"the run was started with {before.num_images} images, {now.name} has {now.num_images}"
    return (
        f"{now.name} has as many images as before, but other pixels: changed files, another canvas_size, a feed.kind "
        "that streams or no longer does, or another version of Pillow"
    )


def note_data(workdir: pathlib.Path, now: Data) -> str:
    """A line for verbs that only read a run, where the data are not those that it was trained on; "" if they are."""
    before = read_data(workdir)
    problem = "" if before is None else _difference(before, now)
    return f"These are not the data of the training: {problem}." if problem else ""


def write_data(workdir: pathlib.Path, now: Data) -> None:
    """Keeps what `check_data` compares with."""
    workdir_lib.write_json(workdir / _DATA, now._asdict())


def read_data(workdir: pathlib.Path) -> Data | None:
    """What `write_data` kept; None for an older run, or where the file is not readable."""
    try:
        content = base.parse_json((workdir / _DATA).read_text())
        had = {"weights": (), **content}  # there were no mixes before
        lists = {name: tuple(had[name]) for name in ("class_names", "weights")}
        return Data(**{**{name: had[name] for name in Data._fields}, **lists})
    except (OSError, ValueError, KeyError, TypeError):
        return None
