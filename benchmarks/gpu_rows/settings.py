"""What is measured: the shipped configs as plain values, their tiny forms, and the ceilings of their networks.

`benchmarks/gpu_settings.json` holds the configs, because a machine that is only measured on may lack ml_collections;
`python benchmarks/gpu.py suite --settings` makes it anew, and a test holds it equal to the configs.
"""

import functools
import json
import math
import pathlib
from typing import Any

import jax
import optax

from benchmarks.gpu_rows.figures import Job
from simclr_jax import models, train_step
from simclr_jax.distributed import sharding
from simclr_jax.planning import estimate, hardware
from simclr_jax.run import program as program_lib

FILE = pathlib.Path(__file__).parents[1] / "gpu_settings.json"
RESNET50, CIFAR = "imagenet_resnet50", "cifar10"
Config = dict[str, Any]


def from_configs() -> str:
    """The text of gpu_settings.json, from the configs themselves; needs ml_collections."""
    from simclr_jax.run import config as config_lib

    return json.dumps({name: config_lib.load_file(name).to_dict() for name in (RESNET50, CIFAR)}, indent=1) + "\n"


def load(name: str, job: Job, **train: Any) -> Config:
    """The config `name`, its section `train` changed by `train`; for a tiny job the network and images are tiny."""
    config: Config = json.loads(FILE.read_text())[name]
    config["train"].update(train)
    if job.tiny:
        config["encoder"].update(name="resnet10", width_multiplier=0.125)
        config["method"].update(proj_out_dim=16)
        config["augment"].update(image_size=32 if name == RESNET50 else 16)
        config["train"]["batch_size"] = min(config["train"]["batch_size"], 8)
        config["train"]["steps_per_dispatch"] = min(config["train"]["steps_per_dispatch"], 2)
    return config


def canvas(name: str, job: Job) -> int:
    """Side of the images that views are cut from, pixels: as large as the recipe keeps them in memory."""
    if job.tiny:
        return 40 if name == RESNET50 else 16
    return int(json.loads(FILE.read_text())[name]["data"]["canvas_size"] or 32)


def num_images(name: str, batch_size: int, job: Job) -> int:
    """Images that live on the device: all of CIFAR-10, of larger ones two batches of 512."""
    if job.tiny:
        return 4 * batch_size
    return 50_000 if name == CIFAR else max(1024, batch_size)


def ceiling(config: Config, job: Job) -> dict[str, float]:
    """{"ceiling": views/s, "flops": of one view} of the network by the roofline of docs/plan.md at the probes' rates.

    Every layer takes as long as its arithmetic or its traffic, BatchNorm passes stand apart from convolutions, nothing
    overlaps. Shortcuts are torchvision's, so that ours and torch's have one ceiling: our ResNet-18 has a projection
    more, which the ceiling leaves out. Without rates there are FLOPs only.
    """
    plain = {**config["encoder"], "padding": "torchvision", "norm": "batch"}
    network = _network(json.dumps([plain, config["method"], config["augment"]["image_size"]]))
    facts = {"flops": float(network.train_flops)}
    if job.flops and job.bandwidth:
        reached = {"reached_flops": job.flops, "reached_bandwidth": job.bandwidth}
        here = hardware.DEVICES["cpu"]._replace(**reached, link=math.nan)
        facts["ceiling"] = 1 / estimate.view_seconds(network, here)
    return facts


@functools.cache
def _network(text: str) -> Any:
    """`estimate.NetworkCost` of [section encoder, section method, side of a view] as JSON; traced in a second."""
    section, method_section, size = json.loads(text)
    encoder = models.make_encoder(**section)
    method = program_lib.make_method(encoder, {"method": method_section}, sharding.make_mesh(1), num_classes=0)
    state = jax.eval_shape(
        lambda: train_step.init_state(method, optax.sgd(0.1), jax.random.key(0), views_shape=(2, 2, size, size, 3))
    )
    return estimate.measure(method, state, size=size)
