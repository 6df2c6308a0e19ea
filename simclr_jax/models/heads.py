"""The projection head on top of an encoder, and the choice of one of its activations."""

from collections.abc import Sequence

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
        if self.num_layers not in range(MAX_LAYERS + 1):
            raise base.InputError(
                f"num_proj_layers must be 0 to {MAX_LAYERS}; got {self.num_layers}. Use 2 for SimCLR or 3 for SimCLRv2."
            )
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


def with_norm_of(head: ProjectionHead, encoder: nn.Module) -> ProjectionHead:
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
