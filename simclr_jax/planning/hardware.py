"""The kinds of devices: memory, speed, links, and how compilers that run without a device are given its description.

Figures are the makers' unless a comment says otherwise; `plan` multiplies them by shares that were measured or, where
it says so, estimated.
"""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from simclr_jax import base


class Device(NamedTuple):
    """One kind of device.

    name: as it is shown. platform: "gpu", "tpu" or "cpu".
    memory_bytes: as the compiler or the driver counts it. usable: share of it that a program may count on.
    flops: bfloat16 multiply-adds counted as two, per second, dense. bandwidth: of its memory, bytes per second.
    reached_flops, reached_bandwidth: what large products and copies reach, same units.
    link: bytes per second and device of an all-reduce (bus bandwidth), reached.
    latency: (devices, seconds) of a small all-reduce, to be interpolated; estimates.
    node: devices that share the fastest links; a host's for GPUs.
    slices: number of chips -> topology name, for TPUs. details: fields of the GPU's description.
    """

    name: str
    platform: str
    memory_bytes: int
    usable: float
    flops: float
    bandwidth: float
    reached_flops: float
    reached_bandwidth: float
    link: float
    latency: tuple[tuple[int, float], ...]
    node: int
    slices: Mapping[int, str] = {}
    details: Mapping[str, object] = {}


# The driver, the collectives' buffers and fragmentation take the rest. JAX's own default is 0.75 of a GPU:
# XLA_CLIENT_MEM_FRACTION raises it.
_GPU_USABLE, _TPU_USABLE = 0.92, 0.97
_GPU_LATENCY = ((1, 0.0), (2, 12e-6), (8, 18e-6), (64, 45e-6), (512, 80e-6))
_TPU_LATENCY = ((1, 0.0), (8, 8e-6), (64, 14e-6), (512, 30e-6))
_PLANE = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_HOPPER = {
    "shared_memory_per_core": 233472,
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "shared_memory_per_block_optin": 232448,
    "major": 9,
}
_AMPERE = {
    "shared_memory_per_core": 167936,
    "core_count": 108,
    "fpus_per_core": 64,
    "clock_rate_ghz": 1.41,
    "shared_memory_per_block_optin": 166912,
    "major": 8,
}


def _gpu(
    name: str, *, memory: int, flops: float, bandwidth: float, reached: tuple[float, float, float], **more: object
) -> Device:
    """A GPU on NVLink, eight to a host; `reached` is (flops, bandwidth, link)."""
    return Device(
        name, "gpu", memory, _GPU_USABLE, flops, bandwidth, *reached, latency=_GPU_LATENCY, node=8, details=more
    )


def _tpu(name: str, *, memory: float, flops: float, bandwidth: float, link: float, slices: dict[int, str]) -> Device:
    """A TPU chip. What is reached (0.85, 0.9 and 0.8 of the makers' figures) is an estimate."""
    reached = (0.85 * flops, 0.9 * bandwidth, 0.8 * link)
    return Device(
        name, "tpu", int(memory), _TPU_USABLE, flops, bandwidth, *reached, latency=_TPU_LATENCY, node=1, slices=slices
    )


DEVICES = {
    # Reached: 790 TFLOP/s and 4.3 TB/s were measured on one H200; the others are scaled from it, the links estimated.
    "h200": _gpu(
        "NVIDIA H200",
        memory=150110011392,
        flops=989e12,
        bandwidth=4.8e12,
        reached=(790e12, 4.3e12, 370e9),
        l2_cache_size=62914560,
        **_HOPPER,
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3",
        memory=84942979072,
        flops=989e12,
        bandwidth=3.35e12,
        reached=(790e12, 3.0e12, 370e9),
        l2_cache_size=52428800,
        **_HOPPER,
    ),
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB",
        memory=84974239744,
        flops=312e12,
        bandwidth=2.039e12,
        reached=(250e12, 1.75e12, 230e9),
        l2_cache_size=41943040,
        **_AMPERE,
    ),
    "v4": _tpu("TPU v4", memory=32e9, flops=275e12, bandwidth=1.228e12, link=300e9, slices=_CUBE),
    "v5e": _tpu("TPU v5e", memory=16.9e9, flops=197e12, bandwidth=0.819e12, link=200e9, slices=_PLANE),
    "v5p": _tpu("TPU v5p", memory=102e9, flops=459e12, bandwidth=2.765e12, link=600e9, slices=_CUBE),
    "v6e": _tpu("TPU v6e", memory=33.5e9, flops=918e12, bandwidth=1.64e12, link=448e9, slices=_PLANE),
    # No figures: a CPU's are anybody's guess, so plan gives no time for it.
    "cpu": Device("CPU", "cpu", 0, 1.0, math.nan, math.nan, math.nan, math.nan, math.nan, latency=((1, 0.0),), node=1),
}


def find(kind: str) -> Device:
    """The device kind of that name.

    Raises:
        base.InputError: there is none, with those there are.
    """
    base.check_choice(kind, DEVICES, name="--device_kind", remedy="Choose one.")
    return DEVICES[kind]


# What JAX calls a TPU where that is not its name here.
_OTHER_NAMES = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}


def peak_flops(device_kind: str) -> float | None:
    """`Device.flops` of what JAX calls a device's kind, such as "NVIDIA H200" or "TPU v5 lite"; None if unknown."""
    name = _OTHER_NAMES.get(device_kind, device_kind)
    found = [device.flops for device in DEVICES.values() if device.name == name and device.flops > 0]
    return found[0] if found else None


def topology(kind: str, num_devices: int) -> str:
    """What the ahead-of-time compiler calls `num_devices` devices of a kind: "1x2x8", "4x8" ...

    GPUs are counted as slices x hosts x GPUs of a host, TPUs by the shape of the slice. Google names v4 and v5p slices
    by TensorCores, two a chip: 64 chips of v5p are its "v5p-128".

    Raises:
        base.InputError: there is no such slice, or the GPUs do not fill their hosts; with the nearest that do.
    """
    device = find(kind)
    if device.platform == "gpu":
        if num_devices > device.node and num_devices % device.node:
            lower = num_devices // device.node * device.node
            raise base.InputError(
                f"--devices beyond {device.node} must fill hosts of {device.node} {device.name}; got {num_devices}. "
                f"Use {lower} or {lower + device.node}."
            )
        hosts = max(num_devices // device.node, 1)
        return f"1x{hosts}x{num_devices // hosts}"
    if num_devices not in device.slices:
        near = sorted(device.slices, key=lambda n: abs(math.log(n / num_devices)))[:2]
        raise base.InputError(
            f"--devices must be a slice of {device.name}: {', '.join(map(str, sorted(device.slices)))} chips; got "
            f"{num_devices}. Use {' or '.join(map(str, sorted(near)))}."
        )
    return device.slices[num_devices]


def description(kind: str) -> str:
    """The text by which XLA's GPU compiler knows a GPU that is not here (a GpuTargetConfigProto).

    Reference: the fields that every supported JAX knows; with XLA's own full description of an H200 the compiled
    program is the same to the byte.
    """
    device = find(kind)
    details = dict(device.details)
    major = details.pop("major")
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(device.bandwidth),
        "device_memory_size": device.memory_bytes,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        **details,
    }
    info = " ".join(f"{name}: {value}" for name, value in fields.items())
    return (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ major: {major} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 } '
        f'device_description_str: "{device.name}"'
    )


def latency(kind: str, num_devices: int) -> float:
    """Seconds of a small all-reduce over `num_devices`, interpolated in the logarithm of the number; NaN if unknown."""
    table = find(kind).latency
    if num_devices <= 1:
        return 0.0
    if len(table) == 1:
        return math.nan
    for (low, slow), (high, slower) in itertools.pairwise(table):
        if num_devices <= high:
            share = math.log(num_devices / low) / math.log(high / low)
            return slow + share * (slower - slow)
    (low, slow), (high, slower) = table[-2:]
    return slower + (slower - slow) * math.log(num_devices / high) / math.log(high / low)
