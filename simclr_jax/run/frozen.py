"""Training with a frozen encoder, and the proof that it was frozen: digests before and after."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax import base
from simclr_jax.run import tree_digests
from simclr_jax.run import workdir as workdir_lib

_FILE = "init.json"


def freeze_encoder(method: base.Method) -> base.Method:
    """`method` with no gradient into params["encoder"], so that its backward pass is not even computed.

    BatchNorm is what the encoder's `norm` says: with "frozen" its statistics rest; with "batch" it normalises by the
    batch and its moving averages move, as in the reference's TF2 code.

    Reference: SimCLR appendix B.6. tf2/resnet.py with fine_tune_after_block=4 stops the gradient at the same place.
    """

    def embed(
        params: base.PyTree, method_state: base.PyTree, views: base.Array, batch: base.Batch, key: base.Array
    ) -> tuple[base.PyTree, base.PyTree]:
        still = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}
        return method.embed(still, method_state, views, batch, key)

    return method._replace(embed=embed)


def freeze(
    method: base.Method, tx: optax.GradientTransformation, *, whole: bool, modules: Sequence[str]
) -> tuple[base.Method, optax.GradientTransformation]:
    """`method` and `tx` with the `whole` encoder at rest, or those of its modules that let no gradient in themselves.

    No update moves what is at rest, while weight decay alone would wear it down.
    """
    if whole:
        return freeze_encoder(method), leave_encoder(tx)
    return method, leave_encoder(tx, modules=modules) if modules else tx


def still_modules(encoder: nn.Module) -> tuple[str, ...]:
    """The modules of an encoder that its own settings freeze, see `models.vit.ViT`."""
    return tuple(getattr(encoder, "still_modules", ()))


def leave_encoder(
    tx: optax.GradientTransformation, *, modules: Sequence[str] | None = None
) -> optax.GradientTransformationExtraArgs:
    """`tx` for all but params["encoder"], where nothing moves, not by weight decay either, and no momentum is kept.

    With `modules`, for all but these modules of the encoder.
    """

    def stay(updates: base.PyTree, state: base.PyTree, params: base.PyTree = None) -> tuple[base.PyTree, base.PyTree]:
        # Minus zero is the number that changes no bit: 0.0 would turn weights of -0.0 into 0.0.
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates), state

    def label_of_encoder(parts: base.PyTree) -> base.PyTree:
        return "still" if modules is None else {name: "still" if name in modules else "moving" for name in parts}

    def label(params: base.PyTree) -> base.PyTree:
        return {name: label_of_encoder(tree) if name == "encoder" else "moving" for name, tree in params.items()}

    still = optax.GradientTransformation(lambda params: optax.EmptyState(), stay)
    return optax.partition({"moving": tx, "still": still}, label)


def encoder_digests(params: base.PyTree, method_state: base.PyTree) -> dict[str, str]:
    """SHA-256 of all weights of the encoder and of all its BatchNorm statistics; host arrays or whole ones."""
    statistics = method_state["batch_stats"].get("encoder", {})
    return {"weights": _joined(params["encoder"]), "statistics": _joined(statistics)}


def write_start(workdir: pathlib.Path, digests: dict[str, str]) -> None:
    """Keeps the digests of the encoder that a run started from."""
    workdir_lib.write_json(workdir / _FILE, {"encoder": digests})


def read_start(workdir: pathlib.Path) -> dict[str, str] | None:
    """What `write_start` kept; None where a run started from random weights, or before this was kept."""
    try:
        content: Any = base.parse_json((workdir / _FILE).read_text(encoding="utf-8"))
        return dict(content["encoder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _joined(tree: base.PyTree) -> str:
    import hashlib

    digests = sorted(tree_digests.leaf_digests(tree).items())
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
