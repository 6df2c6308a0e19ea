"""SimCLR for JAX users: faithful to the original, fast, practical.

What one tries first stands here, the rest one room further: `augment`, `losses`, `models`, `methods`, `optim`,
`train_step`, `probes`, `data`. docs/library.md shows all of it at work::

    import simclr_jax

    encoder = simclr_jax.load("runs/demo")        # a trained run, or an export
    features = encoder(images)                    # images of any size -> float32 [N, D]
    loss, metrics = simclr_jax.nt_xent(z)         # z [B, 2, d]
    make_views = simclr_jax.make_simclr_views(image_size=224)

`import simclr_jax` loads nothing; a name is loaded when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simclr_jax.augment import make_eval_view, make_simclr_views
    from simclr_jax.base import Batch, InputError, Method, TrainState
    from simclr_jax.losses import nt_xent, nt_xent_blockwise
    from simclr_jax.methods import make_simclr, make_supervised
    from simclr_jax.models import make_encoder
    from simclr_jax.optim import make_lars, make_schedule
    from simclr_jax.probes import knn_accuracy, linear_accuracy
    from simclr_jax.run.loading import load
    from simclr_jax.train_step import init_state, make_update

__all__ = [
    "Batch",
    "InputError",
    "Method",
    "TrainState",
    "init_state",
    "knn_accuracy",
    "linear_accuracy",
    "load",
    "make_encoder",
    "make_eval_view",
    "make_lars",
    "make_schedule",
    "make_simclr",
    "make_simclr_views",
    "make_supervised",
    "make_update",
    "nt_xent",
    "nt_xent_blockwise",
]
_HOMES = {
    **dict.fromkeys(("make_eval_view", "make_simclr_views"), "augment"),
    **dict.fromkeys(("Batch", "InputError", "Method", "TrainState"), "base"),
    **dict.fromkeys(("nt_xent", "nt_xent_blockwise"), "losses"),
    **dict.fromkeys(("make_simclr", "make_supervised"), "methods"),
    "make_encoder": "models",
    **dict.fromkeys(("make_lars", "make_schedule"), "optim"),
    **dict.fromkeys(("knn_accuracy", "linear_accuracy"), "probes"),
    "load": "run.loading",
    **dict.fromkeys(("init_state", "make_update"), "train_step"),
}
_ROOMS = (
    "augment",
    "base",
    "data",
    "interop",
    "losses",
    "methods",
    "models",
    "optim",
    "probes",
    "retrieval",
    "train_step",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"simclr_jax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"simclr_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'simclr_jax' has no attribute {name!r}; it has {', '.join((*_ROOMS, *__all__))}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_ROOMS, *__all__))
