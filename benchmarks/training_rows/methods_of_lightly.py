"""Trains SimCLR, BYOL or Barlow Twins with lightly's losses, heads and moving averages, on views that are given.

Runs in an environment with torch and lightly, without JAX, for `benchmarks/methods_table.py`. The encoder is that of
this repository in torch, its modules under the same names. First weights are this process's own random numbers, of the
distributions that ours have; AdamW is torch's, with the rates of every step and the decay of weights alone. Only what
lightly has is lightly's: its heads, as they come, its losses, and for BYOL `update_momentum` and `cosine_schedule` at
the beginning of every step, where its examples have them.
"""

import collections
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers, timing

_TRUNCATED = 0.87962566103423978  # the standard deviation of a normal distribution cut at two


class Method(NamedTuple):
    """trained: its modules, the encoder the first one. loss: (step, both views [B, 3, h, w]) -> a scalar."""

    trained: Sequence[Any]
    loss: Callable[[int, Sequence[Any]], Any]


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    peers.start_torch(given["seed"])
    begin = time.process_time()
    encoder = make_encoder(given["widths"])
    method = MAKERS[given["method"]["name"]](encoder, given["widths"][-1], given)
    losses, seconds = train(method, np.load(given["views"], mmap_mode="r"), given)
    images = np.load(given["images"])
    features = {name: encode(encoder, images[name]) for name in ("train", "test")}
    weights = {f"weights:{name}": array.numpy() for name, array in encoder.state_dict().items()}
    np.savez(given["out"], **features, **weights)
    told = {"losses": losses, "step_seconds": seconds, "cpu_seconds": time.process_time() - begin}
    print(json.dumps({**told, **timing.describe(("torch", "lightly"))}))


def make_encoder(widths: Sequence[int]) -> Any:
    """A ResNet for 32 pixels with one basic block in each group, [N, 3, h, w] -> [N, widths[-1]].

    As `models.resnet.ResNet` with the stem "cifar" and the padding "reference": a projection shortcut in every group,
    the last scale of a block 0 at the start, kernels from a truncated normal distribution of variance 1 / fan-in.
    """
    from torch import nn

    stem = {"conv1": conv(3, widths[0], 3), "bn1": nn.BatchNorm2d(widths[0]), "relu": nn.ReLU()}
    parts: dict[str, Any] = {"stem": nn.Sequential(collections.OrderedDict(stem))}
    for group, (c_in, c_out) in enumerate(zip([widths[0], *widths], widths, strict=False), start=1):
        block = make_block(c_in, c_out, 1 if group == 1 else 2)
        parts[f"block_group{group}"] = nn.Sequential(collections.OrderedDict(block1=block))
    return nn.Sequential(collections.OrderedDict(**parts, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))


def make_block(c_in: int, c_out: int, stride: int) -> Any:
    """A basic block with a projection shortcut."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj_conv, self.proj_bn = conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)
            self.conv1, self.bn1 = conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out)
            self.conv2, self.bn2 = conv(c_out, c_out, 3), nn.BatchNorm2d(c_out)
            nn.init.zeros_(self.bn2.weight)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(y + self.proj_bn(self.proj_conv(x)))

    return Block()


def conv(c_in: int, c_out: int, size: int, stride: int = 1) -> Any:
    """A convolution without bias that pads alike on all sides."""
    from torch import nn

    layer = nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False)
    start_truncated(layer.weight)
    return layer


def start_truncated(weight: Any) -> None:
    """A normal distribution of variance 1 / fan-in, cut at two of its standard deviations, as Flax's `lecun_normal`."""
    from torch import nn

    std = math.sqrt(1 / weight[0].numel()) / _TRUNCATED
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def start_head(head: Any, start: Callable[[Any], None]) -> Any:
    """`head` whose dense layers start with `start`, and with biases of 0 where it has some."""
    from torch import nn

    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            start(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head


def make_simclr(encoder: Any, size: int, given: Mapping[str, Any]) -> Method:
    """Its head of two layers, and NT-Xent; both views pass the network together, as in ours."""
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import heads

    told = given["method"]
    head = heads.SimCLRProjectionHead(size, size, told["proj_out_dim"], num_layers=told["num_proj_layers"])
    start_head(head, lambda weight: torch.nn.init.normal_(weight, std=0.01))
    criterion = NTXentLoss(temperature=told["temperature"])
    return Method((encoder, head), lambda step, views: criterion(*head(encoder(torch.cat(list(views)))).chunk(2)))


def make_byol(encoder: Any, size: int, given: Mapping[str, Any]) -> Method:
    """Its projector and predictor; the target moves at the beginning of a step, view by view through both networks."""
    import torch
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import heads
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.utils.scheduler import cosine_schedule

    told, num_steps = given["method"], len(given["rates"])
    width = told["proj_out_dim"]
    projector = start_head(heads.BYOLProjectionHead(size, told["proj_hidden_dim"], width), start_truncated)
    predictor = start_head(heads.BYOLPredictionHead(width, told["pred_hidden_dim"], width), start_truncated)
    online, criterion = torch.nn.Sequential(encoder, projector), NegativeCosineSimilarity()
    target = copy.deepcopy(online)
    deactivate_requires_grad(target)

    def loss(step: int, views: Sequence[Any]) -> Any:
        update_momentum(online, target, m=cosine_schedule(step, num_steps, told["target_decay"], 1.0))
        p = [predictor(online(view)) for view in views]
        with torch.no_grad():
            z = [target(view) for view in views]
        return 0.5 * (criterion(p[0], z[1]) + criterion(p[1], z[0]))

    return Method((encoder, projector, predictor), loss)


def make_barlow_twins(encoder: Any, size: int, given: Mapping[str, Any]) -> Method:
    """Its head of three layers, and its loss; the views pass the network one after the other, as in ours."""
    import torch
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import heads

    told = given["method"]
    head = heads.BarlowTwinsProjectionHead(size, told["proj_hidden_dim"], told["proj_out_dim"])
    start_head(head, lambda weight: torch.nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5))
    criterion = BarlowTwinsLoss(lambda_param=told["redundancy_weight"])
    return Method((encoder, head), lambda step, views: criterion(*[head(encoder(view)) for view in views]))


MAKERS = {"simclr": make_simclr, "byol": make_byol, "barlow_twins": make_barlow_twins}


def train(method: Method, views: np.ndarray, given: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(the loss, CPU seconds) of every step, a batch of `views` [S, B, V, h, w, 3] each."""
    import torch

    parameters = [parameter for module in method.trained for parameter in module.parameters()]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": given["weight_decay"]},
        {"params": [one for one in parameters if one.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(given["momentum"], 0.999), eps=1e-8)
    losses, seconds = [], []
    for step, rate in enumerate(given["rates"]):
        both = torch.from_numpy(np.ascontiguousarray(views[step].transpose(1, 0, 4, 2, 3)))
        begin = time.process_time()
        for group in adamw.param_groups:
            group["lr"] = rate
        loss = method.loss(step, both)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(float(loss.detach()))
        seconds.append(time.process_time() - begin)
    return losses, seconds


def encode(encoder: Any, images: np.ndarray) -> np.ndarray:
    """The encoder's output float32 [N, D] with its moving statistics, for images uint8 [N, h, w, 3]."""
    import torch

    encoder.eval()
    rows = []
    with torch.no_grad():
        for start in range(0, len(images), 500):
            part = images[start : start + 500].astype(np.float32) / 255
            rows.append(encoder(torch.from_numpy(part.transpose(0, 3, 1, 2).copy())).numpy())
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
