"""What people would otherwise run: the same networks trained in torch, supervised and by SimCLR.

torchvision's networks, channels last, bfloat16 autocast, fused SGD, images already on the device; each plain and with
torch.compile. The SimCLR step adds two views of `torch_parts.make_views`, a head of two layers and NT-Xent. It has SGD
where ours has LARS, and cheaper views, so it is the easier step of the two.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from benchmarks import peers
from benchmarks.gpu_rows import figures, settings, torch_parts
from benchmarks.gpu_rows.figures import Figure, Job

IMAGES = 512


def resnet50(job: Job) -> Iterator[Figure]:
    """ResNet-50 at 224 pixels, 1024 views a step, as 512 images of ours make."""
    yield from _steps("ResNet-50", settings.RESNET50, _resnet50, job=job)


def cifar(job: Job) -> Iterator[Figure]:
    """ResNet-18 with the CIFAR stem at 32 pixels, 1024 views a step."""
    yield from _steps("CIFAR ResNet-18", settings.CIFAR, _resnet18, job=job)


def _resnet50(job: Job) -> torch.nn.Module:
    resnet = peers.load_torchvision().models.resnet
    if job.tiny:
        return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=8)
    return resnet.resnet50()


def _resnet18(job: Job) -> torch.nn.Module:
    resnet = peers.load_torchvision().models.resnet
    net = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]) if job.tiny else resnet.resnet18()
    net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    return net


def with_head(net: torch.nn.Module, dim: int = 128) -> torch.nn.Module:
    """The network with SimCLR's head of two layers in the place of its classifier: [N, 3, h, w] -> [N, dim]."""
    width = net.fc.in_features
    first, last = (torch.nn.Linear(width, out, bias=False) for out in (width, dim))
    net.fc = torch.nn.Sequential(first, torch.nn.BatchNorm1d(width), torch.nn.ReLU(), last)
    return net


def _steps(title: str, name: str, make: Callable[[Job], torch.nn.Module], *, job: Job) -> Iterator[Figure]:
    device = torch_parts.device(job)
    images, config = 4 if job.tiny else IMAGES, settings.load(name, job)
    flops = settings.ceiling(config, job)
    size, side = config["augment"]["image_size"], settings.canvas(name, job)
    for compiled in (False, True):
        suffix = ", torch.compile" if compiled else ""
        for kind in ("SimCLR", "supervised"):
            figure_name = f"torch {kind} {title}{suffix}"
            if compiled and job.tiny:
                yield figures.left_out(figure_name, "torch.compile is not part of a tiny run")
                continue
            torch.manual_seed(0)
            net = make(job).to(device, memory_format=torch.channels_last).train()
            if kind == "SimCLR":
                run = _simclr(net, (images, side, size), config["augment"], compiled=compiled)
            else:
                run = _supervised(net, (2 * images, size), compiled=compiled)
            start = time.perf_counter()
            run(1)
            seconds = round(time.perf_counter() - start, 1)
            yield torch_parts.rate(figure_name, run, 2 * images, job=job, compile_seconds=seconds, **flops)


def _supervised(net: torch.nn.Module, shape: tuple[int, int], *, compiled: bool) -> figures.Run:
    """Cross entropy of 1000 classes on random float images that are there already."""
    count, size = shape
    images = torch.rand(count, 3, size, size, device=net.fc.weight.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (count,), device=images.device)
    return _train(net, lambda: images, lambda out: functional.cross_entropy(out.float(), labels), compiled=compiled)


def _simclr(
    net: torch.nn.Module, shape: tuple[int, int, int], recipe: dict[str, Any], *, compiled: bool
) -> figures.Run:
    """Two views of every uint8 image, the network with a head, NT-Xent."""
    count, side, size = shape
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=net.fc.weight.device)
    make = functools.partial(
        torch_parts.make_views,
        size=size,
        strength=recipe["color_jitter_strength"],
        blurs=recipe["blur_probability"] > 0,
    )
    make = torch.compile(make) if compiled else make
    loss = peers.torch_nt_xent(torch_parts.TEMPERATURE)

    def views() -> torch.Tensor:
        return torch.cat([make(images), make(images)]).contiguous(memory_format=torch.channels_last)

    return _train(with_head(net).to(images.device), views, lambda z: loss(z.float()), compiled=compiled)


def _train(
    net: torch.nn.Module,
    views: Callable[[], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    compiled: bool,
) -> figures.Run:
    """A run of whole updates."""
    device = next(net.parameters()).device.type
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    fused = True if device == "cuda" else None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6, fused=fused)
    forward = torch.compile(net) if compiled else net

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.no_grad():
                batch = views()
            with torch.autocast(device, torch.bfloat16):
                out = forward(batch)
            loss(out).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch_parts.wait()

    return run
