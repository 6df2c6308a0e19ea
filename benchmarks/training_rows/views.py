"""The views that several programs are given: made once by this program's augmentation."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from simclr_jax import augment, data, train_step
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib
from simclr_jax.run import setup


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


def save_of_run(path: pathlib.Path, config: Mapping[str, Any]) -> int:
    """Writes the float32 views [S, B, V, h, w, 3] that the run of `config` trains on, step by step; returns S."""
    run = setup.make_run(config)
    make_views = program_lib.make_augmentation(config, run.mesh)
    load_views = jax.jit(train_step.make_load_views(run.feed.load_batch, make_views))
    key, positions = sharding.make_key(run.mesh, config["seed"]), np.arange(run.settings.batch_size, dtype=np.int32)
    shape = run.settings.batch_size, *program_lib.views_shape(config)[1:]
    views = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(run.num_steps, *shape))
    for step in range(run.num_steps):
        source, indices = run.feed.draw(step)
        views[step] = load_views(train_step.views_key(key, step), source, indices[0], positions)[1]
    run.feed.close()
    views.flush()
    return run.num_steps
