"""The backbone under the names of detection programs: torchvision's models with an FPN, and Detectron2.

What belongs here: names only; layouts are those of torchvision's ResNet, which both programs start from.

    torchvision's ResNet         torchvision's detection     Detectron2
    conv1, bn1                   backbone.body.conv1, bn1    backbone.bottom_up.stem.conv1, stem.conv1.norm
    layer{g}.{b}.conv{i}         backbone.body. + the same   backbone.bottom_up.res{g+1}.{b}.conv{i}
    layer{g}.{b}.bn{i}                                       backbone.bottom_up.res{g+1}.{b}.conv{i}.norm
    layer{g}.{b}.downsample.0, 1                             backbone.bottom_up.res{g+1}.{b}.shortcut, shortcut.norm

Only the backbone is written: the pyramid and the heads of a detector are new and are trained there.

Reference: torchvision/models/detection/backbone_utils.py (resnet_fpn_backbone: the ResNet is `body` of `backbone`), and
detectron2/modeling/backbone/resnet.py with the FPN as `bottom_up` of `backbone`. Detectron2 pads its max-pool as
torchvision does, so padding="reference" changes its features a little, as docs/weights.md says of torchvision.
"""

import re
from collections.abc import Mapping

import numpy as np

from simclr_jax.interop import torchvision

_STEM = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}


def to_torchvision_fpn(by_name: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder as `backbone.body.*` of fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn and their relatives.

    Raises:
        base.InputError: a variable has no place in torchvision's ResNet.
    """
    return {f"backbone.body.{name}": value for name, value in torchvision.to_torchvision(by_name).items()}


def to_detectron2(by_name: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder as `backbone.bottom_up.*` of Detectron2's models with a ResNet and an FPN.

    Raises:
        base.InputError: a variable has no place in torchvision's ResNet.
    """
    state = torchvision.to_torchvision(by_name)
    return {f"backbone.bottom_up.{_detectron2(name)}": value for name, value in state.items()}


def _detectron2(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{leaf}"
    group, block, layer = module.split(".", 2)
    layer = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}.get(layer, layer)
    layer = re.sub(r"^bn(\d)$", r"conv\1.norm", layer)
    return f"res{int(group.removeprefix('layer')) + 1}.{block}.{layer}.{leaf}"
