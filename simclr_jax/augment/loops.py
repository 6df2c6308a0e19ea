"""One image at a time or all at once: what suits a CPU and what suits accelerators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from simclr_jax import base
from simclr_jax.augment import resizing

RESIZE_PRODUCTS = {"map": resizing.resize_planes_banded, "vmap": resizing.resize_planes}


def resolve_loop(loop: str) -> str:
    """On a CPU "auto" means one by one, because a batched `switch` would run every branch for every image.

    A loop over a batch that is spread over devices would move every image to every device: there the views belong on
    each device's own rows (`sharding.map_rows`), which is where the training step makes them.
    """
    if loop == "auto":
        return "map" if base.platform() == "cpu" else "vmap"
    return loop


def over_examples(function: Callable[[Any], base.Array], examples: Any, *, loop: str) -> base.Array:
    """`function` of every example, results stacked."""
    return lax.map(function, examples) if resolve_loop(loop) == "map" else jax.vmap(function)(examples)


def unit_planes(image: base.Array, *, loop: str = "map") -> base.Array:
    """uint8 or float [H, W, 3] -> float32 [H, 3, W] in [0, 1]; both forms give the same bits."""
    if image.dtype != jnp.uint8:
        return resizing.to_planes(image).astype(jnp.float32)
    if resolve_loop(loop) == "map":
        return resizing.to_planes(image).astype(jnp.float32) * (1 / 255)
    # The barrier leaves the planes as bytes in memory; the product that reads them makes the floats, which XLA's
    # matrix products on GPUs do for signed bytes and not for unsigned ones.
    signed = lax.bitcast_convert_type(image ^ np.uint8(128), jnp.int8)
    planes = resizing.to_planes(signed)
    lines = lax.optimization_barrier(planes.reshape(planes.shape[0], -1))
    return (lines.reshape(planes.shape).astype(jnp.float32) + 128.0) * (1 / 255)
