"""What several programs here ask of peers: torchvision that loads, and the losses of three libraries in one form."""

import os
import pathlib
import sys
from collections.abc import Callable
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


def torch_nt_xent(temperature: float) -> Callable[[Any], Any]:
    """NT-Xent of a tensor [2B, d], the rows of view 1 and then of view 2, in a few lines of torch."""
    import torch
    from torch.nn import functional

    def loss(z: Any) -> Any:
        z = functional.normalize(z)
        count = len(z)
        logits = z @ z.T / temperature
        logits = logits.masked_fill(torch.eye(count, dtype=torch.bool, device=z.device), float("-inf"))
        return functional.cross_entropy(logits, torch.arange(count, device=z.device).roll(count // 2))

    return loss


def lightly_nt_xent(temperature: float) -> Callable[[Any], Any]:
    """lightly's loss of a tensor [2B, d]."""
    load_torchvision()
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=temperature)
    return lambda z: loss(*z.chunk(2))


def metric_learning_nt_xent(temperature: float) -> Callable[[Any], Any]:
    """pytorch-metric-learning's loss of a tensor [2B, d]."""
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=temperature)
    return lambda z: loss(z, torch.arange(len(z) // 2, device=z.device).repeat(2))


def kornia_views(*, size: int, strength: float, blur: tuple[int, float]) -> Any:
    """Kornia's chain of SimCLR's operations for float images [B, 3, H, W]; blur: taps, and the probability."""
    import torch
    from kornia import augmentation as k

    steps = [
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0), resample="bicubic"),
        k.RandomHorizontalFlip(0.5),
        k.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
        k.RandomGrayscale(p=0.2),
    ]
    if blur[1]:
        steps.append(k.RandomGaussianBlur((blur[0], blur[0]), (0.1, 2.0), p=blur[1]))
    return torch.nn.Sequential(*steps)


def start_torch(seed: int) -> None:
    """One thread and a seed for a training in torch, and a torchvision that can be imported."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    load_torchvision()


def official_code(file: str) -> None:
    """Makes the official TF2 code importable, which lies where SIMCLR_TF2_FOLDER says; without it, it is absent."""
    folder = os.environ.get("SIMCLR_TF2_FOLDER", "")
    if not (folder and (pathlib.Path(folder) / file).exists()):
        raise ModuleNotFoundError(f"SIMCLR_TF2_FOLDER does not name the folder of the official {file}")
    sys.path.insert(0, folder)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
