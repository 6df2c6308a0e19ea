"""Comparisons with libraries that run beside ours, where they are installed; they are rows of docs/parity.md."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers


def torchvision_function(name: str) -> Callable[..., Any]:
    """torchvision's operation `name` as a function of a float array [h, w, 3] and its settings."""
    peers.load_torchvision()
    import torch
    from torchvision.transforms import functional

    def call(image: Any, *settings: Any, **options: Any) -> Any:
        tensor = torch.tensor(np.array(image)).permute(2, 0, 1)
        return getattr(functional, name)(tensor, *settings, **options).permute(1, 2, 0).numpy()

    return call
