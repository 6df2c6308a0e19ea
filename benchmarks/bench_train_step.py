"""A whole training step beside PyTorch: the networks of the shipped configs, and a table of others; `PROGRAM.words`.

Where torch is installed in another interpreter than JAX, that one needs JAX too: the weights come from this program.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import harness, page, peers, timing
from simclr_jax import methods, models, optim, train_step
from simclr_jax.interop import detect, torch_side, torchvision, variables
from simclr_jax.run import config as config_lib

RATE, MOMENTUM, TEMPERATURE = 0.01, 0.9, 0.1
HEAD_LAYERS, HEAD_DIM = 3, 128
# Relative: the first loss is one forward pass in float32, the second has passed a gradient of it.
FIRST_LOSS, SECOND_LOSS = 1e-4, 2e-3


class Case(NamedTuple):
    """The network and its batch of images, two views each."""

    name: str
    width: float
    stem: str
    size: int
    batch_size: int


# Elements of the first layer's output in a step at most, for a basic block; a bottleneck has a quarter of the images.
FIRST_LAYER = 2**22
SMALLEST = "ResNet-10 x0.125, 16 px, batch 8"
STEMS, SIZES = ("cifar", "imagenet"), (32, 48, 64, 96, 128, 160, 192, 224)
NETWORKS = ("resnet18", "resnet50")


def batch_size_of(name: str, width: float, stem: str, size: int, *, least: int = 4) -> int:
    """Images of a step: a power of two, so that one takes a second or a few."""
    pixels = size * size // (4 if stem == "imagenet" else 1)
    most = FIRST_LAYER / (pixels * 64 * width) / (4 if name in ("resnet50", "resnet101", "resnet152") else 1)
    return int(2 ** np.clip(np.floor(np.log2(most)), np.log2(least), 8))


def shipped_cases() -> dict[str, Case]:
    """The networks of all shipped configs, at their sizes, each once."""
    found: dict[str, Case] = {}
    for path in sorted((timing.ROOT / "configs").glob("[!_]*.py")):
        config = config_lib.load_file(path.stem)
        encoder = config.encoder
        network = encoder.name, encoder.width_multiplier, encoder.stem, config.augment.image_size
        case = Case(*network, min(batch_size_of(*network), config.train.batch_size))
        width = "" if case.width == 1 else f" x{case.width:g}"
        stem = " (7x7 stem)" if case.stem == "imagenet" and case.size < 128 else ""
        found[f"ResNet-{case.name[6:]}{width}{stem}, {case.size} px, batch {case.batch_size}"] = case
    return found


CASES = shipped_cases()
# What `step_table` asks for. With fewer images BatchNorm is so ill conditioned that the second losses part.
LEAST = {("resnet18", "cifar"): 4, ("resnet50", "cifar"): 2}
GRID = {
    f"{name}, {stem} stem, {size} px": Case(
        name, 1.0, stem, size, min(batch_size_of(name, 1.0, stem, size, least=LEAST.get((name, stem), 8)), 32)
    )
    for name in NETWORKS
    for stem in STEMS
    for size in SIZES
}
ALL_CASES = {**CASES, **GRID, SMALLEST: Case("resnet10", 0.125, "cifar", 16, 8)}


def views_of(case: Case) -> np.ndarray:
    """float32 [B, 2, h, w, 3] in [0, 1]: coarse patterns, the second view somewhat like the first."""
    rng = np.random.default_rng(case.batch_size)
    coarse = rng.random((case.batch_size, 2, case.size // 8, case.size // 8, 3))
    coarse[:, 1] = 0.5 * (coarse[:, 0] + coarse[:, 1])
    views = np.repeat(np.repeat(coarse, 8, axis=2), 8, axis=3) + 0.1 * rng.normal(
        size=(case.batch_size, 2, case.size, case.size, 3)
    )
    return np.clip(views, 0, 1).astype(np.float32)


def compare(theirs: list[float], ours: list[float]) -> str:
    """The losses of the first two steps, within FIRST_LOSS and SECOND_LOSS of ours."""
    for which, mine, own, limit in zip(("first", "second"), theirs, ours, (FIRST_LOSS, SECOND_LOSS), strict=True):
        if not abs(mine - own) <= limit * abs(own):
            return f"the loss of the {which} step is {mine:.6f}, ours {own:.6f}"
    return ""


def _program(case: Case) -> tuple[Any, Any]:
    """(method, optimizer) of the program for one device."""
    # torchvision's padding, so that its class computes the same function of the same weights.
    encoder = models.make_encoder(
        case.name, width_multiplier=case.width, stem=case.stem, padding="torchvision", dtype="float32"
    )
    method = methods.METHODS["simclr"](
        encoder, num_proj_layers=HEAD_LAYERS, proj_out_dim=HEAD_DIM, temperature=TEMPERATURE, loss_scale=1.0
    )
    tx = optim.make_optimizer("sgd", learning_rate=RATE, weight_decay=0.0, momentum=MOMENTUM)
    return method, tx


def _first_state(case: Case) -> Any:
    """The state before the first update, in which every implementation begins."""
    method, tx = _program(case)
    shape = (2, 2, case.size, case.size, 3)
    return jax.jit(lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=shape))()


def _ours(name: str) -> harness.Work:
    """`train_step.make_update`: the step that `train` compiles, its views being given."""
    case = ALL_CASES[name]
    method, tx = _program(case)

    views, holder = jax.device_put(views_of(case)), [_first_state(case)]
    compiled = jax.jit(train_step.make_update(method, tx), donate_argnums=0).lower(holder[0], views).compile()

    def call() -> Any:
        holder[0], metrics = compiled(holder[0], views)
        return metrics["loss"]

    ready = lambda loss: jax.block_until_ready((loss, holder[0]))  # noqa: E731
    losses = [float(ready(call())[0]) for _ in range(2)]
    return harness.Work(losses, call, ready, calls=2)


def _torch_network(case: Case) -> Any:
    """torchvision's ResNet and a projection head of torch with the program's initial weights, channels last."""
    peers.load_torchvision()
    import torch
    from torchvision.models import resnet

    state = _first_state(case)
    weights = torchvision.to_torchvision(variables.flatten(state.params, state.method_state["batch_stats"]))
    trunk = {name: value for name, value in weights.items() if not name.startswith("projection_head.")}
    encoder = torch_side.make_network(torch, resnet, trunk, structure=detect.STRUCTURES[case.name])
    encoder.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in trunk.items()}, strict=False)
    layers: list[Any] = []
    for layer in range(1, HEAD_LAYERS + 1):
        tensors = {
            name: torch.from_numpy(np.array(weights[f"projection_head.{name}"]))
            for name in (f"dense{layer}.weight", f"bn{layer}.weight")
        }
        dense = torch.nn.Linear(*reversed(tensors[f"dense{layer}.weight"].shape), bias=False)
        norm = torch.nn.BatchNorm1d(dense.out_features)
        dense.weight.data, norm.weight.data = tensors.values()
        if layer == HEAD_LAYERS:
            norm.bias.requires_grad_(False)  # the last BatchNorm of the head has no offset
        layers += [dense, norm, *([torch.nn.ReLU()] if layer < HEAD_LAYERS else [])]
    return torch.nn.Sequential(encoder, *layers).to(memory_format=torch.channels_last).train()


def _torch(name: str) -> harness.Work:
    """Eager torch, the loss in its own operations, torch.optim.SGD."""
    import torch

    torch.set_num_threads(1)
    case = ALL_CASES[name]
    network = _torch_network(case)
    # View by view, so that the partner of row i is row i + B.
    rows = torch.from_numpy(views_of(case).swapaxes(0, 1).reshape(-1, case.size, case.size, 3).copy())
    images = rows.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    sgd = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=RATE, momentum=MOMENTUM)
    count = len(images)
    diagonal, partner = torch.eye(count, dtype=torch.bool), torch.arange(count).roll(count // 2)

    def call() -> Any:
        sgd.zero_grad(set_to_none=True)
        z = torch.nn.functional.normalize(network(images))
        logits = (z @ z.T / TEMPERATURE).masked_fill(diagonal, float("-inf"))
        loss = torch.nn.functional.cross_entropy(logits, partner)
        loss.backward()
        sgd.step()
        return loss.detach()

    return harness.Work([float(call()) for _ in range(2)], call, calls=2)


PROGRAM = harness.Program(
    cases=tuple(CASES),
    quick=[SMALLEST],
    implementations={
        "simclr_jax": harness.Implementation(_ours),
        "torch eager (channels last)": harness.Implementation(_torch, ("torch", "torchvision"), "peers"),
    },
    compare=compare,
    packages=("jax", "flax", "optax", "torch", "torchvision"),
    number="ms",
    unit="CPU milliseconds of a step",
    words=f"""One update of SimCLR in float32: both views of every image (given), ResNet, head of {HEAD_LAYERS} layers,
    NT-Xent, gradient, SGD with momentum. All begin with the same weights, which this program initialises and exports;
    before any timing the losses of the first and the second step must be ours within {FIRST_LOSS:.0e} and
    {SECOND_LOSS:.0e}, relative. The step is the one that `train` runs and also computes the metrics that it logs; torch
    computes none. glibc's allocator has its default settings; with others torch has been seen 30 % faster.""",
    repeats=1,
)


def grid_table(results: harness.Results) -> str:
    """Milliseconds of CPU a view, ours / torch's: a row a network and stem, a column a size; "-" if not measured."""

    def cell(row: str, size: str) -> str:
        of_case = results.get(f"{row}, {size}", {})
        views = 2 * GRID[f"{row}, {size}"].batch_size
        known = ["failed" if "error" in of[-1] else timing.summary(of, "cpu_ms")[0] / views for of in of_case.values()]
        return " / ".join(word if isinstance(word, str) else page.short(word) for word in known) or "-"

    rows = dict.fromkeys(case.rsplit(", ", 1)[0] for case in results)
    sizes = [f"{size} px" for size in SIZES if any(case.endswith(f", {size} px") for case in results)]
    return page.table(("network", *sizes), [(row, *(cell(row, size) for size in sizes)) for row in rows])


GRID_PROGRAM = PROGRAM._replace(
    cases=tuple(GRID),
    unit="CPU milliseconds a view, ours / torch, of the medians",
    words="The same step over networks, stems and sizes; a view is one of the two of every image.",
    table=grid_table,
    page=timing.ROOT / "docs" / "performance.md",
)
