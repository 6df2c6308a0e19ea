"""SimCLR: two views of every image, one network for both, and NT-Xent between their projections."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import classifier, network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


LOSS_FORMS = ("auto", "dense", "blockwise", "ring")


def make_simclr(
    encoder: nn.Module,
    *,
    num_classes: int = 0,
    num_proj_layers: int = 3,
    proj_out_dim: int = 128,
    proj_hidden_dim: int | None = None,
    temperature: float = 0.1,
    loss_scale: float = 2.0,
    loss_form: str = "auto",
    supervised_weight: float = 0.0,
    ft_proj_selector: int = 0,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> base.Method:
    """SimCLR as a Method; `embed` returns {"z": float32 [B, V, d]}, the projections before normalisation.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. Views
    share one forward pass, so BatchNorm sees all views of the whole batch together. Metrics: "contrastive_loss" (the
    mean over the 2B anchors, without loss_scale), "contrastive_accuracy", "contrastive_entropy".

    With supervised_weight above 0 a linear classifier is trained alongside, on all views of the labelled images, and
    shows how linearly separable the classes are. It does not touch the network: no gradient passes it. It adds
    params["supervised_head"], the outputs of `classifier.score_rows`, and the metrics "supervised_loss" (without the
    weight) and "supervised_accuracy"; the encoder and the head start as they do without it.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_classes: C of the classifier; not read without one.
        num_proj_layers: layers of the projection head, 0 to 4; 2 in SimCLR, 3 in SimCLRv2 and in the released code.
        proj_out_dim: d, width of the projection.
        proj_hidden_dim: of the head's hidden layers; None for that of h, as in the reference.
        temperature: of NT-Xent, above 0.
        loss_scale: multiplies the paper's mean. 2 is the reference's gradient, which matters wherever the optimizer is
            not invariant to the gradient's scale, for instance BatchNorm parameters under LARS.
        loss_form: how NT-Xent is computed, always exactly. "dense" holds all similarities; "blockwise" holds a tile of
            them, and on several devices gathers the projections once; "ring" also hands the projections round instead
            of gathering them. "auto" is dense up to 1024 images on one device and blockwise above, blockwise on several
            devices, and the ring where the gathered projections would take more than 64 MiB of each.
        supervised_weight: of the classifier's mean cross entropy in the loss; 1 in the reference, 0 for no classifier.
        ft_proj_selector: the activation that the classifier reads, see `heads.select`; 0 is h.
        dtype: type of the head's activations.
        mesh: the devices that split the batch by images; None for one device.

    Raises:
        InputError: num_proj_layers, proj_out_dim, proj_hidden_dim, temperature, loss_scale, supervised_weight or
            ft_proj_selector is out of range, loss_form is unknown, or a classifier has fewer than two classes.

    Reference: SimCLR algorithm 1, section 2.2 and appendix B.6; SimCLRv2 section 2; tf2/model.py and tf2/run.py of
    their code. Deliberate differences: the rows of a batch are ordered image by image and not view by view; the
    classifier is off unless it is asked for, and unlabelled images do not count for it.

    Example:
        >>> method = methods.make_simclr(models.make_encoder("resnet18", stem="cifar"), temperature=0.5)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'projection_head']
    """
    head = heads.ProjectionHead(num_proj_layers, proj_out_dim, dtype, width=proj_hidden_dim)
    base.check_number("temperature", temperature, "SimCLR uses 0.1 to 0.5.")
    base.check_number("loss_scale", loss_scale, "Use 2.0, or 1.0 for the mean.")
    base.check_number("supervised_weight", supervised_weight, "Use 1.0, or 0.0 for no classifier.", least=0.0)
    base.check_choice(loss_form, LOSS_FORMS, name="loss_form")
    net = network.make_network(encoder, head, num_layers=num_proj_layers)
    supervised = supervised_weight > 0
    if supervised:
        classifier.check_num_classes(num_classes)
        network.num_layers_before(head, ft_proj_selector)

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, activations = net.init(key, views)
        if supervised:
            # Folded in, not split off: encoder and head start the same with and without a classifier.
            params["supervised_head"] = classifier.init_classifier(
                jax.random.fold_in(key, 2),
                heads.select(activations, ft_proj_selector),
                num_classes=num_classes,
                kernel_init=nn.initializers.normal(0.01),
            )
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        # Merging the axes keeps an image's views neighbours, hence on its device; view-major rows would move them all.
        images = views.reshape(-1, *views.shape[2:])
        activations, batch_stats = net.apply(params, method_state["batch_stats"], images, True)
        z = heads.select(activations, -1)
        outputs = {"z": z.reshape(*views.shape[:2], z.shape[-1])}
        if supervised:
            logits = classifier.classify(params, jax.lax.stop_gradient(heads.select(activations, ft_proj_selector)))
            outputs |= classifier.score_rows(logits.reshape(*views.shape[:2], num_classes), batch)
        return outputs, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        mean, metrics = _nt_xent(loss_form, mesh, outputs["z"].shape)(outputs["z"], temperature=temperature)
        total, metrics = loss_scale * mean, {"contrastive_loss": mean, **metrics}
        if supervised:
            cross_entropy, more = classifier.reduce_rows(outputs)
            total, metrics = total + supervised_weight * cross_entropy, {**metrics, **more}
        return total, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep)


def uninformed_loss(
    *, batch_size: int, num_classes: int, loss_scale: float = 2.0, supervised_weight: float = 0.0, **other: object
) -> float:
    """loss_scale ln(2B - 1), and the weight times ln C with a classifier, for settings of `make_simclr`."""
    del other
    of_classifier = supervised_weight * math.log(num_classes) if supervised_weight else 0.0
    return loss_scale * losses.collapse_value(batch_size) + of_classifier


def _nt_xent(form: str, mesh: jax.sharding.Mesh | None, shape: tuple[int, ...]) -> Callable[..., Any]:
    """(z, *, temperature=) -> (loss, metrics) in the form that `make_simclr` documents, for z of this shape."""
    several = mesh is not None and mesh.size > 1
    if form == "dense" or (form == "auto" and not several and shape[0] <= 1024):
        return losses.nt_xent
    # A tile should fill the device and not leave its cache: 1 MB on a CPU, 16 MB elsewhere.
    block_size = 512 if mesh is None or base.platform(mesh) == "cpu" else 2048
    if mesh is None or not several:
        return functools.partial(losses.nt_xent_blockwise, block_size=block_size)
    gathered_bytes = 4 * math.prod(shape)
    ring = form == "ring" or (form == "auto" and gathered_bytes > 2**26)
    spread = losses.nt_xent_ring if ring else losses.nt_xent_gathered
    return functools.partial(spread, mesh=mesh, block_size=block_size)
