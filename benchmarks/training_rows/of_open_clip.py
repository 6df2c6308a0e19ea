"""Trains with open_clip's own parts put together as its training program does, on a small network.

Runs in an environment with torch, timm and open_clip, without JAX. Model, loss, transforms, schedule and defaults of
Adam are imported from open_clip and its `open_clip_train`; the loop is that of `train_one_epoch` in its train.py on one
device in float32, the parameters without decay are those of its main.py, and an epoch goes over pairs, not over
pictures, as its tables do. The image tower is timm's ResNet-18 inside of open_clip's TimmModel, of half the width.
"""

import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import peers, timing

BLOCKS, IMAGENET_WIDTHS = (2, 2, 2, 2), (64, 128, 256, 512)
TOWER = "resnet18_of_a_width"


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    peers.start_torch(given["seed"])
    data, begin = dict(np.load(given["data"])), time.process_time()
    model = make_model(given["model"])
    losses, kept = train(model, data, given)
    np.savez(given["out"], **kept)
    sizes = {"image": count(model.visual), "all": count(model)}
    told = {"losses": losses, "parameters": sizes, "cpu_seconds": time.process_time() - begin}
    print(json.dumps({**told, **timing.describe(("torch", "torchvision", "timm", "open_clip_torch"))}))


def count(module: Any) -> int:
    """The number of its parameters."""
    return sum(weights.numel() for weights in module.parameters())


def make_model(sizes: Mapping[str, Any]) -> Any:
    """open_clip's CustomTextCLIP with a ResNet-18 of a width as its image tower."""
    import timm
    from open_clip import model

    def make_tower(**how: Any) -> Any:
        del how  # where to find trained weights
        return make_resnet(sizes["width"])

    make_tower.__name__, make_tower.__module__ = TOWER, __name__
    timm.models.register_model(make_tower)
    vision = model.CLIPVisionCfg(timm_model_name=TOWER, image_size=sizes["image_size"])
    return model.CustomTextCLIP(sizes["dimension"], vision, model.CLIPTextCfg(**sizes["text"]), output_dict=True)


def make_resnet(width: float) -> Any:
    """timm's ResNet-18 of `width` from the first convolution on; its class knows the width of the groups alone."""
    from timm.models import resnet
    from torch import nn

    channels = tuple(int(width * of) for of in IMAGENET_WIDTHS)
    network = resnet.ResNet(resnet.BasicBlock, BLOCKS, channels=channels)
    first, block = channels[0], network.layer1[0]
    network.conv1 = nn.Conv2d(3, first, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(first)
    block.conv1 = nn.Conv2d(first, first, kernel_size=3, padding=1, bias=False)
    if block.downsample is not None:
        block.downsample[0] = nn.Conv2d(first, first, kernel_size=1, bias=False)
    for layer in (network.conv1, block.conv1, *(block.downsample or ())[:1]):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    network.default_cfg = {"pool_size": (1, 1), "classifier": "fc", "first_conv": "conv1"}
    return network


def make_adam(model: Any, given: Mapping[str, Any]) -> Any:
    """AdamW with the parts of main.py that are not decayed, and the defaults of params.py for ResNets."""
    from open_clip_train import params
    from torch import optim

    def is_decayed(name: str, weights: Any) -> bool:
        words = ("bn", "ln", "bias", "logit_scale")
        return weights.ndim >= 2 and not any(word in name for word in words)

    named, defaults = list(model.named_parameters()), params.get_default_params("RN50")
    groups = [
        {"params": [of for name, of in named if is_decayed(name, of) == decayed], "weight_decay": decay}
        for decayed, decay in ((False, 0.0), (True, given["weight_decay"]))
    ]
    betas = (defaults["beta1"], defaults["beta2"])
    return optim.AdamW(groups, lr=given["learning_rate"], betas=betas, eps=defaults["eps"])


def train(
    model: Any, data: Mapping[str, np.ndarray], given: Mapping[str, Any]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Trains it; the loss of every update, and projections of the test split after those to evaluate at."""
    import torch
    from open_clip import loss as loss_lib
    from open_clip_train import scheduler

    adam, criterion = make_adam(model, given), loss_lib.ClipLoss()
    places = data["at"].tolist()
    adjust = scheduler.cosine_lr(adam, given["learning_rate"], int(data["warmup_steps"]), places[-1])
    losses: list[float] = []
    kept: dict[str, list[np.ndarray]] = {"images": [], "texts": []}
    source = batches(data, given)
    for step in range(places[-1] + 1):
        if step in places:
            for name, rows in encode(model, data, given).items():
                kept[name].append(rows)
        if step == places[-1]:
            break
        adjust(step)
        model.train()
        adam.zero_grad()
        loss = criterion(**model(*next(source)))
        loss.backward()
        adam.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            print(f"step {step} loss {losses[-1]:.3f}", file=sys.stderr, flush=True)
    return losses, {name: np.stack(rows) for name, rows in kept.items()}


def open_pictures(data: Mapping[str, np.ndarray], split: str, folder: str) -> list[Any]:
    """The photographs of a split at the resolution of their files."""
    from PIL import Image

    return [Image.open(pathlib.Path(folder) / name).convert("RGB") for name in data[f"{split}_names"].tolist()]


def batches(data: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(images, tokens) of pairs, epoch after epoch, each in a new order and without its last, smaller batch."""
    import torch
    from open_clip import transform

    aug = {"scale": tuple(given["crop_scale"])} if given["crop_scale"] else None
    view = transform.image_transform(given["model"]["image_size"], is_train=True, aug_cfg=aug)
    pictures, tokens = open_pictures(data, "train", given["folder"]), data["train_tokens"]
    # What is missing to the most texts of a picture is -1.
    pairs, size = np.argwhere(tokens[:, :, 0] >= 0), given["batch_size"]
    for _ in itertools.count():
        order = torch.randperm(len(pairs)).numpy()
        for start in range(0, len(order) - size + 1, size):
            chosen = pairs[order[start : start + size]]
            images = torch.stack([view(pictures[row]) for row in chosen[:, 0]])
            yield images, torch.from_numpy(tokens[chosen[:, 0], chosen[:, 1]].astype(np.int64))


def encode(model: Any, data: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{"images": [N, d], "texts": [M, d]}: projections of the test split, whose pictures open_clip prepares."""
    import torch
    from open_clip import transform

    view = transform.image_transform(given["model"]["image_size"], is_train=False)
    images = torch.stack([view(picture) for picture in open_pictures(data, "test", given["folder"])])
    texts = torch.from_numpy(data["test_tokens"].astype(np.int64))
    model.eval()
    with torch.no_grad():
        of = {"images": (model.encode_image, images), "texts": (model.encode_text, texts)}
        return {name: np.concatenate([fn(part).numpy() for part in rows.split(128)]) for name, (fn, rows) in of.items()}


if __name__ == "__main__":
    main()
