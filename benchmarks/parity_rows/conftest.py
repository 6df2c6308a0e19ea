"""The fixtures of both kinds of files here; warnings of peers are theirs."""

import functools

import numpy as np
import pytest

from tests.conftest import torchvision
from tests.parity import compare

__all__ = ["compare", "torchvision"]


@pytest.fixture
def functional(torchvision):
    """torchvision's operations on float arrays [h, w, 3]: name -> function of (image, *settings)."""
    import torch
    from torchvision.transforms import functional

    def call(name, image, *settings, **options):
        tensor = torch.tensor(np.array(image)).permute(2, 0, 1)
        return getattr(functional, name)(tensor, *settings, **options).permute(1, 2, 0).numpy()

    return lambda name: functools.partial(call, name)


@pytest.fixture
def effect(request):
    """Records the measured size of an intended difference, and fails where it is not the expected one."""

    def effect(topic: str, text: str, value: float, *, low: float, high: float) -> None:
        """`text` says `value`, which must lie in [low, high], in words with its unit."""
        request.node.user_properties.append(("effect", [topic, text]))
        assert low <= value <= high, f"{topic}: {value:.3g} is not in [{low:g}, {high:g}]"

    return effect
