"""Heads on top of an encoder: SimCLR's projection head and the choice of one of its activations, and other MLPs."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import layers, norms

Array = jax.Array

MAX_LAYERS = 4


class ProjectionHead(nn.Module):
    """MLP g(h): dense without bias, BatchNorm, ReLU per layer; the last layer has neither ReLU nor a BatchNorm bias.

    num_layers: 0 to 4. 0 is the identity (out_dim is ignored), 1 the papers' linear head, 2 SimCLR's head and 3 that of
        SimCLRv2.
    out_dim: d, the width of the last layer.
    dtype: type of the activations; parameters, statistics and results are float32 (float64 if it is float64).
    norm: what stands in the place of BatchNorm, see `norms.Norm`.
    width: of the hidden layers; None for that of h, as in the reference.

    Raises:
        InputError: at construction, if num_layers is not 0 to 4, or out_dim or width is below 1.

    Reference: SimCLR section 2.1, SimCLRv2 section 2, tf2/model.py ProjectionHead of their code. The papers do not
    mention BatchNorm, the code has it in every layer. Deliberate difference: 0 and 1 layers work, in the TF2 code
    they fail.
    """

    num_layers: int = 3
    out_dim: int = 128
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    width: int | None = None

    def __post_init__(self) -> None:
        check_num_layers(self.num_layers)
        if self.out_dim < 1:
            raise base.InputError(f"proj_out_dim (the head's out_dim) must be at least 1; got {self.out_dim}. Use 128.")
        if self.width is not None and self.width < 1:
            raise base.InputError(f"proj_hidden_dim must be at least 1; got {self.width}. Leave it open for that of h.")
        super().__post_init__()

    @nn.compact
    def __call__(self, h: Array, *, train: bool) -> tuple[Array, ...]:
        """Maps h [N, D] to (h, output of layer 1, ..., z [N, d]); outputs are taken after the ReLU."""
        state_dtype = layers.state_dtype(self.dtype)
        norm = norms.make_norm(self.dtype, train, self.norm)
        activations = [h.astype(state_dtype)]
        x = h
        for layer in range(1, self.num_layers + 1):
            last = layer == self.num_layers
            x = nn.Dense(
                self.out_dim if last else self.width or h.shape[-1],
                use_bias=False,
                dtype=jnp.dtype(self.dtype),
                param_dtype=state_dtype,
                kernel_init=nn.initializers.normal(0.01),
                name=f"dense{layer}",
            )(x)
            x = norm(use_bias=not last, name=f"bn{layer}")(x)
            x = x if last else nn.relu(x)
            activations.append(x.astype(state_dtype))
        return tuple(activations)


class LinearHead(nn.Module):
    """One layer in the place of a `ProjectionHead`, for what reads its activations; CLIP's.

    out_dim: d. use_bias: only CLIP's own ResNets have one.
    """

    out_dim: int
    num_layers: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, h: Array, *, train: bool) -> tuple[Array, ...]:
        """Maps h [N, D] to (h, z [N, d])."""
        del train  # nothing in it differs
        shape = (h.shape[-1], self.out_dim)
        kernel = self.param("kernel", nn.initializers.normal(h.shape[-1] ** -0.5), shape, h.dtype)
        z = jnp.matmul(h, kernel, precision=jax.lax.Precision.HIGHEST)
        if self.use_bias:
            z = z + self.param("bias", nn.initializers.zeros, (self.out_dim,), h.dtype)
        return h, z


def check_num_layers(num_proj_layers: int, *, low: int = 0) -> None:
    """Raises InputError unless a projection head may have so many layers."""
    if num_proj_layers not in range(low, MAX_LAYERS + 1):
        raise base.InputError(
            f"num_proj_layers must be {low} to {MAX_LAYERS}; got {num_proj_layers}. Use 2, or 3 for ImageNet."
        )


class DenseLayer(NamedTuple):
    """One layer of an `MLP`.

    width: of its output; None for that of the MLP's input. bias: whether the dense part has one. norm: "none", "affine"
    (BatchNorm with scale and bias) or "plain" (BatchNorm without parameters). relu: whether max(., 0) follows.
    """

    width: int | None
    bias: bool = False
    norm: str = "affine"
    relu: bool = True


class MLP(nn.Module):
    """Dense layers, each with what its `DenseLayer` says: projectors and predictors of any method.

    Modules are called dense1, bn1, dense2, ...

    dtype, norm: as in `ProjectionHead`.
    kernel_init: of the dense layers. The default is uniform in +-1 / sqrt(fan_in), torch's; biases start at 0, where
        torch draws them from the same range.
    """

    layers: tuple[DenseLayer, ...]
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps [N, D] to the last layer's output [N, d]."""
        state_dtype = layers.state_dtype(self.dtype)
        norm = norms.make_norm(self.dtype, train, self.norm)
        own_width = x.shape[-1]
        for number, layer in enumerate(self.layers, start=1):
            x = nn.Dense(
                layer.width or own_width,
                use_bias=layer.bias,
                dtype=jnp.dtype(self.dtype),
                param_dtype=state_dtype,
                kernel_init=self.kernel_init,
                name=f"dense{number}",
            )(x)
            if layer.norm != "none":
                affine = layer.norm == "affine"
                x = norm(use_bias=affine, use_scale=affine, name=f"bn{number}")(x)
            x = nn.relu(x) if layer.relu else x
        return x.astype(state_dtype)


def make_mlp(
    widths: Sequence[int | None],
    *,
    bias: bool = False,
    norm: str = "affine",
    out_bias: bool = False,
    out_norm: str = "none",
    dtype: str = "float32",
    kernel_init: nn.initializers.Initializer | None = None,
) -> MLP:
    """Hidden layers with ReLU, all of one kind, and an output layer without.

    Args:
        widths: of every layer in turn, the last one is d; None for the width of the MLP's input.
        bias, norm: of the hidden layers, see `DenseLayer`.
        out_bias, out_norm: of the last layer.
        dtype: type of the activations.
        kernel_init: of the dense layers; None for that of `MLP`.

    Raises:
        InputError: no layer, a width below 1, or an unknown norm.
    """
    for kind in (norm, out_norm):
        base.check_choice(kind, ("none", "affine", "plain"), name="norm of a head's layer")
    if not widths or any(width is not None and width < 1 for width in widths):
        raise base.InputError(f"a head must have at least one layer and widths of at least 1; got {tuple(widths)}.")
    hidden = [DenseLayer(width, bias, norm) for width in widths[:-1]]
    stack = (*hidden, DenseLayer(widths[-1], out_bias, out_norm, relu=False))
    return MLP(stack, dtype) if kernel_init is None else MLP(stack, dtype, kernel_init=kernel_init)


Head = TypeVar("Head", ProjectionHead, MLP)


def with_norm_of(head: Head, encoder: nn.Module) -> Head:
    """`head` normalising as `encoder` does, if its field `norm` is a `norms.Norm`; unchanged for any other encoder."""
    norm = getattr(encoder, "norm", None)
    return head.clone(norm=norm) if isinstance(norm, norms.Norm) else head


def select(activations: Sequence[Array], selector: int) -> Array:
    """The activation that evaluation or fine-tuning builds on.

    Args:
        activations: result of ProjectionHead, (h, output of layer 1, ..., z).
        selector: 0 is h, 1 the first layer after its ReLU, ..., -1 the final output z.

    Raises:
        InputError: `selector` counts beyond the head's layers.

    Reference: SimCLRv2 section 2; flag ft_proj_selector of the code (0 with all labels, 1 with few labels).
    """
    num = len(activations)
    if not -num <= selector < num:
        raise base.InputError(
            f"the projection head selector must be {-num} to {num - 1} for a head of {num - 1} layers; "
            f"got {selector}. Use 0 for the encoder's own output."
        )
    return activations[selector]
