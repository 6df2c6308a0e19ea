"""Single layers and whole ResNets beside torch's and torchvision's, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import models
from simclr_jax.interop import detect, pytorch_layouts, timm_layouts, variables
from simclr_jax.interop import torchvision as names
from simclr_jax.models import layers
from tests import parity

pytestmark = pytest.mark.slow  # for docs/parity.md

TOLERANCE = {"limit": 1e-12, "of": parity.LARGEST, "source": "torch"}


def to_torch(x):
    """NHWC -> a torch tensor NCHW."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch(tensor):
    """A torch tensor NCHW -> NHWC."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def images(size, channels=6):
    """Random float64 [3, size, size, channels]."""
    return np.random.default_rng(0).normal(size=(3, size, size, channels))


@pytest.mark.parametrize(
    ("size", "kernel_size", "strides"), [(12, 3, 1), (12, 3, 2), (13, 3, 2), (12, 7, 2), (13, 7, 2), (12, 1, 2)]
)
def test_convolution_equals_torch_padded_by_half_the_kernel(size, kernel_size, strides, compare):
    torch = pytest.importorskip("torch")
    x, kernel = images(size), np.random.default_rng(kernel_size).normal(size=(kernel_size, kernel_size, 6, 5))
    weight = torch.tensor(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    theirs = torch.nn.functional.conv2d(to_torch(x), weight, stride=strides, padding=(kernel_size - 1) // 2)
    with jax.enable_x64(True):
        conv = layers.Conv(5, kernel_size, strides, "float64")
        ours = jax.device_get(conv.apply({"params": {"kernel": jnp.asarray(kernel)}}, jnp.asarray(x)))
    compare("convolution, strides 1 and 2, f64", ours, from_torch(theirs), **TOLERANCE)


def batch_norms(x, *, train):
    """Outputs, input gradients (of the sum of cubes) and moving statistics of our layer and of torch's."""
    torch = pytest.importorskip("torch")
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
    tensor = to_torch(x).requires_grad_()
    # torch's momentum is the share of the NEW value.
    theirs = torch.nn.BatchNorm2d(x.shape[-1], momentum=0.1, eps=1e-5, dtype=torch.float64).train(train)
    loaded = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
    theirs.load_state_dict({name: torch.tensor(value) for name, value in loaded.items()}, strict=False)
    output = theirs(tensor)
    (output**3).sum().backward()
    found = {"output": from_torch(output), "gradient": from_torch(tensor.grad)}
    found |= {"mean": theirs.running_mean.numpy(), "var": theirs.running_var.numpy(), "old_var": var}
    return {"output": y, "gradient": gradient, **moving}, found


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [4, 13])
def test_batch_norm_equals_torch(size, train, compare):
    x = images(size)
    ours, theirs = batch_norms(x, train=train)
    if train:
        # torch stores the unbiased variance, on purpose unlike the reference: taken back before comparing.
        count = x[..., 0].size
        theirs["var"] = 0.9 * theirs["old_var"] + (theirs["var"] - 0.9 * theirs["old_var"]) * (count - 1) / count
    for name in ("output", "gradient", "mean", "var"):
        compare(f"BatchNorm, {'train' if train else 'eval'}, f64", ours[name], theirs[name], **TOLERANCE)


@pytest.mark.parametrize("borders", ["TensorFlow's", "torch's"])
@pytest.mark.parametrize("size", [12, 13])
def test_max_pool_and_its_gradient_equal_torch(size, borders, compare):
    torch = pytest.importorskip("torch")
    x = images(size)
    tensor = to_torch(x).requires_grad_()
    padding, padded, border = ((1, 1), (1, 1)), tensor, 1
    if borders == "TensorFlow's":  # torch is given the border of -infinity
        padding = layers.same_padding(x.shape)
        padded, border = torch.nn.functional.pad(tensor, (*padding[1], *padding[0]), value=-np.inf), 0
    theirs = torch.nn.functional.max_pool2d(padded, 3, 2, padding=border)
    theirs.sum().backward()
    with jax.enable_x64(True):
        ours, pull_back = jax.vjp(lambda x: layers.max_pool(x, padding), jnp.asarray(x))
        gradient = pull_back(jnp.ones_like(ours))[0]
    compare(f"max-pool, {borders} borders, f64", ours, from_torch(theirs), source="torch")
    compare(f"max-pool, {borders} borders, f64", gradient, from_torch(tensor.grad), source="torch")


def random_network(torchvision, name):
    """(torchvision's network in float64 with random weights and statistics, our variables by name)."""
    import torch

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                *((module.weight, 0.8, 1.2), (module.bias, -0.2, 0.2)),
                *((module.running_mean, -0.2, 0.2), (module.running_var, 0.6, 1.4)),
            ):
                torch.nn.init.uniform_(values, low, high)
    return net, names.from_torchvision({key: value.detach().numpy().copy() for key, value in net.state_dict().items()})


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_network_equals_torchvision(name, train, torchvision, compare):
    import torch

    net, by_name = random_network(torchvision, name)
    x = np.random.default_rng(5).random((4, 64, 64, 3))
    net.train(train).fc = torch.nn.Identity()
    with torch.no_grad():
        theirs = net(to_torch(x)).numpy()
    with jax.enable_x64(True):
        encoder = models.make_encoder(name, dtype="float64", padding="torchvision")
        params, batch_stats = variables.unflatten({k: v for k, v in by_name.items() if k.startswith("encoder/")})
        given = {"params": params["encoder"], "batch_stats": batch_stats["encoder"]}
        apply = jax.jit(functools.partial(encoder.apply, train=train, mutable=["batch_stats"]))
        ours, _ = jax.device_get(apply(jax.tree.map(jnp.asarray, given), jnp.asarray(x)))
    # Train mode divides by deviations of few values: as for the recorded networks.
    limit = 1e-6 if train else 1e-9
    words = f"{name}, {'train' if train else 'eval'}, f64"
    compare(words, ours, theirs, limit=limit, of=parity.LARGEST, source="torchvision")


def test_every_entry_of_torchvisions_weights_comes_back(torchvision, compare):
    net, by_name = random_network(torchvision, "resnet50")
    back = names.to_torchvision(by_name)
    theirs = {key: value.numpy() for key, value in net.state_dict().items() if "num_batches" not in key}
    assert set(back) == set(theirs)
    for key, value in theirs.items():
        compare("resnet50, names and layouts", back[key], value, source="torchvision")


@pytest.mark.parametrize("program", ["torchvision", "timm"])
def test_convnext_tiny_is_torchvisions_and_timms(program, compare):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip(program)
    torch.manual_seed(0)
    net = library.models.convnext_tiny() if program == "torchvision" else library.create_model("convnext_tiny")
    for parameter in net.parameters():  # a new network scales its blocks by 1e-6
        torch.nn.init.uniform_(parameter, -0.05, 0.05) if parameter.numel() > 1000 else parameter.data.add_(0.3)
    state = {key: value.detach().numpy().copy() for key, value in net.state_dict().items()}
    read = pytorch_layouts.read(state)
    assert not read.unknown and not read.missing and "supervised_head/dense/kernel" in read.by_name
    back = timm_layouts.to_torch(read.by_name, layout=program)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
    found = detect.find_architecture(read.by_name, padding="torchvision").encoder
    params, _ = variables.unflatten(variables.only(read.by_name, "encoder"))
    x = np.random.default_rng(5).random((2, 75, 64, 3), np.float32)
    if program == "torchvision":
        net.classifier[2] = torch.nn.Identity()
    else:
        net.reset_classifier(0)
    with torch.no_grad():
        theirs = net.eval()(to_torch(x)).numpy()
    apply = jax.jit(functools.partial(models.make_encoder(**found).apply, train=False))
    ours = apply({"params": params["encoder"]}, x)
    compare("ConvNeXt-T, eval, f32", ours, theirs, limit=1e-4, of=parity.LARGEST, source=program)
