"""What PyTorch itself computes with a state dict of torchvision's ResNet, to hold a conversion against.

What belongs here: building torchvision's class for weights of any width and stem, and running it. torch is optional.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.interop import detect


def torchvision_features(
    state: Mapping[str, np.ndarray], images: np.ndarray, *, structure: detect.Structure
) -> tuple[np.ndarray | None, str]:
    """(h float32 [N, D], "") of torchvision's network in evaluation mode, or (None, why there is none).

    Args:
        state: its state dict, without prefixes; entries of fc and of other heads are not used.
        images: float32 [N, h, w, 3] in [0, 1].
        structure: its blocks.
    """
    try:
        import torch
        from torchvision.models import resnet
    except ImportError as error:
        return None, f"{error.name or 'torchvision'} is not installed"
    except RuntimeError as error:  # torchvision's operators were compiled for another build of torch
        return None, f"torchvision does not fit the installed torch: {error}"
    if len(structure.sizes) != 4:
        return None, f"torchvision's ResNets have four groups of blocks, this one has {len(structure.sizes)}"
    trunk = {key: value for key, value in state.items() if not key.startswith(("fc.", "projection_head."))}
    model = make_network(torch, resnet, trunk, structure=structure)
    tensors = {key: torch.from_numpy(np.array(value, np.float32)) for key, value in trunk.items()}
    # Its class counts batches, which many files and all of ours leave out.
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    try:
        model.load_state_dict({**tensors, **counters}, strict=True)
    except RuntimeError as error:
        return None, f"torchvision's class has other variables: {' '.join(str(error).split())[:120]} ..."
    with torch.no_grad():
        return model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy(), ""


def make_network(torch: Any, resnet: Any, trunk: Mapping[str, np.ndarray], *, structure: detect.Structure) -> Any:
    """torchvision's ResNet with the stem and the widths of the weights and without classifier, randomly initialised.

    Args:
        torch, resnet: the modules torch and torchvision.models.resnet.
        trunk: torchvision's state dict; of the arrays only the shapes are read.
        structure: the blocks.
    """
    stem = trunk["conv1.weight"].shape

    class Network(resnet.ResNet):
        """Its own `width_per_group` widens the inner convolutions of bottlenecks only; this widens every layer."""

        def _make_layer(self, block: Any, planes: int, blocks: int, **options: Any) -> Any:
            if planes == 64:
                self.inplanes = stem[0]
            return super()._make_layer(block, planes * stem[0] // 64, blocks, **options)

    block, inner = resnet.Bottleneck if structure.bottleneck else resnet.BasicBlock, 64 * structure.inner_width
    model = Network(block, list(structure.sizes), width_per_group=inner)
    if stem[-1] == 3:
        model.conv1 = torch.nn.Conv2d(3, stem[0], 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    else:
        model.conv1 = torch.nn.Conv2d(3, stem[0], 7, stride=2, padding=3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(stem[0])
    model.fc = torch.nn.Identity()
    return model
