"""Flax modules: encoders that map images to representations, and the heads on top of them.

ENCODERS is the table of encoders; `make_encoder` builds one from the plain values of a config.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import norms, resnet
from simclr_jax.models.text import make_text_tower

__all__ = ["ENCODERS", "make_encoder", "make_text_tower"]

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    # Half of ResNet-18, not in the papers: for small machines and small images.
    "resnet10": functools.partial(resnet.ResNet, resnet.BasicBlock, (1, 1, 1, 1)),
    "resnet18": functools.partial(resnet.ResNet, resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": functools.partial(resnet.ResNet, resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 4, 6, 3)),
    "resnet101": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 4, 23, 3)),
    "resnet152": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 8, 36, 3)),
    "resnet200": functools.partial(resnet.ResNet, resnet.BottleneckBlock, (3, 24, 36, 3)),
}

MAX_WIDTH = 16
DTYPES = ("float32", "bfloat16", "float64")


def _check_ratios(padding: str, **ratios: float) -> None:
    for argument, ratio in ratios.items():
        if not 0 <= ratio <= 1:
            raise base.InputError(f"{argument} must be 0.0 (none) to 1.0; got {ratio}. SimCLRv2 has sk_ratio 0.0625.")
        if ratio and padding == "torchvision":
            raise base.InputError(
                f'padding="torchvision" is for networks that torchvision has; got {argument} {ratio}. '
                'Use padding="reference".'
            )


def _check_dtype(dtype: str) -> None:
    base.check_choice(dtype, DTYPES, name="dtype")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise base.InputError("dtype must not be float64 while jax_enable_x64 is off. Use float32 or bfloat16.")


def _check_width(width_multiplier: float) -> None:
    if not 1 <= 64 * width_multiplier <= 64 * MAX_WIDTH:
        raise base.InputError(
            f"width_multiplier must be 1/64 (so that a layer has a channel) to {MAX_WIDTH}; got {width_multiplier}. "
            "Use 1.0."
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise base.InputError(f"{name} must be at least 1; got {count}. Use 1 for global BatchNorm on one device.")


def _check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    if (len(mean), len(std)) not in ((0, 0), (3, 3)) or not all(value > 0 for value in std):
        raise base.InputError(
            f"mean and std must be three numbers each, std above 0, or both empty; got {tuple(mean)} and {tuple(std)}. "
            "ImageNet's are (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."
        )


def make_encoder(
    name: str = "resnet18",
    *,
    width_multiplier: float = 1.0,
    stem: str = "imagenet",
    dtype: str = "float32",
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    padding: str = "reference",
    norm: str = "batch",
    bn_groups: int = 1,
    bn_parts: int = 1,
    fused_conv_bn: bool = False,
    remat: str = "none",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Module:
    """The encoder `name` of ENCODERS: `apply(variables, images [N, h, w, 3], train=...)` -> h [N, D].

    Args:
        name: a key of ENCODERS.
        width_multiplier: multiplies every number of channels (1, 2, 4 in the papers); 1/64 to 16.
        stem: "imagenet" (7x7/2 convolution, max-pool) or "cifar" (3x3/1; for images of up to about 32 pixels).
        dtype: type of the activations, "float32" or "bfloat16"; parameters, BatchNorm statistics and h stay float32.
            "float64" makes everything float64 and needs jax_enable_x64; it exists for numerical checks.
        sk_ratio: above 0, selective kernels with the deep stem and averaging shortcuts; 0.0625 in SimCLRv2. Networks of
            basic blocks (ResNet-10, 18, 34) only get the stem and the shortcuts, as in the TF2 reference.
        se_ratio: above 0, squeeze-and-excitation; no released model has it.
        padding: "reference", or "torchvision" for a network whose weights and features are those of torchvision's class
            (max-pool padded on all sides, no projection shortcut where shapes fit); the latter allows no sk_ratio or
            se_ratio.
        norm: "batch", "group" or "frozen", in the encoder and in its heads; see `norms.Norm`. Only with the
            latter two is a batch in chunks exactly the whole batch. "frozen" is for pretrained weights.
        bn_groups: for norm="batch", how many groups of neighbouring rows have statistics of their own while training;
            must divide every batch. 1 is global BatchNorm, the number of devices makes it per device.
        bn_parts: for norm="batch", over how many devices the rows are spread: statistics then need one exchange.
        fused_conv_bn: for norm="batch" in bfloat16, the forms that move less memory on a GPU; see `norms.Norm`.
        remat: "none", or "blocks": the backward pass keeps the inputs of residual blocks only and runs each block again
            when its turn comes. The same numbers, up to a third more time, much less memory.
        mean, std: three numbers each that every image is normalised by, (image - mean) / std, for images in [0, 1]:
            what the weights of most other programs were trained with. Empty for SimCLR's, which take them as they are.

    Raises:
        InputError: an unknown name, stem, dtype, padding, norm or remat, bn_groups or bn_parts below 1, a width
            multiplier, ratio, mean or std out of range, ratios with torchvision's padding, or float64 without
            jax_enable_x64.

    Reference: the size of the stem is chosen here by `stem`; the reference derives it from image_size <= 32.

    Example:
        >>> encoder = models.make_encoder("resnet18", stem="cifar")
        >>> shapes = jax.eval_shape(lambda: encoder.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
        >>> sorted(shapes)
        ['batch_stats', 'params']
    """
    base.check_choice(name, ENCODERS, name="name")
    base.check_choice(stem, resnet.STEMS, name="stem")
    _check_dtype(dtype)
    base.check_choice(padding, resnet.PADDINGS, name="padding")
    base.check_choice(norm, norms.NORMS, name="norm")
    base.check_choice(remat, resnet.REMATS, name="remat")
    _check_ratios(padding, sk_ratio=sk_ratio, se_ratio=se_ratio)
    _check_counts(bn_groups=bn_groups, bn_parts=bn_parts)
    _check_normalization(mean, std)
    _check_width(width_multiplier)
    return ENCODERS[name](
        width_multiplier=width_multiplier,
        stem=stem,
        dtype=dtype,
        sk_ratio=sk_ratio,
        se_ratio=se_ratio,
        padding=padding,
        norm=norms.Norm(norm, bn_groups, bn_parts, fused_conv_bn),
        remat=remat,
        mean=tuple(mean),
        std=tuple(std),
    )
