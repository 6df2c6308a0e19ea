"""Trains with lightly's own parts put together as its CIFAR-10 benchmark does, on a narrower network.

Runs in an environment with torch and lightly, without JAX. The recipe is that of SimCLRModel in lightly's
docs/source/getting_started/benchmarks/cifar10_benchmark.py: ResNetGenerator, its head of two layers, SGD at
0.06 * batch / 128, weight decay 5e-4, a cosine by epoch, temperature 0.5, its views at strength 0.5 without blur.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import peers, timing


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    peers.start_torch(given["seed"])
    data, begin = dict(np.load(given["data"])), time.process_time()
    backbone, head = make_network(given["width"])
    curves = train(backbone, head, data, given)
    np.savez(given["out"], train=encode(backbone, data["train_images"]), test=encode(backbone, data["test_images"]))
    told = {"curves": curves, "cpu_seconds": time.process_time() - begin}
    print(json.dumps({**told, **timing.describe(("torch", "torchvision", "lightly"))}))


def make_network(width: float) -> tuple[Any, Any]:
    """The encoder and the projection head of the benchmark, `width` as wide."""
    from lightly.models import ResNetGenerator
    from lightly.models.modules import heads
    from torch import nn

    resnet = ResNetGenerator("resnet-18", width=width)
    size = resnet.linear.in_features
    backbone = nn.Sequential(*list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return backbone, heads.SimCLRProjectionHead(size, size, 128)


def train(backbone: Any, head: Any, data: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Trains both and returns the means of loss (summed over two directions) and contrastive accuracy over windows."""
    import torch
    from lightly.loss import NTXentLoss

    weights, size = [*backbone.parameters(), *head.parameters()], given["batch_size"]
    sgd = torch.optim.SGD(weights, lr=0.06 * size / 128, momentum=0.9, weight_decay=5e-4)
    steps_of_epoch = len(data["train_images"]) // size
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, given["num_steps"] / steps_of_epoch)
    criterion, losses, right = NTXentLoss(temperature=0.5), [], []
    for step, views in zip(range(given["num_steps"]), batches(data["train_images"], size), strict=False):
        z = [head(backbone(view)) for view in views]
        loss = criterion(*z)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if (step + 1) % steps_of_epoch == 0:
            cosine.step()
        unit = [torch.nn.functional.normalize(row.detach()) for row in z]
        nearest = (unit[0] @ unit[1].T).argmax(1)
        losses.append(2 * float(loss.detach()))
        right.append(float((nearest == torch.arange(size)).float().mean()))
    window = given["window"]
    curves = {"loss": losses, "contrastive_accuracy": right}
    return {name: np.reshape(values, (-1, window)).mean(axis=1).tolist() for name, values in curves.items()}


def batches(images: np.ndarray, size: int) -> Iterator[list[Any]]:
    """Batches of both views, epoch after epoch, each in a new order and without its last, smaller batch."""
    import torch
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    views = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    pictures = [Image.fromarray(image) for image in images]
    while True:
        order = torch.randperm(len(pictures)).tolist()
        for start in range(0, len(order) - size + 1, size):
            rows = [views(pictures[row]) for row in order[start : start + size]]
            yield [torch.stack(view) for view in zip(*rows, strict=True)]


def encode(backbone: Any, images: np.ndarray) -> np.ndarray:
    """The encoder's output with its moving statistics, for images as the benchmark's test transform makes them."""
    import torch
    from lightly.transforms.utils import IMAGENET_NORMALIZE

    mean, std = (np.asarray(IMAGENET_NORMALIZE[key], np.float32) for key in ("mean", "std"))
    backbone.eval()
    rows = []
    with torch.no_grad():
        for start in range(0, len(images), 500):
            part = (images[start : start + 500].astype(np.float32) / 255 - mean) / std
            rows.append(backbone(torch.from_numpy(part.transpose(0, 3, 1, 2).copy())).numpy())
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
