"""What a training step costs, from the shapes of its layers alone: parameters, FLOPs, memory, traffic and time.

Every formula here is a model, stated in docs/plan.md with how far it was from the real compiler. Nothing is compiled
and nothing is run. Letters: A elements that a convolution writes, X elements that it reads, for one view.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.planning import hardware

_KINDS = {
    **{"Conv": "conv", "Dense": "dense", "BatchNorm": "norm", "BasicBlock": "block", "BottleneckBlock": "block"},
    **{"GroupedConv": "conv", "MBConv": "block", "PatchProjection": "conv", "TransformerBlock": "block"},
    **{"DepthwiseConv": "conv", "ConvNeXtBlock": "block"},
    **{"LayerNorm": "rows", "Gelu": "rows", "Attention": "attention"},
}

# Temporary memory of a compiled step over the kept activations: TPUs recompute more. Both measured by compiling.
_KEPT_SHARE = {"gpu": 1.0, "tpu": 0.83, "cpu": 1.0}
# Float32 matrices [B / devices, B] that the dense loss and its gradient hold at a time.
_LOSS_MATRICES = 6
# What a step reaches of the roofline; hand-tuned supervised code reaches 0.9 (MLPerf), good ordinary code 0.55.
_EXPECTED_SHARE = 0.75


class Layer(NamedTuple):
    """A convolution, dense or normalising layer for ONE view, or the attention of a transformer.

    kind: "conv", "dense", "norm", "folded" (a BatchNorm folded into the convolution before it, see
    `models.fused_conv_bn`), "block", which adds its shortcut, "rows" (LayerNorm and GELU, which look at every row by
    itself), or "attention". reads, writes: elements of its input and output; attention also reads its softmax.
    itemsize: bytes of an element of its output. macs: multiply-adds of its forward pass. is_first: its input is the
    image. is_new: its input is no other recorded layer's.
    """

    kind: str
    reads: int
    writes: int
    itemsize: int
    macs: int
    is_first: bool
    is_new: bool


class NetworkCost(NamedTuple):
    """The sums over the layers of a method's network, for one view, and what does not grow with views.

    num_params, num_encoder_params: of everything trained; of the backbone. num_batch_norms: layers.
    forward_flops: a multiply-add counts two. train_flops: forward, and both gradients of every layer.
    kept_bytes: what the backward pass needs of the forward pass: every distinct input of a layer.
    traffic_bytes: memory traffic if convolutions and BatchNorm run apart. layers: what was summed.
    view_bytes: of the augmented view, float32. state_bytes: parameters, optimizer and statistics, on every device.
    z_dim: d of the projection.
    """

    num_params: int
    num_encoder_params: int
    num_batch_norms: int
    forward_flops: int
    train_flops: int
    kept_bytes: int
    traffic_bytes: int
    layers: tuple[Layer, ...]
    view_bytes: int
    state_bytes: int
    z_dim: int


def trace_layers(
    method: base.Method,
    state: base.TrainState,
    *,
    size: int,
    num_views: int = 2,
    small: tuple[int, int] = (0, 0),
    num_images: int = 1,
) -> list[Layer]:
    """The layers of the method's network in the order they run, found by tracing it on `num_images` of that size.

    `small` is how many small crops come to the `num_views` views, and their side in pixels. Methods that split the
    batch need as many images as parts.
    """
    struct: Any = jax.ShapeDtypeStruct
    views, row = struct((num_images, num_views, size, size, 3), jnp.float32), struct((num_images,), jnp.int32)
    if small[0]:
        views = (views, struct((num_images, small[0], small[1], small[1], 3), jnp.float32))
    image, sizes = struct((num_images, size, size, 3), jnp.uint8), struct((num_images, 2), jnp.int32)
    mask = struct((num_images,), jnp.bool)
    batch = base.Batch(image=image, size=sizes, label=row, index=row, position=row, mask=mask)
    if "text_encoder" in state.params:  # products with the weights; the attention itself is not counted
        batch["text"] = struct((num_images, state.params["text_encoder"]["position_embedding"].shape[0]), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    layers: list[Layer] = []
    seen: list[Any] = []  # the traced arrays themselves, so that none is taken for another of the same id

    def watch(next_function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        result = next_function(*args, **kwargs)
        kind = _KINDS.get(type(context.module).__name__) if context.method_name == "__call__" else None
        if kind == "norm" and len(args) > 1:
            seen_before = any(x is args[0] for x in seen)
            layers.extend(_folded_layers(args[0], args[1], result, is_new=not seen_before))
            seen.append(args[0])
        elif kind is not None and "only_kernel" not in kwargs:
            is_new = kind != "block" and not any(x is args[0] for x in seen)
            layers.append(_layer(kind, args[0], result, context.module, is_new=is_new))
            if kind != "block":
                seen.append(args[0])
        return result

    with nn.intercept_methods(watch):
        # A function of its own, for JAX would not trace a known one again.
        jax.eval_shape(lambda *given: method.embed(*given), state.params, state.method_state, views, batch, key)
    return [_per_view(layer, num_images * (num_views + small[0])) for layer in layers]


def _folded_layers(given: Any, kernel: Any, made: Any, *, is_new: bool) -> list[Layer]:
    macs, size = made.size * kernel.shape[0], made.dtype.itemsize
    product = Layer("conv", given.size, made.size, size, macs, is_first=False, is_new=is_new)
    return [product, Layer("folded", given.size, made.size, size, 0, is_first=False, is_new=False)]


def _layer(kind: str, given: Any, made: Any, module: Any, *, is_new: bool) -> Layer:
    macs, reads = 0, given.size
    if kind in ("conv", "dense"):
        kernel = module.variables["params"]["kernel"]
        macs = made.size * kernel.size // kernel.shape[-1]
    if kind == "attention":
        num, tokens, width = made.shape
        macs = 2 * num * tokens * tokens * width  # queries with keys, and their softmax with the values
        reads += num * module.num_heads * tokens * tokens
    is_first = kind == "conv" and given.shape[-1] == 3
    return Layer(kind, reads, made.size, made.dtype.itemsize, macs, is_first, is_new)


def _per_view(layer: Layer, num_views: int) -> Layer:
    return layer._replace(
        reads=layer.reads // num_views, writes=layer.writes // num_views, macs=layer.macs // num_views
    )


def measure(
    method: base.Method,
    state: base.TrainState,
    *,
    size: int,
    num_views: int = 2,
    small: tuple[int, int] = (0, 0),
    num_images: int = 1,
) -> NetworkCost:
    """The network's sums for one view; `state` may be shapes only (`jax.eval_shape` of its initialiser).

    With small crops, see `trace_layers`, they are the means over all views and crops.
    """
    layers = trace_layers(method, state, size=size, num_views=num_views, small=small, num_images=num_images)
    pixels = (num_views * size * size + small[0] * small[1] ** 2) // (num_views + small[0])
    forward = 2 * sum(layer.macs for layer in layers)
    # The gradient with respect to the image is not needed.
    spared = 2 * sum(layer.macs for layer in layers if layer.is_first)
    return NetworkCost(
        num_params=_num_elements(state.params),
        num_encoder_params=_num_elements(state.params["encoder"]),
        num_batch_norms=sum(layer.kind in ("norm", "folded") for layer in layers),
        forward_flops=forward,
        train_flops=3 * forward - spared,
        kept_bytes=sum(layer.reads * layer.itemsize for layer in layers if layer.is_new and not layer.is_first),
        traffic_bytes=sum(_forward_bytes(layer) + _backward_bytes(layer) for layer in layers),
        layers=tuple(layers),
        view_bytes=4 * 3 * pixels,
        state_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        z_dim=max((layer.writes for layer in layers[-2:] if layer.kind in ("dense", "norm")), default=0),
    )


def _num_elements(tree: base.PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


class Placement(NamedTuple):
    """How a run is divided over devices.

    kind: a key of `hardware.DEVICES`. devices: how many. batch_size: images per step over all of them. num_views: V.
    source_bytes: images that every device holds during a step. num_chunks: parts that a device's rows go through the
    network in. loss: "dense" or "blockwise", or "other" for methods that have no such choice, whose loss is not
    modelled. is_streamed: source_bytes are those of the step's images and grow with the
    batch; otherwise they are those of a split that lives on the device.
    """

    kind: str
    devices: int
    batch_size: int
    source_bytes: int
    num_views: int = 2
    num_chunks: int = 1
    loss: str = "dense"
    is_streamed: bool = True


def peak_bytes(network: NetworkCost, placement: Placement) -> int:
    """Peak memory of one device during a step, modelled; docs/plan.md has the formula and its error."""
    rows = placement.num_views * placement.batch_size / placement.devices
    share = _KEPT_SHARE[hardware.find(placement.kind).platform]
    chunk = rows / placement.num_chunks
    # Besides what is kept: the view in the network's type, and the pass that is under way, about as large as the view.
    held = chunk * (share * network.kept_bytes + 1.5 * network.view_bytes)
    # A float32 gradient, and two copies of the kernels in the network's type, one of them transposed.
    held += 8 * network.num_params
    if placement.num_chunks > 1:
        # The gradient that is being summed, and the outputs of all rows with their gradients.
        held += 4 * network.num_params + rows * 8 * network.z_dim
    return int(network.state_bytes + placement.source_bytes + held + loss_bytes(network, placement))


def loss_bytes(network: NetworkCost, placement: Placement) -> int:
    """Memory of one device for the loss and its gradient, modelled."""
    batch = placement.batch_size
    everything = 4 * 2 * batch * network.z_dim * 2  # all projections and their gradients, float32
    if placement.loss != "dense":
        return everything
    return everything + _LOSS_MATRICES * 4 * batch * math.ceil(batch / placement.devices)


def largest_batch(network: NetworkCost, placement: Placement, *, memory_bytes: float, step: int = 1) -> int:
    """The largest batch, a multiple of `step` x devices, whose modelled peak is within `memory_bytes`; 0 if none."""
    unit = step * placement.devices
    per_example = placement.source_bytes / placement.batch_size
    low, high = 0, 2**24 // unit
    while low < high:
        middle = (low + high + 1) // 2
        source = int(per_example * middle * unit) if placement.is_streamed else placement.source_bytes
        trial = placement._replace(batch_size=middle * unit, source_bytes=source)
        low, high = (middle, high) if peak_bytes(network, trial) <= memory_bytes else (low, middle - 1)
    return low * unit


class Times(NamedTuple):
    """Seconds of one step on one device, modelled.

    roofline: of the network, every operation at the rate the hardware reaches, with nothing overlapped.
    expected: the same at the share of it that good code reaches. statistics: waiting for BatchNorm's all-reduces.
    projections: the gather of z and its transpose. loss: its matrices, or its products.
    gradients: what of their all-reduce the backward pass cannot hide.
    """

    roofline: float
    expected: float
    statistics: float
    projections: float
    loss: float
    gradients: float

    @property
    def step(self) -> float:
        """All of a step, as expected."""
        return self.expected + self.statistics + self.projections + self.loss + self.gradients

    @property
    def efficiency(self) -> float:
        """Weak-scaling efficiency: the share of a step that one device alone would also take."""
        return self.expected / self.step


def times(network: NetworkCost, placement: Placement) -> Times:
    """The time of a step by the roofline and latency model of docs/plan.md; NaN for a device without figures."""
    device, devices = hardware.find(placement.kind), placement.devices
    rows = placement.num_views * placement.batch_size / devices
    roofline = rows * view_seconds(network, device)
    # A forward pass more if it runs in chunks: once for the projections, once for the gradients.
    roofline *= 4 / 3 if placement.num_chunks > 1 else 1
    expected = roofline / _EXPECTED_SHARE
    wait = hardware.latency(placement.kind, devices)
    alone = devices == 1
    gathered = 4 * network.z_dim * placement.num_views * placement.batch_size
    reduced = 2 * 4 * network.num_params / device.link
    return Times(
        roofline=roofline,
        expected=expected,
        statistics=2 * network.num_batch_norms * wait * placement.num_chunks,
        projections=0.0 if alone else 2 * (gathered / device.link + wait),
        loss=_loss_seconds(network, placement),
        gradients=0.0 if alone else max(0.0, reduced - expected * 2 / 3),
    )


def view_seconds(network: NetworkCost, device: hardware.Device) -> float:
    """Seconds of one view, forward and backward: the roofline at the rates that `device` reaches; no layer overlaps."""
    return sum(_layer_seconds(layer, device) for layer in network.layers)


def _loss_seconds(network: NetworkCost, placement: Placement) -> float:
    """Dense: nine passes over float32 similarities. Blockwise: four products with them, at half the usual rate."""
    if placement.loss == "other":
        return 0.0
    device = hardware.find(placement.kind)
    entries = (2 * placement.batch_size) ** 2 / placement.devices
    if placement.loss == "blockwise":
        return 4 * 2 * network.z_dim * entries / (0.5 * device.reached_flops)
    return 9 * 4 * entries / device.reached_bandwidth


def _layer_seconds(layer: Layer, device: hardware.Device) -> float:
    """Forward and backward of one view through one layer: products are bound by compute or memory, passes by memory."""
    compute = 2 * layer.macs / device.reached_flops
    if layer.kind not in ("conv", "dense", "attention"):
        return (_forward_bytes(layer) + _backward_bytes(layer)) / device.reached_bandwidth
    product = max(compute, (layer.reads + layer.writes) * layer.itemsize / device.reached_bandwidth)
    return product * (2 if layer.is_first else 3)


def _forward_bytes(layer: Layer) -> int:
    """Products read X and write A; BatchNorm reads A for its statistics, then reads and writes it; a block adds.

    Folded, it reads X for them, and the product writes what is normalised already.
    """
    elements = {"norm": 3 * layer.writes, "folded": layer.reads, "block": layer.writes, "rows": 2 * layer.writes}
    return elements.get(layer.kind, layer.reads + layer.writes) * layer.itemsize


def _backward_bytes(layer: Layer) -> int:
    """Two products of A and X; BatchNorm's two passes over the gradient and its input, which write one array.

    Folded, the gradient after the addition is masked and written once, and the input goes through a product more.
    """
    elements = {"norm": 5 * layer.writes, "folded": 3 * layer.writes + 2 * layer.reads, "block": layer.writes}
    elements["rows"] = 3 * layer.writes
    return elements.get(layer.kind, 2 * (layer.reads + layer.writes)) * layer.itemsize
