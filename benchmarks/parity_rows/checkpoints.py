"""Rows of official checkpoints: every variable found by its name, and the outputs that were recorded with them.

The files themselves are TensorFlow's and are not read here. Their variables have known values, which are put under the
checkpoint's own names and go through our naming rules.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import models
from simclr_jax.interop import detect, tensorflow_names, variables
from simclr_jax.models import heads
from tests import golden, oracles

GROUP = "Official checkpoints"
CHECKPOINTS = {
    "ckpt_tf1_r18_w0.0625": ("TF1", "R18 1/16, CIFAR"),
    "ckpt_tf1_r50_sk_w0.03125": ("TF1", "R50 SK 1/32"),
    "ckpt_tf2_r18_w0.0625": ("TF2", "R18 1/16, CIFAR"),
    "ckpt_tf2_r50_sk_w0.03125": ("TF2", "R50 SK 1/32"),
}
OUTPUTS = ("features", "projection_output", "supervised_logits")
# Full-size networks with a classifier of 1,000 classes: file, case, array of names.
LAYOUTS = [
    *(("layouts_tf1", case, "tf1_variable_names") for case in ("r18_cifar_stem_head3", "r50_head3", "r50_sk_head3")),
    *(("layouts_tf2", case, "tf2_checkpoint_keys") for case in ("r18_cifar_stem_head3", "r50_head3", "r50_sk_head3")),
]


def _theirs(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The checkpoint's name of every variable -> its canonical name."""
    names = arrays.get("canonical_to_key", arrays.get("variables/tf1_names"))
    return dict(zip(names.tolist(), arrays["variables/canonical_names"].tolist(), strict=True))


@functools.cache
def _by_name(file: str) -> dict[str, np.ndarray]:
    """Our variables by name, each with the value that the checkpoint has under the name we look for."""
    arrays = golden.load(file)
    canonical = _theirs(arrays)
    shapes = dict(zip(canonical, arrays["variables/shapes"].tolist(), strict=True))
    # TensorFlow's own table of objects is a string, which our reader of checkpoints leaves out.
    keys = [key for key in arrays["keys"].tolist() if key != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    matched = tensorflow_names.match_names(keys, ema=False)
    if matched.unknown or matched.missing:
        raise ValueError(f"unknown {matched.unknown[:3]}, missing {matched.missing[:3]}")
    return {ours: _value(canonical[theirs], shapes[theirs]) for ours, theirs in matched.found.items()}


def _value(name: str, shape: str) -> np.ndarray:
    return oracles.golden_value(name, tuple(int(n) for n in shape.split(","))).astype(np.float32)


def _names(file: str) -> Iterator[Case]:
    """The number of variables found, and of those whose canonical name is not ours."""
    arrays = golden.load(file)
    canonical = _theirs(arrays)
    found = tensorflow_names.match_names(arrays["keys"].tolist(), ema=False).found
    yield Case(len(found), len(canonical))
    yield Case(sum(_canonical(ours) != canonical.get(theirs) for ours, theirs in found.items()), 0)


def _layout_names() -> Iterator[Case]:
    for file, case, kind in LAYOUTS:
        arrays = golden.load(file)
        theirs = [name.removesuffix(":0") for name in arrays[f"{case}/{kind}"].tolist()]
        canonical = dict(zip(theirs, arrays[f"{case}/canonical_names"].tolist(), strict=True))
        found = tensorflow_names.match_names(theirs, ema=False).found
        yield Case(len(found), len(canonical))
        yield Case(sum(_canonical(ours) != canonical[name] for ours, name in found.items()), 0)


def _canonical(ours: str) -> str:
    """The golden files' name of one of our variables."""
    module, leaf = ours.removeprefix("encoder/").rsplit("/", 1)
    if module.rsplit("/", 1)[-1].rstrip("0123456789").endswith("bn"):
        leaf = {"scale": "gamma", "bias": "beta"}.get(leaf, leaf)
    return f"{module}/{leaf}"


@functools.cache
def _outputs(file: str) -> dict[str, np.ndarray]:
    """Features, projections and logits in float32, of the network that our detection reads off the variables."""
    by_name = _by_name(file)
    network = detect.find_architecture(by_name, padding="reference")
    params, batch_stats = variables.unflatten(by_name)
    encoder, head = (
        models.make_encoder(**network.encoder),
        heads.ProjectionHead(network.num_proj_layers, network.proj_out_dim),
    )

    @jax.jit
    def apply(params, batch_stats, images):
        parts = {name: {"params": params[name], "batch_stats": batch_stats[name]} for name in batch_stats}
        h = encoder.apply(parts["encoder"], images, train=False)
        dense = params["supervised_head"]["dense"]
        logits = jnp.matmul(h, dense["kernel"], precision="highest") + dense["bias"]
        return h, head.apply(parts["projection_head"], h, train=False)[-1], logits

    found = jax.device_get(apply(params, batch_stats, golden.load(file)["input"]))
    return dict(zip(OUTPUTS, found, strict=True))


def _recorded_outputs(file: str) -> Iterator[Case]:
    arrays = golden.load(file)
    yield from (Case(value, arrays[name]) for name, value in _outputs(file).items())


ROWS = [
    *(
        row
        for file, (reference, words) in CHECKPOINTS.items()
        for row in (
            Row(f"{words}: names of variables", reference, 0.0, table.EXACT, functools.partial(_names, file)),
            Row(
                *(f"{words}: features, projection, logits", reference, 1e-5, table.LARGEST),
                functools.partial(_recorded_outputs, file),
            ),
        )
    ),
    Row("full-size R18, R50, R50 SK: names", "TF1, TF2", 0.0, table.EXACT, _layout_names),
]
