"""Loading of peer packages that need more than an import statement."""

from typing import Any

# A declaration lives as long as its object.
_DECLARED: list[Any] = []


def load_torchvision() -> Any:
    """The torchvision package, also where its compiled operators do not fit the installed torch.

    Package indexes may pair torchvision built for CUDA with torch for CPUs. The compiled operators (box suppression and
    the like) then fail to load; with two of them declared the rest can be imported. None of them is used here.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(declared)
        import torchvision
    return torchvision
