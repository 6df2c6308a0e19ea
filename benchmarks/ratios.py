"""Our speed in units of a small kernel timed beside it, to notice a slowdown on any machine: `test_ratios.py`.

    python benchmarks/ratios.py [--record]

A ratio is the CPU time of the kernel over that of ours: larger is better. Both are measured in one process of one
thread, call by call in turns, and the smallest time of each counts: what else the machine does only adds to a time.
`--record` writes benchmarks/ratios.json, to be done when a ratio changed on purpose, or for a kind of processor on
which ours and the kernels scale differently.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import timing

if __name__ == "__main__":  # before JAX is imported
    os.environ.update(timing.ONE_THREAD)

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bench_augment, bench_nt_xent
from simclr_jax import augment, losses

RECORD = ROOT / "benchmarks" / "ratios.json"
# Of the recorded ratio at least this much must be left.
KEPT = 0.75
PAIRS, IMAGES, TILE = 1024, 256, 512

Call = Callable[[], Any]


def best_of_each(ours: Call, kernel: Call, *, turns: int) -> tuple[float, float]:
    """The smallest CPU seconds of both, called in turns."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(turns + 1):
        for of, call in zip(seconds, (ours, kernel), strict=True):
            start = time.process_time()
            call()
            of.append(time.process_time() - start)
    return min(seconds[0][1:]), min(seconds[1][1:])  # the first calls are to warm up


def _compiled(function: Callable[..., Any], *arguments: Any) -> Call:
    arguments = jax.device_put(arguments)
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def loss_pair() -> tuple[Call, Call]:
    """Blockwise NT-Xent with its gradient; the products and exponentials of all its tiles, and nothing else."""
    z = bench_nt_xent.projections(PAIRS)

    def ours(z: Any) -> Any:
        return jax.value_and_grad(lambda z: losses.nt_xent_blockwise(z, temperature=bench_nt_xent.TEMPERATURE)[0])(z)

    def kernel(z: Any) -> Any:
        tiles = z.reshape(-1, TILE, bench_nt_xent.DIM)

        def of_row(row: Any) -> Any:
            return jax.lax.map(lambda column: jnp.sum(jnp.exp(row @ column.T), axis=1), tiles)

        return jax.lax.map(of_row, tiles)

    return _compiled(ours, z), _compiled(kernel, z)


def augment_pair() -> tuple[Call, Call]:
    """The views of 256 images of 32 px without blur; two products, an exponential and a clip of each image."""
    case = bench_augment.CASES["32 px, no blur"]
    images = bench_augment.photographs(IMAGES, case.canvas)
    view = augment.make_simclr_views(image_size=case.size, num_views=1, blur_probability=0.0)
    sizes, positions = np.full((IMAGES, 2), case.canvas, np.int32), np.arange(IMAGES, dtype=np.int32)

    def kernel(images: Any) -> Any:
        weights = jnp.eye(case.size, dtype=jnp.float32) * 0.5 + 1 / case.size

        def of_image(image: Any) -> Any:
            planes = jnp.moveaxis(image, -1, 0).astype(jnp.float32) / 255
            planes = weights @ planes @ weights
            return jnp.clip(jnp.exp(planes) - 1, 0, 1)

        return jax.lax.map(of_image, images)

    ours = _compiled(lambda images: view(jax.random.key(0), images, sizes, positions), images)
    return ours, _compiled(kernel, images)


PAIRS_OF_CALLS = {"blockwise NT-Xent": (loss_pair, 15), "augmentation": (augment_pair, 60)}


def measured() -> dict[str, float]:
    """Every ratio, by name."""
    best = {name: best_of_each(*make(), turns=turns) for name, (make, turns) in PAIRS_OF_CALLS.items()}
    return {name: kernel / ours for name, (ours, kernel) in best.items()}


def fallen(ratios: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """A sentence for every recorded ratio of which less than KEPT is left."""
    return [
        f"{name}: {ratios[name]:.3f} of the kernel's speed, recorded {value:.3f}"
        for name, value in recorded.items()
        if not ratios[name] >= KEPT * value
    ]


def main() -> int:
    """Prints the ratios as one line of JSON; with --record writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    options = parser.parse_args()
    ratios = measured()
    print(json.dumps(ratios))
    if options.record:
        about = timing.describe(["jax", "jaxlib"])
        RECORD.write_text(json.dumps({"ratios": ratios, **about}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
