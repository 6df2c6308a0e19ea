"""Reading TensorFlow's checkpoints: name-based ones of TF1, object-based ones of TF2, and SavedModels.

What belongs here: where the files of a checkpoint lie, and the names of its variables. TensorFlow only reads; nothing
is built or run with it.
"""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from simclr_jax import base
from simclr_jax.interop import files

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_KEY_END = "/.ATTRIBUTES/VARIABLE_VALUE"
_PART = re.compile(r"(.+?)(?:\.index|\.meta|\.data-\d{5}-of-\d{5})")
# The objects on the way from a SimCLR model to its variables; Keras has other ways, by names such as keras_api.
_MODEL_PARTS = ("resnet_model", "_projection_head", "supervised_head")
_PATH_PARTS = re.compile(
    r"initial_conv_relu_max_pool|block_groups|layers|conv_relu_dropblock_layers|conv2d_bn_layers|linear_layers?"
    r"|(projection|shortcut)_layers|conv2d(_fixed_padding|_0|_1)?|batch_norm_relu(_1)?|bn|bn_relu|dense"
    r"|se_(layer|reduce|expand)|\d+"
)
_VARIABLES = frozenset(("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"))
_MAX_DEPTH = 12


def find_prefix(path: pathlib.Path) -> pathlib.Path | None:
    """The prefix of the checkpoint's files that `path` names, None if it names no TensorFlow checkpoint.

    `path` is the prefix, one of its files, or a folder: of a SavedModel, or with a file named `checkpoint`, or with
    exactly one checkpoint.

    Raises:
        base.InputError: a folder without a checkpoint or with several.
    """
    if not path.is_dir():
        part = _PART.fullmatch(path.name)
        prefix = path.with_name(part[1]) if part else path
        return prefix if _index(prefix).is_file() else None
    for folder in (path / "variables", path):
        if _index(folder / "variables").is_file():
            return folder / "variables"
    prefixes = sorted(file.with_suffix("") for file in path.glob("*.index"))
    if (path / "checkpoint").is_file():
        text = (path / "checkpoint").read_text(errors="replace")
        latest = re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE)
        # The file may have been written elsewhere, with an absolute path: only the name counts.
        named = path / pathlib.PurePath(latest[1]).name if latest else None
        prefixes = [named] if named in prefixes else prefixes
    if len(prefixes) != 1:
        listed = ", ".join(prefix.name for prefix in prefixes[-5:]) or "none"
        raise base.InputError(
            f"A folder given as --input must hold one TensorFlow checkpoint (NAME.index); {path} holds {listed}. "
            "Name a file or a checkpoint."
        )
    return prefixes[0]


def open_tensorflow(prefix: pathlib.Path) -> files.Source:
    """The variables of a checkpoint, of an object-based one under their paths from the model: model/resnet_model/...

    Raises:
        base.InputError: TensorFlow is not installed, or the checkpoint is damaged.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it announces what it would do differently with them
    try:
        import tensorflow as tf
    except ImportError as error:
        raise files.missing_library("'simclr-jax[convert]'", "TensorFlow", "TensorFlow") from error
    parts = sorted(prefix.parent.glob(f"{_escaped(prefix.name)}.data-*"))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = {key: key for key in reader.get_variable_to_shape_map()}
        graph = reader.get_tensor(_GRAPH) if _GRAPH in keys else None
        paths = {} if graph is None else _object_paths(graph)
    except Exception as error:
        raise files.unreadable(prefix, "a TensorFlow checkpoint", error) from error
    named = {paths.get(key, key): key for key in keys if key != _GRAPH}

    def read(name: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(named[name]))
        except Exception as error:
            raise files.unreadable(prefix, "a TensorFlow checkpoint", error) from error

    return files.Source("tensorflow", tuple(named), read, (_index(prefix), *parts), {}, ())


def _object_paths(graph: bytes) -> dict[str, str]:
    """Checkpoint key -> path of the object, for the variables of a SimCLR model.

    TensorFlow names a variable by the shortest of its paths. In the published SavedModels that is the place in a list,
    trainable_variables_list/7, which says nothing; the graph of the objects has the telling path too.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(graph).nodes
    children = {child.local_name: child.node_id for child in nodes[0].children}
    model = children.get("model", 0)
    return {
        attribute.checkpoint_key: f"model/{path}{_KEY_END}"
        for path, node in _walk(nodes, model, ())
        for attribute in nodes[node].attributes
        if attribute.name == "VARIABLE_VALUE"
    }


def _walk(nodes: Any, node: int, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """("a/b/kernel", node) of every variable below `node`."""
    for child in nodes[node].children:
        name = child.local_name
        if path and name in _VARIABLES:
            yield "/".join((*path, name)), child.node_id
        elif len(path) < _MAX_DEPTH and (_PATH_PARTS.fullmatch(name) if path else name in _MODEL_PARTS):
            yield from _walk(nodes, child.node_id, (*path, name))


def _index(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(f"{prefix.name}.index")


def _escaped(name: str) -> str:
    """`name` as a pattern that matches itself only."""
    return re.sub(r"([\[*?])", r"[\1]", name)
