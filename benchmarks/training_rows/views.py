"""The views that several programs are given: made once by this program's augmentation."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from simclr_jax import augment, data
from simclr_jax.run import config as config_lib


def save(path: pathlib.Path, config: Mapping[str, Any], images: data.ImageSet, *, steps: int, batch: int) -> None:
    """Writes float32 views [S, B, V, h, w, 3] and int64 labels [S, B] of the first batches, in the split's order."""
    make_views = jax.jit(config_lib.call(augment.make_simclr_views, config, "augment"))
    rows = np.arange(steps * batch).reshape(steps, batch) % len(images.images)
    key, positions = jax.random.key(0), np.arange(batch, dtype=np.int32)
    made = [
        np.asarray(make_views(jax.random.fold_in(key, step), images.images[of], images.sizes[of], positions))
        for step, of in enumerate(rows)
    ]
    np.savez(path, views=np.stack(made), labels=images.labels[rows].astype(np.int64))
