"""How a representation fares while it is trained: scores without labels, and the signs of what goes wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import base, data, methods, optim, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import features
from simclr_jax.run import program as program_lib

# (state, features of the training split or None) -> (scores by name, signs); see `make_measure`.
Measure = Callable[[base.TrainState, np.ndarray | None], tuple[dict[str, float], probes.Signs]]

_MAX_PAIRS = 512
# Before this share of the updates a loss may well be where it began.
_EARLY = 0.25


def make_measure(
    config: Mapping[str, Any], encoder: nn.Module, mesh: Mesh, *, train_set: data.ImageSet, encode: features.EncodeFn
) -> Measure:
    """Scores and signs of a training state, from a part of the training images; nothing compiles before its first call.

    The scores are those of `probes.label_free_scores`, on `probe.label_free_rows` evenly spaced training images, with
    the alignment of two views of at most 512 of them. Of a method with a momentum network also "target_norm", the L2
    norm of its parameters, and "target_distance", how far the trained ones are from them as a share of it.
    With `probe.label_free_rows` 0 there are none. Images are read when they are measured, and not kept.
    """
    rows = _evenly_spaced(len(train_set.images), config["probe"]["label_free_rows"])
    if not len(rows):
        return lambda state, train_h: ({}, probes.Signs())
    pairs_of = make_encode_pairs(config, encoder, mesh, image_set=train_set, rows=rows)
    target_numbers = jax.jit(_target_numbers, out_shardings=sharding.replicated(mesh))

    def measure(state: base.TrainState, train_h: np.ndarray | None) -> tuple[dict[str, float], probes.Signs]:
        variables = features.encoder_variables(state.params, state.method_state)
        h = encode(variables, data.subset(train_set, rows)) if train_h is None else train_h[rows]
        scores = probes.label_free_scores(h, pairs_of(variables))
        signs = probes.Signs(
            scores=scores,
            num_features=h.shape[1],
            finite_share=float(np.isfinite(h).mean()),
            dtype=config["encoder"]["dtype"],
            temperature=config["method"].get("temperature"),
        )
        target = state.method_state.get("target")
        if target is None:
            return scores, signs
        online = {name: state.params[name] for name in target["params"]}
        numbers = jax.device_get(target_numbers(online, target["params"]))
        return {**scores, **{name: float(number) for name, number in numbers.items()}}, signs

    return measure


def make_encode_pairs(
    config: Mapping[str, Any], encoder: nn.Module, mesh: Mesh, *, image_set: data.ImageSet, rows: np.ndarray
) -> Callable[[base.PyTree], np.ndarray]:
    """(encoder variables) -> h float32 [M, 2, D] of two views of M <= 512 images, the same views in every call.

    They are evenly spaced among those at `rows`. Of a split that stays encoded the views are cut from canvases, and
    damaged images are left out.
    """
    section = {**config["augment"], "num_views": 2, "num_small_views": 0}
    make_views = sharding.map_rows(
        program_lib.make_augmentation({**config, "augment": section}, mesh), mesh, row_args=(False, True, True, True)
    )
    count = min(_MAX_PAIRS, config["probe"]["batch_size"], len(rows))
    padded = -(-count // mesh.size) * mesh.size  # as many rows on every device
    rows = rows[_evenly_spaced(len(rows), count)]

    def encode(variables: base.PyTree, key: base.Array, images: base.Array, sizes: base.Array) -> base.Array:
        views = make_views(key, images, sizes, jnp.arange(padded, dtype=jnp.int32))
        h = encoder.apply(variables, views.reshape(-1, *views.shape[2:]), train=False)
        assert isinstance(h, jax.Array)
        return h.reshape(padded, 2, -1)

    compiled = jax.jit(encode, out_shardings=sharding.replicated(mesh))

    def pairs_of(variables: base.PyTree) -> np.ndarray:
        key = sharding.make_key(mesh, config["seed"])
        shown = data.decoded(image_set, rows) if data.is_encoded(image_set) else data.subset(image_set, rows)
        filled = np.resize(np.arange(len(shown.images)), padded)
        images, sizes = (sharding.gather_rows(mesh, array, filled) for array in (shown.images, shown.sizes))
        return np.asarray(jax.device_get(compiled(variables, key, images, sizes)))[: len(shown.images)]

    return pairs_of


def diagnose(
    config: Mapping[str, Any],
    signs: probes.Signs,
    rows: list[dict[str, float]],
    *,
    num_steps: int,
    num_classes: int,
) -> list[str]:
    """Sentences on what is wrong with a run, see `probes.diagnose`; the loss and the momentum network are in its log.

    Args:
        config: of the run.
        signs: of its newest state.
        rows: of its metrics, oldest first, up to that state.
        num_steps: updates of the whole run.
        num_classes: of its data.
    """
    losses = [row["loss"] for row in rows if "loss" in row and row["step"] >= _EARLY * num_steps]
    uninformed = uninformed_loss(config, num_classes=num_classes)
    # Of the last quarter the one that speaks most for the run: a loss that passes by is not stuck.
    late = losses[-max(1, len(losses) // 4) :]
    loss = max(late, key=lambda loss: abs(loss - (uninformed or 0.0)), default=None)
    targets = [row for row in rows if "target_norm" in row][-2:]
    target = ""
    if targets and targets[-1]["target_distance"] == 0:
        target = "same"
    elif len(targets) == 2 and targets[0]["target_norm"] == targets[1]["target_norm"]:
        target = "still"
    return probes.diagnose(signs._replace(loss=loss, uninformed_loss=uninformed, target=target))


def uninformed_loss(config: Mapping[str, Any], *, num_classes: int) -> float | None:
    """`methods.uninformed_loss` of a run whose data have `num_classes` classes; of a student, those of its teacher."""
    classes = config.get("teacher", {}).get("num_classes", num_classes)
    return methods.uninformed_loss(config["method"], batch_size=config["train"]["batch_size"], num_classes=classes)


def _target_numbers(online: base.PyTree, target: base.PyTree) -> dict[str, base.Array]:
    norm = optim.global_norm(target)
    distance = optim.global_norm(jax.tree.map(jnp.subtract, online, target))
    return {"target_norm": norm, "target_distance": distance / norm}


def _evenly_spaced(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))
