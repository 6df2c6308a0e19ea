"""Flax modules: encoders that map images to representations, and the heads on top of them.

ENCODERS is the table of encoders; `make_encoder` builds one from the plain values of a config.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import clip_resnet, convnext, efficientnet, norms, resnet, vit
from simclr_jax.models.text import make_text_tower

__all__ = ["ENCODERS", "make_encoder", "make_text_tower", "unused_arguments"]

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    # Half of ResNet-18, not in the papers: for small machines and small images.
    "resnet10": functools.partial(resnet.ResNet, resnet.BasicBlock, group_sizes=(1, 1, 1, 1)),
    "resnet18": functools.partial(resnet.ResNet, resnet.BasicBlock, group_sizes=(2, 2, 2, 2)),
    "resnet34": functools.partial(resnet.ResNet, resnet.BasicBlock, group_sizes=(3, 4, 6, 3)),
    "resnet50": functools.partial(resnet.ResNet, resnet.BottleneckBlock, group_sizes=(3, 4, 6, 3)),
    "resnet101": functools.partial(resnet.ResNet, resnet.BottleneckBlock, group_sizes=(3, 4, 23, 3)),
    "resnet152": functools.partial(resnet.ResNet, resnet.BottleneckBlock, group_sizes=(3, 8, 36, 3)),
    "resnet200": functools.partial(resnet.ResNet, resnet.BottleneckBlock, group_sizes=(3, 24, 36, 3)),
    # Zagoruyko and Komodakis 2016 as torchvision has them: bottlenecks of twice the width inside.
    "wide_resnet50_2": functools.partial(resnet.ResNet, resnet.WideBottleneckBlock, group_sizes=(3, 4, 6, 3)),
    "wide_resnet101_2": functools.partial(resnet.ResNet, resnet.WideBottleneckBlock, group_sizes=(3, 4, 23, 3)),
    "vit_tiny": functools.partial(vit.ViT, 192, 12),
    "vit_small": functools.partial(vit.ViT, 384, 12),
    "vit_base": functools.partial(vit.ViT, 768, 12),
    "vit_large": functools.partial(vit.ViT, 1024, 24),
    "clip_resnet50": functools.partial(clip_resnet.ClipResNet, (3, 4, 6, 3)),
    "clip_resnet101": functools.partial(clip_resnet.ClipResNet, (3, 4, 23, 3)),
    "convnext_tiny": functools.partial(convnext.ConvNeXt, (96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_small": functools.partial(convnext.ConvNeXt, (96, 192, 384, 768), (3, 3, 27, 3)),
    "convnext_base": functools.partial(convnext.ConvNeXt, (128, 256, 512, 1024), (3, 3, 27, 3)),
    "convnext_large": functools.partial(convnext.ConvNeXt, (192, 384, 768, 1536), (3, 3, 27, 3)),
    **{name: functools.partial(efficientnet.EfficientNet, name) for name in efficientnet.SCALES},
}
# The arguments of make_encoder that only one family has, and what says that they are not used. Every config has a stem
# and a padding, so that these two are left alone where they mean nothing.
_OF_RESNET: dict[str, Any] = {"width_multiplier": 1.0, "group_sizes": (), "sk_ratio": 0.0, "se_ratio": 0.0}
_OF_VIT: dict[str, Any] = {
    "patch_size": 16,
    "num_heads": 0,
    "pool": "token",
    "positions": "learned",
    "position_grid": 14,
}
_OF_VIT |= {"design": "timm", "freeze_patches": False}
_OWN: dict[type[nn.Module], tuple[str, ...]] = {
    resnet.ResNet: (*_OF_RESNET, "stem", "padding"),
    vit.ViT: tuple(_OF_VIT),
    clip_resnet.ClipResNet: ("width_multiplier", "position_grid"),
    efficientnet.EfficientNet: ("padding",),
    convnext.ConvNeXt: (),
}
_FAMILIES: dict[str, dict[str, Any]] = {"ResNets": _OF_RESNET, "vision transformers": _OF_VIT}

MAX_WIDTH, MAX_GROUPS, MAX_BLOCKS = 16, 6, 256
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


def _check_group_sizes(group_sizes: Sequence[int]) -> None:
    if len(group_sizes) > MAX_GROUPS or not all(1 <= size <= MAX_BLOCKS for size in group_sizes):
        raise base.InputError(
            f"group_sizes must be the numbers of blocks, 1 to {MAX_BLOCKS}, of at most {MAX_GROUPS} groups, or empty "
            f"for those of the encoder; got {tuple(group_sizes)}. ResNet-50 has (3, 4, 6, 3)."
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


def _check_transformer(name: str, arguments: Mapping[str, Any]) -> None:
    if arguments["patch_size"] not in vit.PATCH_SIZES:
        raise base.InputError(
            f"patch_size must be one of {', '.join(map(str, vit.PATCH_SIZES))}; got {arguments['patch_size']}. "
            "Use 16 for images of 224 pixels and 4 for 32."
        )
    base.check_choice(arguments["pool"], vit.POOLS, name="pool")
    base.check_choice(arguments["positions"], vit.POSITIONS, name="positions")
    base.check_choice(arguments["design"], vit.DESIGNS, name="design")
    _check_grid(arguments["position_grid"])
    width, num_heads = ENCODERS[name].args[0], arguments["num_heads"]  # type: ignore[attr-defined]
    if num_heads < 0 or (num_heads and width % num_heads):
        raise base.InputError(
            f"num_heads must divide {width}, the width of {name}, or be 0 for {width // 64}; got {num_heads}. "
            "MoCo v3's vit_small has 12."
        )


def _check_grid(position_grid: int) -> None:
    if not 1 <= position_grid <= 256:
        raise base.InputError(
            f"position_grid must be 1 to 256, the patches along a side of an image; got {position_grid}. "
            "Use the image size over the patch size: 14 for 224 and 16."
        )


def _differ(given: Any, usual: Any) -> bool:
    return tuple(given) != usual if isinstance(usual, tuple) else bool(given != usual)


def _check_family(name: str, family: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Raises InputError for an argument that says something and that this encoder has no use for."""
    for title, unused in _FAMILIES.items():
        said = [key for key, value in unused.items() if _differ(arguments[key], value) and key not in _OWN[family]]
        if said:
            raise base.InputError(
                f"{said[0]} is for {title}; got {arguments[said[0]]} with the encoder {name}. Leave it at "
                f"{unused[said[0]]}."
            )


def _check(family: type[nn.Module], given: Mapping[str, Any]) -> None:
    """Raises InputError unless the arguments of `make_encoder` are valid for a network of that class."""
    choices = {"stem": resnet.STEMS, "padding": resnet.PADDINGS, "norm": norms.NORMS, "remat": resnet.REMATS}
    _check_dtype(given["dtype"])
    for key, valid in choices.items():
        base.check_choice(given[key], valid, name=key)
    _check_counts(bn_groups=given["bn_groups"], bn_parts=given["bn_parts"])
    _check_normalization(given["mean"], given["std"])
    _check_family(given["name"], family, given)
    if family is resnet.ResNet:
        _check_ratios(given["padding"], sk_ratio=given["sk_ratio"], se_ratio=given["se_ratio"])
        _check_width(given["width_multiplier"])
        _check_group_sizes(given["group_sizes"])
    if family is vit.ViT:
        _check_transformer(given["name"], given)
    if family is clip_resnet.ClipResNet:
        _check_width(given["width_multiplier"])
        _check_grid(given["position_grid"])


def unused_arguments(name: str) -> dict[str, Any]:
    """The arguments of `make_encoder` that only other families than that of `name` have, at what means not used.

    Example:
        >>> models.unused_arguments("vit_tiny")
        {'width_multiplier': 1.0, 'group_sizes': (), 'sk_ratio': 0.0, 'se_ratio': 0.0}
    """
    family = ENCODERS[name].func  # type: ignore[attr-defined]
    return {key: value for unused in _FAMILIES.values() for key, value in unused.items() if key not in _OWN[family]}


def make_encoder(
    name: str = "resnet18",
    *,
    width_multiplier: float = 1.0,
    group_sizes: Sequence[int] = (),
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
    patch_size: int = 16,
    num_heads: int = 0,
    pool: str = "token",
    positions: str = "learned",
    position_grid: int = 14,
    design: str = "timm",
    freeze_patches: bool = False,
) -> nn.Module:
    """The encoder `name` of ENCODERS: `apply(variables, images [N, h, w, 3], train=...)` -> h [N, D].

    Args:
        name: a key of ENCODERS.
        width_multiplier: of ResNets; multiplies every number of channels (1, 2, 4 in the papers); 1/64 to 16.
        group_sizes: of ResNets; the number of blocks in each group, for a network of any depth: (2, 2, 2) is ResNet-14
            with the blocks of `name`. Empty for the groups that `name` has.
        stem: of ResNets; "imagenet" (7x7/2 convolution, max-pool) or "cifar" (3x3/1; for images of up to about 32
            pixels).
        dtype: type of the activations, "float32" or "bfloat16"; parameters, BatchNorm statistics and h stay float32.
            "float64" makes everything float64 and needs jax_enable_x64; it exists for numerical checks.
        sk_ratio: of ResNets; above 0, selective kernels with the deep stem and averaging shortcuts; 0.0625 in SimCLRv2.
            Networks of basic blocks (ResNet-10, 18, 34) only get the stem and the shortcuts, as in the TF2 reference.
        se_ratio: of ResNets; above 0, squeeze-and-excitation; no released model has it.
        padding: of ResNets and EfficientNets; "reference", or "torchvision" for a network whose weights and features
            are those of torchvision's class. A ResNet's max-pool is then padded on all sides, it has no projection
            shortcut where shapes fit, and allows no sk_ratio or se_ratio; for EfficientNets see there.
        norm: "batch", "group" or "frozen", in the encoder and in its heads; see `norms.Norm`. Only with the
            latter two is a batch in chunks exactly the whole batch. "frozen" is for pretrained weights. Vision
            transformers and ConvNeXts have LayerNorm themselves, and this in their heads.
        bn_groups: for norm="batch", how many groups of neighbouring rows have statistics of their own while training;
            must divide every batch. 1 is global BatchNorm, the number of devices makes it per device.
        bn_parts: for norm="batch", over how many devices the rows are spread: statistics then need one exchange.
        fused_conv_bn: for norm="batch" in bfloat16, the forms that move less memory on a GPU; see `norms.Norm`.
        remat: "none", or "blocks": the backward pass keeps the inputs of blocks only and runs each block again when
            its turn comes. The same numbers, up to a third more time, much less memory.
        mean, std: three numbers each that every image is normalised by, (image - mean) / std, for images in [0, 1]:
            what the weights of most other programs were trained with. Empty for SimCLR's, which take them as they are.
        patch_size, num_heads, pool, positions, position_grid, design, freeze_patches: of vision transformers, see
            `vit.ViT`; patch_size is 4, 8, 14, 16 or 32. CLIP's ResNets have a position_grid too: 7 for 224 pixels.

    Raises:
        InputError: an unknown name or choice, bn_groups or bn_parts below 1, a width multiplier, ratio, mean, std,
            group_sizes, num_heads or position_grid out of range, ratios with torchvision's padding, an argument of
            another family, or float64 without jax_enable_x64.

    Reference: the size of the stem is chosen here by `stem`; the reference derives it from image_size <= 32.

    Example:
        >>> encoder = models.make_encoder("resnet18", stem="cifar")
        >>> shapes = jax.eval_shape(lambda: encoder.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
        >>> sorted(shapes)
        ['batch_stats', 'params']
    """
    given = dict(locals())  # the arguments, of which every family takes its own
    base.check_choice(name, ENCODERS, name="name")
    family: type[nn.Module] = ENCODERS[name].func  # type: ignore[attr-defined]
    _check(family, given)
    own = {key: given[key] for key in _OWN[family] if key != "group_sizes"}
    if group_sizes:
        own["group_sizes"] = tuple(group_sizes)
    return ENCODERS[name](
        **own,
        dtype=dtype,
        norm=norms.Norm(norm, bn_groups, bn_parts, fused_conv_bn),
        remat=remat,
        mean=tuple(mean),
        std=tuple(std),
    )
