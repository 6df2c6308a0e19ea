"""Trains with this program on pictures with captions, and projects the test split while it does."""

import json
import sys
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.run import compilation_cache, features, image_text, setup, splits, training_loop

PACKAGES = ("jax", "flax", "optax", "numpy", "tokenizers")


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    compilation_cache.keep()
    data, begin = dict(np.load(given["data"])), time.process_time()
    run = setup.make_run({**given["config"], "seed": given["seed"]})
    losses, kept, sizes = train(run, data)
    np.savez(given["out"], **kept)
    told = {"losses": losses, "parameters": sizes, "cpu_seconds": time.process_time() - begin}
    print(json.dumps({**told, **timing.describe(PACKAGES)}))


def train(
    run: training_loop.Run, data: Mapping[str, np.ndarray]
) -> tuple[list[float], dict[str, np.ndarray], dict[str, int]]:
    """The loss of every update, projections of the test split after those to evaluate at, numbers of parameters."""
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    key, places = sharding.make_key(run.mesh, run.config["seed"]), data["at"].tolist()
    test_set = splits.load_split(run.config, "test", like=run.train_set)
    project_texts = image_text.make_project_texts(run.config)
    losses: list[float] = []
    kept: dict[str, list[np.ndarray]] = {"images": [], "texts": []}
    for step in range(places[-1] + 1):
        if step in places:
            h = run.encode(features.encoder_variables(state.params, state.method_state), test_set)
            kept["images"].append(image_text.project_images(state.params, h))
            kept["texts"].append(project_texts(state.params, data["test_tokens"]))
        if step == places[-1]:
            break
        source, indices = run.feed.draw(step)
        state, metrics = run.train_steps(state, key, source, indices, jnp.asarray(1, jnp.int32))
        losses.append(float(metrics["loss"][0]))
        if step % 20 == 0:
            print(f"step {step} loss {losses[-1]:.3f}", file=sys.stderr, flush=True)
    run.feed.close()
    image = {name: state.params[name] for name in ("encoder", "image_projection")}
    sizes = {"image": count(image), "all": count(state.params)}
    return losses, {name: np.stack(rows) for name, rows in kept.items()}, sizes


def count(params: base.PyTree) -> int:
    """The number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    main()
