"""What a run would need and take on given hardware, without running it.

Three kinds of numbers, kept apart: counted (exact, from shapes), compiled (what the hardware's own compiler says of the
program, where it is installed) and modelled (the formulas of docs/plan.md).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from simclr_jax import augment, data, methods, models, optim, train_step
from simclr_jax.distributed import sharding
from simclr_jax.planning import aot, estimate, feeding, hardware
from simclr_jax.run import config as config_lib
from simclr_jax.run import input_pipeline
from simclr_jax.run import program as program_lib

# The paper's own pair of recipes gives the same rate at this batch: 0.3 b/256 = 0.075 sqrt(b).
_SAME_RATE_AT = 4096
_CHUNKS = (1, 2, 4, 8, 16, 32)
# JAX takes this share of a GPU by default, and what `input_pipeline` may take of it is a share of that.
_GPU_DEFAULT_SHARE = 0.75


def make_plan(
    config: Mapping[str, Any],
    *,
    kind: str,
    devices: int,
    memory: float | None = None,
    compiler: str = "auto",
    host_cores: int | None = None,
    host_rate: float | None = None,
) -> dict[str, Any]:
    """The plan as plain values: {"run", "counted", "compiled", "modelled"}; bytes, seconds and counts.

    "compiled" holds the fields of `aot.Compiled`, or a string that says why there are none.

    Args:
        config: of a run.
        kind: a key of `hardware.DEVICES`.
        devices: how many.
        memory: bytes of one device that the program may use; None for the usual share of the kind's.
        compiler: "auto" or "none"; compiling takes up to some minutes.
        host_cores: of all hosts together; None where they are not known.
        host_rate: images that one core reads, decodes and crops a second, as `simclr-jax data` measures it; None for
            the model's.

    Raises:
        base.InputError: the hardware or a value of the config is not valid.
    """
    device, batch_size = hardware.find(kind), config["train"]["batch_size"]
    if device.platform != "cpu":
        hardware.topology(kind, devices)
    sharding.check_divides(batch_size, devices)
    program_lib.check_sections(config, sharding.make_mesh(1))
    several = 1 if device.platform == "cpu" else config["train"]["steps_per_dispatch"]
    input_pipeline.check_config(config, steps_per_dispatch=several)
    train_step.check_chunks(batch_size, train_step.Chunks(config["train"]["num_chunks"], devices))
    shape = data_shape(config, device)
    network, num_steps = measure(config, shape, kind=kind)
    placement = place(config, kind=kind, devices=devices, shape=shape)
    usable = memory or device.usable * device.memory_bytes or math.nan
    modelled = _model(config, network, placement, usable=usable)
    rate = devices * modelled["views_per_second_and_device"] / placement.num_views
    modelled["feeding"] = _feeding(config, shape, rate=rate, host_cores=host_cores, host_rate=host_rate)
    return {
        "run": _describe_run(config, device, shape=shape, placement=placement),
        "counted": _count(config, network, num_steps=num_steps),
        "compiled": _compile(config, placement, shape=shape, compiler=compiler),
        "modelled": modelled,
    }


def _feeding(
    config: Mapping[str, Any],
    shape: program_lib.DataShape,
    *,
    rate: float,
    host_cores: int | None,
    host_rate: float | None,
) -> dict[str, Any] | None:
    """See `feeding.describe`; None where the devices' speed is not known."""
    if rate != rate:
        return None
    kind = "streamed" if shape.is_cut else "canvas" if shape.is_streamed else "resident"
    canvas = shape.canvas[-1]
    views = augment.make_recipe(**config["augment"])
    size, num_views = views.image_size, views.num_views
    seconds = feeding.host_seconds(
        kind, source_pixels=feeding.TYPICAL_PIXELS, canvas=canvas, view=size, num_views=num_views
    )
    if host_rate is not None and kind == "streamed":
        seconds = 1 / host_rate
    sent = {"resident": 4, "canvas": 3 * canvas**2, "streamed": 3 * num_views * size**2}[kind]
    return feeding.describe(
        kind, images_per_second=rate, seconds_per_image=seconds, bytes_per_image=sent, cores=host_cores
    )


def data_shape(config: Mapping[str, Any], device: hardware.Device) -> program_lib.DataShape:
    """The training split's shape and how it would come to the devices, by the rules of `input_pipeline`."""
    num_examples, num_classes, side, length = config_lib.call(
        data.describe_split, config, "data", split=config["split"]["train"]
    )
    share = _GPU_DEFAULT_SHARE if device.platform == "gpu" else 1.0
    device_bytes = int(share * device.memory_bytes) or None
    above = input_pipeline.stream_above(config, device_bytes=device_bytes)
    stays_encoded = ":" in config["data"]["name"] and (above < 0 or num_examples * 3 * side**2 > above)
    if config["split"]["label_fraction"] is not None:
        num_examples, length = (round(count * config["split"]["label_fraction"]) for count in (num_examples, length))
    texts = (1, config["text"]["length"]) if config["method"]["name"] in methods.IMAGE_TEXT else None
    if stays_encoded:
        size = config["augment"]["image_size"]
        crops = (config["augment"]["num_views"], size, size)
        return program_lib.DataShape(num_examples, num_classes, crops, True, length, texts)
    budget = input_pipeline.budget_bytes(config["train"]["max_resident_gigabytes"], device_bytes=device_bytes)
    fits = num_examples * (3 * side * side + 12) <= budget  # pixels, two sizes and a label
    is_streamed = not fits and config["feed"]["kind"] != "resident"
    return program_lib.DataShape(num_examples, num_classes, (side, side), is_streamed, length, texts)


def measure(config: Mapping[str, Any], shape: program_lib.DataShape, *, kind: str) -> tuple[estimate.NetworkCost, int]:
    """(the network's sums, number of updates of the run) on devices of a kind."""
    views = augment.make_recipe(**config["augment"])
    # In groups, however many, a BatchNorm is not folded into the convolution before it.
    bn_groups = 1 if config["train"]["bn_group"] == "global" else views.num_views
    folded = program_lib.fuses_conv_bn(config, platform=hardware.find(kind).platform)
    encoder = config_lib.call(models.make_encoder, config, "encoder", bn_groups=bn_groups, fused_conv_bn=folded)
    counts = {"num_classes": shape.num_classes, "num_examples": shape.num_examples}
    method = program_lib.make_method(encoder, config, sharding.make_mesh(1), **counts)
    sizes = program_lib.run_length(config, num_examples=shape.epoch_size or shape.num_examples)
    schedule = config_lib.call(optim.make_schedule, config, "schedule", **sizes)
    tx = config_lib.call(optim.make_optimizer, config, "optimizer", learning_rate=schedule)
    state = jax.eval_shape(
        lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=program_lib.views_shape(config))
    )
    small = (views.num_small_views, views.small_image_size)
    network = estimate.measure(
        method,
        state,
        size=views.image_size,
        num_views=views.num_views,
        small=small,
        num_images=config["method"].get("bn_splits", 1),
    )
    return network, optim.num_train_steps(**sizes)


def place(config: Mapping[str, Any], *, kind: str, devices: int, shape: program_lib.DataShape) -> estimate.Placement:
    """How the run that `config` describes is divided over `devices` devices of a kind."""
    batch_size = config["train"]["batch_size"]
    images = batch_size // devices if shape.is_streamed else shape.num_examples
    return estimate.Placement(
        kind=kind,
        devices=devices,
        batch_size=batch_size,
        source_bytes=images * math.prod(shape.canvas) * 3,
        num_views=config["augment"]["num_views"] + config["augment"]["num_small_views"],
        num_chunks=config["train"].get("num_chunks") or 1,
        loss=_losses(config)[0],
        is_streamed=shape.is_streamed,
    )


def _describe_run(
    config: Mapping[str, Any], device: hardware.Device, *, shape: program_lib.DataShape, placement: estimate.Placement
) -> dict[str, Any]:
    encoder = config["encoder"]
    return {
        "encoder": f"{encoder['name']} x{encoder['width_multiplier']:g}, {encoder['dtype']}",
        "method": config["method"]["name"],
        "data": config["data"]["name"],
        "num_examples": shape.num_examples,
        "epoch_size": shape.epoch_size or shape.num_examples,
        "canvas": shape.canvas[-1],
        "view": config["augment"]["image_size"],
        "is_streamed": shape.is_streamed,
        "device": device.name,
        "devices": placement.devices,
        "batch_size": placement.batch_size,
        "small_view": config["augment"]["small_image_size"] if config["augment"]["num_small_views"] else None,
        "views_per_device": placement.batch_size * placement.num_views // placement.devices,
        "num_epochs": config["train"]["num_epochs"],
        "num_chunks": placement.num_chunks,
    }


def _count(config: Mapping[str, Any], network: estimate.NetworkCost, *, num_steps: int) -> dict[str, Any]:
    num_views = config["augment"]["num_views"] + config["augment"]["num_small_views"]
    return {
        "num_params": network.num_params,
        "num_encoder_params": network.num_encoder_params,
        "num_batch_norms": network.num_batch_norms,
        "forward_flops_per_view": network.forward_flops,
        "flops_per_example": num_views * network.train_flops,
        "num_steps": num_steps,
        "learning_rates": _learning_rates(config["schedule"], config["train"]["batch_size"]),
    }


def _learning_rates(schedule: Mapping[str, Any], batch_size: int) -> list[dict[str, Any]]:
    """The peak rate by the config's rule, then by the other one with the base that agrees with it at batch 4096."""
    rule, base_rate = schedule["learning_rate_scaling"], schedule["base_learning_rate"]
    bases = {rule: base_rate}
    if rule != "none":
        other = "sqrt" if rule == "linear" else "linear"
        peaks = [
            optim.peak_learning_rate(base_learning_rate=1.0, batch_size=_SAME_RATE_AT, learning_rate_scaling=name)
            for name in (rule, other)
        ]
        bases[other] = base_rate * peaks[0] / peaks[1]
    return [
        {
            "scaling": name,
            "base": value,
            "peak": optim.peak_learning_rate(
                base_learning_rate=value, batch_size=batch_size, learning_rate_scaling=name
            ),
        }
        for name, value in bases.items()
    ]


def _compile(
    config: Mapping[str, Any], placement: estimate.Placement, *, shape: program_lib.DataShape, compiler: str
) -> dict[str, Any] | str:
    """What the hardware's compiler says, or in words why there is no answer."""
    kind, extra = placement.kind, aot.extra(placement.kind)
    if compiler == "none" or extra is None:
        return "not asked for (--compiler=none)" if extra else "there is no ahead-of-time compiler for a CPU"
    if not aot.is_installed(kind):
        return f"the compiler is not installed: pip install 'simclr-jax[{extra}]'"
    try:
        found = aot.compile_elsewhere(config, kind=kind, devices=placement.devices, shape=shape)
    except aot.CannotCompile as error:
        return f"the compiler gave up: {error}"
    return found._asdict()


def _model(
    config: Mapping[str, Any], network: estimate.NetworkCost, placement: estimate.Placement, *, usable: float
) -> dict[str, Any]:
    times, num_views = estimate.times(network, placement), placement.num_views
    return {
        "peak_bytes": estimate.peak_bytes(network, placement),
        "usable_bytes": usable,
        "choices": [
            {
                "loss": loss,
                "num_chunks": num_chunks,
                "peak_bytes": estimate.peak_bytes(network, choice),
                "largest_batch": estimate.largest_batch(network, choice, memory_bytes=usable),
                "step_seconds": estimate.times(network, choice).step,
            }
            for loss in _losses(config)
            for num_chunks in _chunks(config, placement)
            for choice in [placement._replace(loss=loss, num_chunks=num_chunks)]
        ],
        "statistics_all_reduces": 2 * network.num_batch_norms * placement.num_chunks * (placement.devices > 1),
        "gradient_bytes": 4 * network.num_params,
        "projection_bytes": 4 * network.z_dim * num_views * placement.batch_size,
        "traffic_bytes_per_view": network.traffic_bytes,
        "times": {**times._asdict(), "step": times.step},
        "views_per_second_and_device": num_views * placement.batch_size / placement.devices / times.step,
        "weak_scaling": _weak_scaling(network, placement),
    }


def _weak_scaling(network: estimate.NetworkCost, placement: estimate.Placement) -> dict[str, float]:
    """Number of devices -> efficiency, with as many images on a device as in this run."""
    each = placement.batch_size // placement.devices
    numbers = sorted({8, 64, 512, placement.devices})
    return {
        str(n): estimate.times(network, placement._replace(devices=n, batch_size=n * each)).efficiency for n in numbers
    }


def _losses(config: Mapping[str, Any]) -> tuple[str, ...]:
    return ("dense", "blockwise") if "loss_form" in config["method"] else ("other",)


def _chunks(config: Mapping[str, Any], placement: estimate.Placement) -> list[int]:
    """The numbers of chunks that this config can be set to and that divide a device's images."""
    each = placement.batch_size // placement.devices
    return [n for n in _CHUNKS if each % n == 0] if "num_chunks" in config["train"] else [1]
