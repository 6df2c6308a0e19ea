"""SupCon: contrastive learning with labels, all views of all images of a class being positives of each other.

NT-Xent pulls an anchor to the other view of its image and pushes all others away, also images of its own class. With
labels that is a mistake that can be mended: let P(a) be all other rows with the anchor's label, and ask for each of
them to be found among all other rows A(a):
    L = mean_a (1 / |P(a)|) sum_{p in P(a)} -log( exp(s_ap / T) / sum_{k in A(a)} exp(s_ak / T) ).
The mean over positives stands outside the logarithm: inside, the easiest positive would be enough. Cross entropy with
its classifier compares rows with one weight vector a class; here they are compared with each other, so that a class may
have any shape and hard examples find hard positives by themselves. The classifier is trained afterwards, on frozen
features. Without labels P(a) is the other view and the loss is NT-Xent. Equal embeddings have ln(2B - 1), labels or
not; a network that knows the classes ends at the log of the number of rows in a class, not at 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import classifier, siamese
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_sup_con(
    encoder: nn.Module,
    *,
    num_classes: int,
    proj_hidden_dim: int | None = None,
    proj_out_dim: int = 128,
    temperature: float = 0.1,
    base_temperature: float | None = None,
    bn_per: str = "batch",
    dtype: str = "float32",
) -> base.Method:
    """SupCon as a Method; `embed` returns {"z": float32 [B, V, d] before normalisation, "label": float32 [B]}.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. The only
    metric is "contrastive_accuracy". Images labelled -1 and padding rows have their own views as positives. A batch in
    chunks has the positives and candidates of the whole batch.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_classes: C of the labels, at least 2.
        proj_hidden_dim: of the head's hidden layer; None for that of h, as in the reference.
        proj_out_dim: d.
        temperature: above 0.
        base_temperature: multiplies the loss by temperature / base_temperature; 0.07 in the released code, None for the
            paper's loss.
        bn_per: "batch": all views in one pass, as in the reference; "view": each by itself.
        dtype: type of the head's activations.

    Raises:
        InputError: a width is below 1, a number out of range or bn_per unknown.

    Reference: Khosla et al. 2020 (arXiv 2004.11362); main_supcon.py of HobbitLong/SupContrast: two layers with biases,
    without BatchNorm.

    Example:
        >>> method = methods.make_sup_con(models.make_encoder("resnet18", stem="cifar"), num_classes=10)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> params["projection_head"]["dense1"]["kernel"].shape
        (512, 512)
    """
    classifier.check_num_classes(num_classes)
    base.check_number("temperature", temperature, "The paper uses 0.1.")
    if base_temperature is not None:
        base.check_number("base_temperature", base_temperature, "The released code has 0.07.")
    head = heads.make_mlp((proj_hidden_dim, proj_out_dim), bias=True, norm="none", out_bias=True, dtype=dtype)
    network = siamese.make_siamese(encoder, head, bn_per=bn_per)

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        z, method_state = network.project(params, method_state, views)
        # Outputs are floats, since chunks are differentiated for them.
        label = jnp.where(batch["mask"], batch["label"], -1).astype(z.dtype)
        return {"z": z, "label": label}, method_state

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        numbers: dict[str, Any] = {"temperature": temperature, "base_temperature": base_temperature}
        value, metrics = losses.sup_con(outputs["z"], outputs["label"], **numbers)
        return value, (method_state, metrics)

    return base.Method(init=network.init, embed=embed, loss=loss, update=base.keep)


def uninformed_loss(
    *, batch_size: int, temperature: float = 0.1, base_temperature: float | None = None, **other: object
) -> float:
    """The loss of equal embeddings of two views, ln(2B - 1) and the factor, for settings of `make_sup_con`."""
    del other
    return losses.collapse_value(batch_size) * (1.0 if base_temperature is None else temperature / base_temperature)
