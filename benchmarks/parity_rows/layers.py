"""Rows of single layers and whole ResNets against torch and torchvision, and of Flax's BatchNorm."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import peers, table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import models
from simclr_jax.interop import torchvision as names
from simclr_jax.interop import variables
from simclr_jax.models import layers

GROUP = "Layers and networks of torch and torchvision"


def to_torch(x: np.ndarray) -> Any:
    """NHWC -> a torch tensor NCHW."""
    import torch

    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch(tensor: Any) -> np.ndarray:
    """A torch tensor NCHW -> NHWC."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def images(seed: int = 0, *, size: int = 13, channels: int = 6) -> np.ndarray:
    """Random float64 [3, size, size, channels]."""
    return np.random.default_rng(seed).normal(size=(3, size, size, channels))


def _convolutions() -> Iterator[Case]:
    """Outputs for even and odd sizes; torch pads (k - 1) // 2 on all sides."""
    import torch

    for size, kernel_size, strides in ((12, 3, 1), (12, 3, 2), (13, 3, 2), (12, 7, 2), (13, 7, 2), (12, 1, 2)):
        x = images(size=size)
        kernel = np.random.default_rng(kernel_size).normal(size=(kernel_size, kernel_size, 6, 5))
        weight = torch.tensor(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        theirs = torch.nn.functional.conv2d(to_torch(x), weight, stride=strides, padding=(kernel_size - 1) // 2)
        with jax.enable_x64(True):
            conv = layers.Conv(5, kernel_size, strides, "float64")
            ours = jax.device_get(conv.apply({"params": {"kernel": jnp.asarray(kernel)}}, jnp.asarray(x)))
        yield Case(ours, from_torch(theirs))


def batch_norms(x: np.ndarray, *, train: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs, input gradients (of the sum of cubes) and moving statistics of our layer and torch's, float64."""
    import torch

    rng = np.random.default_rng(1)
    scale, bias, mean, var = (rng.uniform(0.5, 1.5, x.shape[-1]) for _ in range(4))
    with jax.enable_x64(True):
        norm = layers.make_batch_norm("float64", train)()
        given = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
        given = jax.tree.map(jnp.asarray, given)

        def total(x):
            y, state = norm.apply(given, x, mutable=["batch_stats"])
            return jnp.sum(y**3), (y, state["batch_stats"])

        gradient, (y, moving) = jax.device_get(jax.grad(total, has_aux=True)(jnp.asarray(x)))
    ours = {"output": y, "gradient": gradient, **moving}
    tensor = to_torch(x).requires_grad_()
    # torch's momentum is the share of the NEW value.
    theirs = torch.nn.BatchNorm2d(x.shape[-1], momentum=0.1, eps=1e-5, dtype=torch.float64).train(train)
    loaded = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
    theirs.load_state_dict({name: torch.tensor(value) for name, value in loaded.items()}, strict=False)
    output = theirs(tensor)
    (output**3).sum().backward()
    found = {"output": from_torch(output), "gradient": from_torch(tensor.grad)}
    return ours, found | {"mean": theirs.running_mean.numpy(), "var": theirs.running_var.numpy(), "old_var": var}


def _batch_norm(*, train: bool) -> Iterator[Case]:
    for size in (4, 13):
        x = images(size=size)
        ours, theirs = batch_norms(x, train=train)
        for name in ("output", "gradient", "mean"):
            yield Case(ours[name], theirs[name])
        if train:
            # torch stores the unbiased variance, on purpose unlike the reference: taken back before comparing.
            count = x[..., 0].size
            added = (theirs["var"] - 0.9 * theirs["old_var"]) * (count - 1) / count
            yield Case(ours["var"], 0.9 * theirs["old_var"] + added)


def _max_pools(padding: str) -> Iterator[Case]:
    """Outputs and gradients; for TensorFlow's padding torch is given the border of -infinity explicitly."""
    import torch

    for size in (12, 13):
        x = images(size=size)
        tensor = to_torch(x).requires_grad_()
        if padding == "torchvision":
            pool, padded, border = (lambda x: layers.max_pool(x, ((1, 1), (1, 1)))), tensor, 1
        else:
            pool, border = (lambda x: layers.max_pool(x, layers.same_padding(x.shape))), 0
            before, after = layers.same_padding(x.shape)[0]
            padded = torch.nn.functional.pad(tensor, (before, after, before, after), value=-np.inf)
        theirs = torch.nn.functional.max_pool2d(padded, 3, 2, padding=border)
        theirs.sum().backward()
        with jax.enable_x64(True):
            ours, pull_back = jax.vjp(pool, jnp.asarray(x))
            gradient = pull_back(jnp.ones_like(ours))[0]
        yield Case(ours, from_torch(theirs))
        yield Case(gradient, from_torch(tensor.grad))


@functools.cache
def _torchvision_net(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """(torchvision's network in float64 with random weights and statistics, our variables by name)."""
    import torch

    torchvision = peers.load_torchvision()
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                *((module.weight, 0.8, 1.2), (module.bias, -0.2, 0.2)),
                *((module.running_mean, -0.2, 0.2), (module.running_var, 0.6, 1.4)),
            ):
                torch.nn.init.uniform_(values, low, high)
    return net, names.from_torchvision({key: value.detach().numpy() for key, value in net.state_dict().items()})


def _torchvision_features(name: str, *, train: bool) -> Iterator[Case]:
    import torch

    net, by_name = _torchvision_net(name)
    x = np.random.default_rng(5).random((4, 64, 64, 3))
    # In train mode torch moves its statistics: a fresh copy of the module's state is put back afterwards.
    state = {key: value.clone() for key, value in net.state_dict().items()}
    net.train(train)
    head, net.fc = net.fc, torch.nn.Identity()
    with torch.no_grad():
        theirs = net(to_torch(x)).numpy()
    net.fc = head
    net.load_state_dict(state)
    with jax.enable_x64(True):
        encoder = models.make_encoder(name, dtype="float64", padding="torchvision")
        params, batch_stats = variables.unflatten({k: v for k, v in by_name.items() if k.startswith("encoder/")})
        given = {"params": params["encoder"], "batch_stats": batch_stats["encoder"]}
        apply = jax.jit(functools.partial(encoder.apply, train=train, mutable=["batch_stats"]))
        ours, _ = jax.device_get(apply(jax.tree.map(jnp.asarray, given), jnp.asarray(x)))
    yield Case(ours, theirs)


def _round_trip(name: str) -> Iterator[Case]:
    """Every entry of torchvision's state dict after the way to our names and back."""
    net, by_name = _torchvision_net(name)
    back = names.to_torchvision(by_name)
    theirs = {key: value.numpy() for key, value in net.state_dict().items() if "num_batches" not in key}
    if set(back) != set(theirs):
        raise ValueError(f"names differ: {sorted(set(back) ^ set(theirs))[:3]}")
    yield from (Case(back[key], value) for key, value in theirs.items())


def _row(component: str, reference: str, limit: float, cases: Callable) -> Row:
    relative_to = table.EXACT if limit == 0 else table.LARGEST
    return Row(component, reference, limit, relative_to, cases, (reference,))


ROWS = [
    _row("convolution, strides 1 and 2, f64", "torch", 1e-12, _convolutions),
    _row("BatchNorm, eval, f64", "torch", 1e-12, lambda: _batch_norm(train=False)),
    _row("BatchNorm, train, f64", "torch", 1e-12, lambda: _batch_norm(train=True)),
    _row("max-pool, TensorFlow's borders, f64", "torch", 0.0, lambda: _max_pools("reference")),
    _row("max-pool, torch's borders, f64", "torch", 0.0, lambda: _max_pools("torchvision")),
    *(
        _row(f"{name}, {mode}, f64", "torchvision", limit, functools.partial(_torchvision_features, name, train=train))
        for name in ("resnet18", "resnet50")
        # Train mode divides by deviations of few values: as for the recorded networks.
        for mode, train, limit in (("eval", False, 1e-9), ("train", True, 1e-6))
    ),
    _row("resnet50, names and layouts", "torchvision", 0.0, lambda: _round_trip("resnet50")),
]
