"""Whether the host can feed the devices: what a run asks of it, and how many cores that takes.

The costs are a model, stated in docs/plan.md; `simclr-jax data` measures them on a host with the data at hand.
"""

import math
from typing import Any

from simclr_jax import base

# "resident": the split lies on the devices | "canvas": rows of the decoded split are sent | "streamed": files are
# decoded in every epoch and crops are cut on the host.
KINDS = ("resident", "canvas", "streamed")
TYPICAL_PIXELS = 500 * 375  # of a file of ImageNet
# Seconds of one core: for an example whatever its size, for a pixel that is decoded, for a pixel of a crop, for a byte.
_PER_EXAMPLE, _PER_PIXEL, _PER_CROP_PIXEL, _PER_BYTE = 3e-4, 5e-9, 8e-9, 5e-10
# Cores that a host should have beyond what the pictures take: for the program itself, and for uneven work.
_RESERVE = 1.3


def host_seconds(kind: str, *, source_pixels: float, canvas: int, view: int, num_views: int) -> float:
    """Seconds of one core that feeding one example takes.

    Args:
        kind: one of KINDS.
        source_pixels: of the file that is decoded.
        canvas: side of the decoded split's images, pixels.
        view: side of a view, pixels.
        num_views: V.

    Raises:
        base.InputError: an unknown kind.
    """
    base.check_choice(kind, KINDS, name="the feed")
    if kind == "resident":
        return 0.0
    if kind == "canvas":
        return 3 * canvas**2 * _PER_BYTE
    return _PER_EXAMPLE + source_pixels * _PER_PIXEL + num_views * view**2 * _PER_CROP_PIXEL


def describe(
    kind: str,
    *,
    images_per_second: float,
    seconds_per_image: float,
    bytes_per_image: float,
    cores: int | None = None,
) -> dict[str, Any]:
    """What the devices ask of the hosts, and which of the two will wait.

    Args:
        kind: one of KINDS.
        images_per_second: that all devices together can use.
        seconds_per_image: of one core, see `host_seconds`, or measured.
        bytes_per_image: sent from host to device.
        cores: of all hosts together; None = not known.

    Returns:
        "kind", "images_per_second", "seconds_per_image", "bytes_per_second", "cores_needed" (with a reserve of 30 %),
        "cores", "host_images_per_second" (None without `cores`) and "limit": "device", "host", or "" where it depends
        on the cores.
    """
    base.check_choice(kind, KINDS, name="the feed")
    needed = 0 if kind == "resident" else max(1, math.ceil(_RESERVE * images_per_second * seconds_per_image))
    rate = None if cores is None or not seconds_per_image else cores / (_RESERVE * seconds_per_image)
    limit = ""
    if kind == "resident":
        limit = "device"
    elif cores is not None:
        limit = "device" if cores >= needed else "host"
    return {
        "kind": kind,
        "images_per_second": images_per_second,
        "seconds_per_image": seconds_per_image,
        "bytes_per_second": images_per_second * bytes_per_image,
        "cores_needed": needed,
        "cores": cores,
        "host_images_per_second": rate,
        "limit": limit,
    }
