"""Supervised training of the whole network, from scratch or from a pretrained one (fine-tuning)."""

import math
from collections.abc import Callable

import jax
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import classifier, network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree

Classify = Callable[[PyTree, PyTree, Array], Array]


def make_supervised(
    encoder: nn.Module,
    *,
    num_classes: int,
    num_proj_layers: int = 3,
    proj_out_dim: int = 128,
    proj_hidden_dim: int | None = None,
    ft_proj_selector: int = 0,
    label_smoothing: float = 0.0,
    dtype: str = "float32",
) -> base.Method:
    """Cross entropy of a linear classifier on one activation of the projection head, with everything trained.

    `embed` returns the outputs of `classifier.score_rows`. params are {"encoder", "projection_head",
    "supervised_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. "projection_head" holds the
    first layers of the pretrained head, up to the selected activation, under the names and shapes they have there;
    with ft_proj_selector 0 it is {}. Views [B, V, h, w, 3] may be one per image; those of an image share its label.
    Metrics: "supervised_loss", "supervised_accuracy", of the labelled images.

    The classifier starts at zero: the first loss is ln C for every example and the first update moves the classifier
    only, so that no random classifier disturbs pretrained features.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_classes: C, at least 2.
        num_proj_layers: layers of the head that the network was pretrained with, 0 to 4.
        proj_out_dim: d of that head; read if `ft_proj_selector` is its final output.
        proj_hidden_dim: of its hidden layers; None for that of h.
        ft_proj_selector: the activation under the classifier, see `heads.select`: 0 is h, the papers' choice with all
            labels, 1 keeps the head's first layer, SimCLRv2's with few.
        label_smoothing: see `losses.cross_entropy`.
        dtype: type of the head's activations.

    Raises:
        InputError: a value is out of range.

    Reference: SimCLRv2 section 2 and 3.3; SimCLR appendix B.5; tf2/model.py of their code in the mode "finetune", with
    zero_init_logits_layer as in its recipes. Deliberate differences: the code builds the whole head and, unless LARS
    is used, decays also the layers that nothing reads, here they do not exist; its TF1 version leaves the head's
    layers at their pretrained values, here they are trained, as the paper says; label smoothing is that of TF1.

    Example:
        >>> method = methods.make_supervised(models.make_encoder("resnet18", stem="cifar"), num_classes=10)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'projection_head', 'supervised_head']
    """
    head = heads.ProjectionHead(num_proj_layers, proj_out_dim, dtype, width=proj_hidden_dim)
    num_layers = network.num_layers_before(head, ft_proj_selector)
    net = network.make_network(encoder, head, num_layers=num_layers)
    classifier.check_num_classes(num_classes)
    if not 0 <= label_smoothing < 1:
        raise base.InputError(f"label_smoothing must be at least 0 and below 1; got {label_smoothing}. Use 0.0 or 0.1.")

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, activations = net.init(key, views)
        params["supervised_head"] = classifier.init_classifier(
            jax.random.fold_in(key, 2), activations[-1], num_classes=num_classes, kernel_init=nn.initializers.zeros
        )
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        images = views.reshape(-1, *views.shape[2:])
        activations, batch_stats = net.apply(params, method_state["batch_stats"], images, True)
        logits = classifier.classify(params, activations[-1]).reshape(*views.shape[:2], num_classes)
        outputs = classifier.score_rows(logits, batch, label_smoothing=label_smoothing)
        return outputs, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        mean, metrics = classifier.reduce_rows(outputs)
        return mean, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep)


def uninformed_loss(*, num_classes: int, **other: object) -> float:
    """ln C, with any label smoothing, for settings of `make_supervised`."""
    del other
    return math.log(num_classes)


def make_classify(
    encoder: nn.Module,
    *,
    num_proj_layers: int = 3,
    proj_out_dim: int = 128,
    proj_hidden_dim: int | None = None,
    ft_proj_selector: int = 0,
    dtype: str = "float32",
) -> Classify:
    """The classifier of a trained network: (params, batch_stats, images [N, h, w, 3] in [0, 1]) -> logits [N, C].

    Pure, for evaluation: BatchNorm uses its moving averages. It serves every method that trains a classifier at
    params["supervised_head"]; the arguments are those the method was made with.

    Raises:
        InputError: num_proj_layers, proj_out_dim, proj_hidden_dim or ft_proj_selector is out of range.

    Example:
        >>> classify = methods.make_classify(models.make_encoder("resnet18"))
    """
    head = heads.ProjectionHead(num_proj_layers, proj_out_dim, dtype, width=proj_hidden_dim)
    net = network.make_network(encoder, head, num_layers=network.num_layers_before(head, ft_proj_selector))

    def classify(params: PyTree, batch_stats: PyTree, images: Array) -> Array:
        activations, _ = net.apply(params, batch_stats, images, False)
        return classifier.classify(params, activations[-1])

    return classify
