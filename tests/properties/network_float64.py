"""ResNets, SK, SE and projection heads as float64 NumPy loops, written from the papers; no code of the package.

A network is a function of images [N, H, W, 3] and of `weight(name, shape)`, which gives the float64 value of a variable
by its golden name. `Statistics` decides what BatchNorm does and records what it saw.
"""

import itertools
from collections.abc import Callable

import numpy as np

Weight = Callable[[str, tuple[int, ...]], np.ndarray]

GROUPS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Convolution with (k-1)//2 zeros before, the rest after, and every `stride`-th window."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    num, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (before, size - 1 - before), (before, size - 1 - before), (0, 0)))
    out_height, out_width = -(-height // stride), -(-width // stride)
    out = np.zeros((num, out_height, out_width, kernel.shape[3]))
    for i, j in itertools.product(range(size), range(size)):
        rows = slice(i, i + stride * (out_height - 1) + 1, stride)
        columns = slice(j, j + stride * (out_width - 1) + 1, stride)
        out += padded[:, rows, columns] @ kernel[i, j]
    return out


def max_pool(x: np.ndarray) -> np.ndarray:
    """3x3 maxima with stride 2 under TensorFlow's SAME, window by window."""
    _, height, width, _ = x.shape
    starts = [[2 * k - (size % 2) for k in range(-(-size // 2))] for size in (height, width)]
    rows = []
    for top in starts[0]:
        windows = [x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max(axis=(1, 2)) for left in starts[1]]
        rows.append(np.stack(windows, axis=1))
    return np.stack(rows, axis=1)


def max_pool_gradient(x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """The cotangent of a window goes to its first maximum, row by row."""
    gradient = np.zeros_like(x)
    num, height, width, channels = x.shape
    for n, a, b, c in np.ndindex(cotangent.shape):
        top, left = 2 * a - (height % 2), 2 * b - (width % 2)
        seen = [
            (i, j)
            for i, j in itertools.product(range(top, top + 3), range(left, left + 3))
            if 0 <= i < height and 0 <= j < width
        ]
        first = max(seen, key=lambda place, n=n, c=c: x[n, place[0], place[1], c])
        gradient[n, first[0], first[1], c] += cotangent[n, a, b, c]
    assert num and channels
    return gradient


def mean_pool(x: np.ndarray, stride: int) -> np.ndarray:
    """2x2 means: with stride 1 over what a window sees, with stride 2 over its four places, zeros included."""
    num, height, width, channels = x.shape
    out = np.zeros((num, -(-height // stride), -(-width // stride), channels))
    for a, b in np.ndindex(out.shape[1:3]):
        window = x[:, stride * a : stride * a + 2, stride * b : stride * b + 2]
        count = 4 if stride == 2 else window.shape[1] * window.shape[2]
        out[:, a, b] = window.sum(axis=(1, 2)) / count
    return out


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


class Statistics:
    """BatchNorm of a pass: `updated` has the moving statistics after a training pass, by name."""

    def __init__(self, weight: Weight, *, train: bool):
        self.weight, self.train = weight, train
        self.updated: dict[str, np.ndarray] = {}

    def norm(self, x: np.ndarray, name: str, *, beta: bool = True) -> np.ndarray:
        """x, normalised by the moving or by the batch's own statistics, times gamma plus beta."""
        shape = (x.shape[-1],)
        mean, var = (self.weight(f"{name}/{leaf}", shape) for leaf in ("mean", "var"))
        if self.train:
            rows = x.reshape(-1, x.shape[-1])
            batch_mean = rows.mean(axis=0)
            batch_var = ((rows - batch_mean) ** 2).mean(axis=0)
            self.updated[f"{name}/mean"] = 0.9 * mean + 0.1 * batch_mean
            self.updated[f"{name}/var"] = 0.9 * var + 0.1 * batch_var
            mean, var = batch_mean, batch_var
        y = (x - mean) / np.sqrt(var + 1e-5) * self.weight(f"{name}/gamma", shape)
        return y + self.weight(f"{name}/beta", shape) if beta else y


def _conv(x: np.ndarray, weight: Weight, name: str, *, size: int, features: int, stride: int = 1) -> np.ndarray:
    return conv(x, weight(f"{name}/kernel", (size, size, x.shape[-1], features)), stride)


def _stem(x, weight, norms, *, width, stem, deep):
    if stem == "cifar":
        layers = [(width, 3, 1)]
    else:
        layers = [(width // 2, 3, 2), (width // 2, 3, 1), (width, 3, 1)] if deep else [(width, 7, 2)]
    for number, (features, size, stride) in enumerate(layers, start=1):
        x = _conv(x, weight, f"stem/conv{number}", size=size, features=features, stride=stride)
        x = relu(norms.norm(x, f"stem/bn{number}"))
    return x if stem == "cifar" else max_pool(x)


def _selective(x, weight, norms, name, *, features, stride, ratio):
    x = relu(norms.norm(_conv(x, weight, f"{name}/conv", size=3, features=2 * features, stride=stride), f"{name}/bn"))
    streams = [x[..., :features], x[..., features:]]
    described = (streams[0] + streams[1]).mean(axis=(1, 2), keepdims=True)
    described = _conv(described, weight, f"{name}/squeeze_conv", size=1, features=max(int(features * ratio), 32))
    described = relu(norms.norm(described, f"{name}/squeeze_bn"))
    logits = np.exp(_conv(described, weight, f"{name}/expand_conv", size=1, features=2 * features))
    total = logits[..., :features] + logits[..., features:]
    return streams[0] * (logits[..., :features] / total) + streams[1] * (logits[..., features:] / total)


def _squeeze_excite(x, weight, name, *, squeezed):
    scale = x.mean(axis=(1, 2), keepdims=True)
    for layer, features in (("squeeze_conv", squeezed), ("expand_conv", x.shape[-1])):
        scale = _conv(scale, weight, f"{name}/{layer}", size=1, features=features)
        scale = scale + weight(f"{name}/{layer}/bias", (features,))
        scale = relu(scale) if layer == "squeeze_conv" else 1 / (1 + np.exp(-scale))
    return x * scale


def _block(x, weight, norms, name, *, features, stride, project, bottleneck, sk_ratio, se_ratio):
    wide = 4 * features if bottleneck else features
    shortcut = x
    if project:
        if sk_ratio > 0:
            shortcut = _conv(mean_pool(x, stride), weight, f"{name}/proj_conv", size=1, features=wide)
        else:
            shortcut = _conv(x, weight, f"{name}/proj_conv", size=1, features=wide, stride=stride)
        shortcut = norms.norm(shortcut, f"{name}/proj_bn")
    if not bottleneck:
        plan = [(features, 3, stride), (features, 3, 1)]
    else:
        plan = [(features, 1, 1), (features, 3, stride), (wide, 1, 1)]
    for number, (channels, size, step) in enumerate(plan, start=1):
        if bottleneck and sk_ratio > 0 and number == 2:
            x = _selective(x, weight, norms, f"{name}/sk", features=features, stride=stride, ratio=sk_ratio)
            continue
        x = _conv(x, weight, f"{name}/conv{number}", size=size, features=channels, stride=step)
        x = norms.norm(x, f"{name}/bn{number}")
        x = x if number == len(plan) else relu(x)
    if se_ratio > 0:
        x = _squeeze_excite(x, weight, f"{name}/se", squeezed=max(1, int(features * se_ratio)))
    return relu(x + shortcut)


def resnet(images, norms: Statistics, *, depth: int, width: float, stem: str, sk_ratio=0.0, se_ratio=0.0):
    """h [N, D] of a ResNet whose variables and BatchNorm mode come from `norms`."""
    weight = norms.weight
    x = _stem(images, weight, norms, width=int(64 * width), stem=stem, deep=sk_ratio > 0)
    for group, blocks in enumerate(GROUPS[depth], start=1):
        for block in range(1, blocks + 1):
            first = block == 1
            x = _block(
                x,
                weight,
                norms,
                f"block_group{group}/block{block}",
                features=int(64 * 2 ** (group - 1) * width),
                stride=2 if first and group > 1 else 1,
                project=first,
                bottleneck=depth >= 50,
                sk_ratio=sk_ratio,
                se_ratio=se_ratio,
            )
    return x.mean(axis=(1, 2))


def projection_head(h: np.ndarray, norms: Statistics, *, layers: int, out_dim: int) -> list[np.ndarray]:
    """[h, output of layer 1, ..., z]."""
    activations = [h]
    for layer in range(1, layers + 1):
        last = layer == layers
        features = out_dim if last else h.shape[-1]
        kernel = norms.weight(f"projection_head/dense{layer}/kernel", (activations[-1].shape[-1], features))
        x = norms.norm(activations[-1] @ kernel, f"projection_head/bn{layer}", beta=not last)
        activations.append(x if last else relu(x))
    return activations
