"""What the augmentation costs: pictures per CPU second here, or traffic per view on an H200 that need not be here.

    python benchmarks/bench_views.py cpu --size=224 --canvas=256 --images=64
    python benchmarks/bench_views.py traffic --size=224 --canvas=384 --images=512

`cpu` makes one view of every image in one thread and prints the median, best and worst of nine runs. `traffic` compiles
two views of every image, cast to bfloat16, with the H200's compiler (the extra aot-gpu) and prints the bytes per view
that its kernels read and write. `--no_blur` leaves the blur out, as the CIFAR recipes do.
"""

import argparse
import os
import pathlib
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import timing

RUNS = 9


def pictures_per_cpu_second(settings: dict[str, Any], *, canvas: int, images: int) -> str:
    """The line of `cpu`: views made by the form for a CPU, one sigma an image."""
    os.environ.update(timing.ONE_THREAD)
    import jax
    import numpy as np

    from simclr_jax import augment

    make = jax.jit(augment.make_simclr_views(**settings, num_views=1, blur_sigma_per="image", loop="map"))
    pictures = np.random.default_rng(0).integers(0, 256, (images, canvas, canvas, 3), np.uint8)
    sizes, positions = np.full((images, 2), canvas, np.int32), np.arange(images, dtype=np.int32)
    arguments = [jax.device_put(array) for array in (pictures, sizes, positions)]
    times = []
    for run in range(RUNS + 1):
        key = jax.block_until_ready(jax.random.key(run))
        start = time.process_time()
        jax.block_until_ready(make(key, *arguments))
        times.append(time.process_time() - start)
    # The first run compiles.
    median, best, worst = (images / sorted(times[1:])[k] for k in (RUNS // 2, 0, -1))
    return f"pictures per CPU second: median {median:.0f}, best {best:.0f}, worst {worst:.0f}"


def traffic_per_view(settings: dict[str, Any], *, canvas: int, images: int) -> str:
    """The line of `traffic`: the form for accelerators, on one device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies

    from simclr_jax import augment
    from simclr_jax.planning import hardware, hlo

    description = hardware.description("h200")
    slices = hardware.topology("h200", 1)
    node = topologies.get_topology_desc("h200", platform="cuda", topology=slices, target_config=description)
    on = jax.sharding.SingleDeviceSharding(np.asarray(node.devices).reshape(-1)[0])
    make = augment.make_simclr_views(**settings, loop="vmap")

    def views(key: jax.Array, *rest: jax.Array) -> jax.Array:
        return make(jax.random.wrap_key_data(key), *rest).astype(jnp.bfloat16)

    shapes = [((2,), jnp.uint32), ((images, canvas, canvas, 3), jnp.uint8), ((images, 2), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(s, d, sharding=on) for s, d in [*shapes, ((images,), jnp.int32)]]
    compiled = jax.jit(views).lower(*arguments).compile()
    summary = hlo.summarise(compiled.as_text() or "")
    return f"traffic: {summary.program_bytes / (2 * images) / 1e6:.2f} MB per view, {summary.num_kernels} kernels"


def main() -> int:
    """Runs one mode and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("cpu", "traffic"))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--no_blur", action="store_true")
    options = parser.parse_args()
    settings = {"image_size": options.size, "blur_probability": 0.0 if options.no_blur else 0.5}
    measure = {"cpu": pictures_per_cpu_second, "traffic": traffic_per_view}[options.mode]
    print(measure(settings, canvas=options.canvas, images=options.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
