"""One exact training step of a large batch in chunks on this machine, against what the whole batch would need.

    python benchmarks/large_batch.py --batch_size=4096 --num_chunks=64 --width=1.0

prints XLA's figure for the temporary memory of both programs (the whole batch is compiled, not run), the time of the
step in chunks, its metrics and the peak memory of the process. The images are noise: nothing measured depends on them.
"""

import argparse
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import augment, base, methods, models, optim, train_step
from simclr_jax.data import resident

SIZE = 32


def make_step(*, width: float, norm: str, num_chunks: int) -> tuple[train_step.TrainStep, Any]:
    """(the step of SimCLR with a ResNet-18, the initialiser of its state)."""
    encoder = models.make_encoder("resnet18", width_multiplier=width, stem="cifar", norm=norm)
    method = methods.METHODS["simclr"](encoder)
    tx = optim.make_optimizer("lars", learning_rate=0.1, weight_decay=1e-4)
    load_views = train_step.make_load_views(resident.gather_batch, augment.make_simclr_views(image_size=SIZE))
    chunks = train_step.Chunks(num_chunks)
    step = train_step.make_train_step(method, tx, load_views, schedule=lambda step: jnp.float32(0.1), chunks=chunks)
    return step, lambda key: train_step.init_state(method, tx, key, views_shape=(2, 2, SIZE, SIZE, 3))


def noise(batch_size: int) -> resident.SplitArrays:
    """As many images as the batch has, each used once."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, SIZE, SIZE, 3), np.uint8)
    sizes, labels = np.full((batch_size, 2), SIZE, np.int32), np.zeros(batch_size, np.int32)
    return resident.SplitArrays(jnp.asarray(images), jnp.asarray(sizes), jnp.asarray(labels))


def gigabytes(compiled: Any) -> str:
    """For people: the temporary memory of a compiled program."""
    return f"{compiled.memory_analysis().temp_size_in_bytes / 1e9:.2f} GB of temporaries by XLA's analysis"


def main() -> None:
    """Compiles both programs and runs the one in chunks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--num_chunks", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--norm", default="group")
    asked = parser.parse_args()
    key, source = jax.random.key(0), noise(asked.batch_size)
    indices = jnp.arange(asked.batch_size, dtype=jnp.int32)
    programs: dict[int, Any] = {}
    for num_chunks in (1, asked.num_chunks):
        step, init = make_step(width=asked.width, norm=asked.norm, num_chunks=num_chunks)
        shapes = jax.eval_shape(init, key)
        start = time.perf_counter()
        programs[num_chunks] = jax.jit(step, donate_argnums=0).lower(shapes, key, source, indices).compile()
        print(
            f"{num_chunks} chunks: {gigabytes(programs[num_chunks])}, compiled in {time.perf_counter() - start:.0f} s"
        )
    state: base.TrainState = jax.jit(init)(key)
    start, cpu_start = time.perf_counter(), time.process_time()
    _, metrics = jax.block_until_ready(programs[asked.num_chunks](state, key, source, indices))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    print(
        f"one step of {asked.batch_size} pairs in {asked.num_chunks} chunks: {seconds:.0f} s, {cpu_seconds:.0f} of CPU"
    )
    print({name: round(float(value), 4) for name, value in metrics.items()})
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
