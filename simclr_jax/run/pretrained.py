"""Starting a run from the weights of another one: what it takes over from that run's config and checkpoint."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from simclr_jax import base, methods
from simclr_jax.methods import clip
from simclr_jax.run import checkpoint, features, identity
from simclr_jax.run import workdir as workdir_lib

_HEAD_KEYS = ("num_proj_layers", "proj_out_dim", "proj_hidden_dim")
_OWN_KEYS = ("dtype", "norm", "remat")
_VIEW_KEYS = ("image_size", "resize")


def inherit(config: Mapping[str, Any], *, resumed: pathlib.Path | None = None) -> dict[str, Any]:
    """The config completed by the runs that its sections `init` and `teacher` name; unchanged if they name none.

    From the run of `init` come the encoder (but for its dtype and remat, which are about speed and memory, and for norm
    where both have BatchNorm, so that it may be frozen), the projection head's shape if both methods have a head of one
    kind, and wherever this config leaves them open (None): the data set, its splits, and the size and resizing of
    images. The section `teacher` receives what the network of that run is built from, and its run fills what is still
    open.

    Args:
        config: with the sections `init` and `teacher`.
        resumed: a workdir that may hold a run of this config. Once it has saved a state it needs the run that it
            started from no more: if that is gone, what was taken over is read from the workdir's own config.

    Raises:
        base.InputError: `init.workdir` or `teacher.workdir` is not the folder of a run, the teacher has no classifier,
            or a layer of the head is asked for that the run does not have.
    """
    completed = {section: dict(value) if isinstance(value, Mapping) else value for section, value in config.items()}
    workdir = config["init"]["workdir"]
    if workdir is not None:
        theirs = _with_tuples(identity.read_config(_source(workdir, resumed, section="init")))
        _inherit_network(completed, config, theirs)
        _fill_open(completed, theirs)
    if config["teacher"]["workdir"] is not None:
        _inherit_teacher(completed, resumed)
    return completed


def _with_tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that was read from a file, its sequences tuples again, as in a config that was just made."""
    return {
        key: _with_tuples(value) if isinstance(value, Mapping) else tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
    }


def _inherit_network(completed: dict[str, Any], config: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    own = {key: value for key, value in config["encoder"].items() if key in _OWN_KEYS}
    if "group" in (own.get("norm", "batch"), theirs["encoder"].get("norm", "batch")):
        own["norm"] = theirs["encoder"].get("norm", "batch")
    completed["encoder"] = {**theirs["encoder"], **own}
    name = theirs["method"]["name"]
    if name == completed["method"]["name"] or {name, completed["method"]["name"]} <= set(methods.SIMCLR_HEADS):
        completed["method"] |= {key: theirs["method"][key] for key in _HEAD_KEYS if key in theirs["method"]}
    elif completed["method"].get("ft_proj_selector", 0) != 0:
        raise base.InputError(
            f"method.ft_proj_selector must be 0 to start from a run of the method {name}, whose head has other layers; "
            f"got {completed['method']['ft_proj_selector']}. Use --config.method.ft_proj_selector=0."
        )


def _fill_open(completed: dict[str, Any], theirs: Mapping[str, Any]) -> None:
    """Sets what a config leaves open (None) to what another run has."""
    if completed["data"]["name"] is None:
        completed["data"] = theirs["data"]
    for section, keys in {"split": ("train", "test"), "augment": _VIEW_KEYS}.items():
        completed[section] |= {key: theirs[section][key] for key in keys if completed[section][key] is None}


def _inherit_teacher(completed: dict[str, Any], resumed: pathlib.Path | None) -> None:
    section = completed["teacher"]
    folder = _source(section["workdir"], resumed, section="teacher")
    theirs = _with_tuples(identity.read_config(folder))
    if folder == resumed:
        completed["teacher"] = {**theirs["teacher"], **section}
        _fill_open(completed, theirs)
        return
    known = identity.read_data(folder)
    if theirs["method"]["name"] not in methods.CLASSIFIERS or known is None:
        raise base.InputError(
            f"A teacher must be a run with a classifier, of the method {' or '.join(methods.CLASSIFIERS)}; "
            f"{section['workdir']} is of the method {theirs['method']['name']}. Fine-tune it first: --config=finetune."
        )
    head = {key: theirs["method"][key] for key in (*_HEAD_KEYS, "ft_proj_selector") if key in theirs["method"]}
    completed["teacher"] = {
        **section,
        "encoder": theirs["encoder"],
        "head": head,
        "num_classes": len(known.class_names),
    }
    _fill_open(completed, theirs)


def _source(workdir: str, resumed: pathlib.Path | None, *, section: str) -> pathlib.Path:
    """The run to inherit from: that in `workdir`, or one that has already inherited from it."""
    if resumed is not None and not workdir_lib.has_config(pathlib.Path(workdir)) and workdir_lib.has_config(resumed):
        has_state = checkpoint.saved_steps(resumed / "checkpoints")
        if has_state and workdir_lib.read_config(resumed).get(section, {}).get("workdir") == workdir:
            return resumed
    return workdir_lib.require_run(workdir)


def adopt(state: base.TrainState, *, workdir: str, which: str) -> base.TrainState:
    """`state` with the encoder and the projection head of the run in `workdir`, as NumPy arrays.

    A classifier is not taken over: it belongs to the classes of its data. From a run of pictures alone a method of
    texts takes the encoder. Layers of that run's head which this state
    lacks are left out. A momentum network becomes a copy of the network.

    Args:
        state: freshly initialised.
        workdir: of a run made by train or convert.
        which: "latest", "best" or a step; see `features.load_variables`.

    Raises:
        base.InputError: no such run or checkpoint, or a weight is missing there or of another shape.
    """
    own = jax.device_get({"params": state.params, "batch_stats": state.method_state["batch_stats"]})
    _, theirs, _ = features.load_variables(workdir, which=which)
    # LiT: texts are learnt anew on an encoder that has seen pictures alone, and what CoCa has and CLIP has not.
    new = {"supervised_head", *(name for name in clip.OF_TEXTS if name not in theirs)}
    wanted = {kind: {name: tree for name, tree in trees.items() if name not in new} for kind, trees in own.items()}
    remedy = "Start from a run of the same method and widths, or from another checkpoint."
    if "supervised_head" in own["params"]:
        remedy = "Lower method.ft_proj_selector to the layers that its head has, or start from another run."
    taken = _take(wanted, workdir=workdir, which=which, whose="run", remedy=remedy)
    adopted: dict[str, Any] = {kind: {**own[kind], **taken[kind]} for kind in own}
    method_state = {**jax.device_get(state.method_state), "batch_stats": adopted["batch_stats"]}
    if "target" in method_state:
        method_state["target"] = {
            kind: {name: adopted[kind][name] for name in tree} for kind, tree in method_state["target"].items()
        }
    return state._replace(params=adopted["params"], method_state=method_state)


def adopt_teacher(state: base.TrainState, *, workdir: str, which: str) -> base.TrainState:
    """`state` whose method_state["teacher"] has the weights of the run in `workdir`, as NumPy arrays.

    Args:
        state: freshly initialised, of the method distill.
        workdir: of a fine-tuned run.
        which: "latest", "best" or a step; see `features.load_variables`.

    Raises:
        base.InputError: no such run or checkpoint, or a weight is missing there or of another shape.
    """
    whole = jax.device_get(state.method_state)
    remedy = "Choose another run or checkpoint."
    teacher = _take(whole["teacher"], workdir=workdir, which=which, whose="teacher", remedy=remedy)
    return state._replace(method_state={**whole, "teacher": teacher})


def _take(wanted: base.PyTree, *, workdir: str, which: str, whose: str, remedy: str) -> base.PyTree:
    """What a run has for every leaf of `wanted`, {"params", "batch_stats"}, in that leaf's type."""
    _, params, method_state = features.load_variables(workdir, which=which)
    sources = {"params": params, "batch_stats": method_state["batch_stats"]}

    def take(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
        found: Any = sources
        for entry in path:
            found = found.get(entry.key) if isinstance(found, Mapping) else None
        if found is None or np.shape(found) != leaf.shape:
            got = "nothing" if found is None else f"shape {list(np.shape(found))}"
            name = "/".join(str(entry.key) for entry in path[1:])
            raise base.InputError(
                f"The {whose} in {workdir} must have the weight {name} of shape {list(leaf.shape)}; it has {got}. "
                f"{remedy}"
            )
        return np.asarray(found, leaf.dtype)

    return jax.tree.map_with_path(take, wanted)
