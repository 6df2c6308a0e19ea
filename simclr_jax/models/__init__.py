"""Flax modules: encoders that map images to representations, and the heads behind them.

ENCODERS is the table of encoders; `make_encoder` builds one from the plain values of a config.
"""

import functools
from collections.abc import Callable

from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import resnet

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(resnet.ResNet, resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": functools.partial(resnet.ResNet, resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 4, 6, 3)),
    "resnet101": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 4, 23, 3)),
    "resnet152": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 8, 36, 3)),
    "resnet200": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 24, 36, 3)),
}

DTYPES = ("float32", "bfloat16", "float64")


def _check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise base.InputError(f"{argument} must be one of {', '.join(choices)}; got {value!r}.")


def make_encoder(
    name: str = "resnet18", *, width_multiplier: float = 1.0, stem: str = "imagenet", dtype: str = "float32"
) -> nn.Module:
    """The encoder `name` of ENCODERS: `apply(variables, images [N, h, w, 3], train=...)` -> h [N, D].

    Args:
        name: a key of ENCODERS.
        width_multiplier: multiplies every number of channels (1, 2, 4 in the papers); at least 1/64.
        stem: "imagenet" (7x7/2 convolution, max-pool) or "cifar" (3x3/1; for images of up to about 32 pixels).
        dtype: type of the activations, "float32" or "bfloat16"; parameters, BatchNorm statistics and h stay float32.
            "float64" makes everything float64 and needs jax_enable_x64; it exists for numerical checks.

    Raises:
        InputError: an unknown name, stem or dtype, or a width multiplier below 1/64.

    Reference: the size of the stem is chosen here by `stem`; the reference derives it from image_size <= 32.
    """
    _check_choice("name", name, tuple(ENCODERS))
    _check_choice("stem", stem, resnet.STEMS)
    _check_choice("dtype", dtype, DTYPES)
    if not 64 * width_multiplier >= 1:
        raise base.InputError(
            f"width_multiplier must be at least 1/64, so that a layer has a channel; got {width_multiplier}. Use 1.0."
        )
    return ENCODERS[name](width_multiplier=width_multiplier, stem=stem, dtype=dtype)
