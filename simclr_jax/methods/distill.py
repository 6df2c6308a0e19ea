"""Distillation: a student is trained on what a fine-tuned teacher says of images, labelled or not."""

import math
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import classifier, network, supervised
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


class Teacher(NamedTuple):
    """A network with a classifier whose weights are given later: the run loads them into the method's state.

    init: (key, views) -> ({"params", "batch_stats"}, weights of the right shapes). classify: (params, batch_stats,
        images [N, h, w, 3]) -> logits [N, C], by moving averages. num_classes: C.
    """

    init: Any
    classify: supervised.Classify
    num_classes: int


def make_teacher(encoder: nn.Module, *, num_classes: int, **head: Any) -> Teacher:
    """The teacher that `make_supervised` trained with these settings: `num_proj_layers`, `ft_proj_selector` and so on.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> teacher = methods.make_teacher(models.make_encoder("resnet50"), num_classes=1000, ft_proj_selector=1)
        >>> teacher.num_classes
        1000
    """
    method = supervised.make_supervised(encoder, num_classes=num_classes, **head)
    classify = supervised.make_classify(encoder, **head)

    def init(key: Array, views: Array) -> PyTree:
        params, method_state = method.init(key, views)
        # Until its weights are loaded it says something of its own: an untrained classifier is zero.
        dense = params["supervised_head"]["dense"]
        dense["kernel"] = jax.random.normal(jax.random.fold_in(key, 4), dense["kernel"].shape, dense["kernel"].dtype)
        return {"params": params, "batch_stats": method_state["batch_stats"]}

    return Teacher(init, classify, num_classes)


def make_distill(
    encoder: nn.Module,
    *,
    teacher: Teacher,
    temperature: float = 1.0,
    loss_scale: float = 1.0,
    label_weight: float = 0.0,
    dtype: str = "float32",
) -> base.Method:
    """Distillation as a Method; `embed` returns {"distillation_losses"} and the outputs of `classifier.score_rows`.

    A fine-tuned network says more of an image than a label would: softmax(teacher's logits / T) is a distribution over
    all classes, and it can be had for images without a label. The student's softmax at the same T is trained towards
    it by cross entropy,

        L = -mean over images and views of sum_c P_teacher(c; T) log P_student(c; T),

    or (1 - w) L + w times the labelled images' cross entropy, w = label_weight. The teacher is fixed: it has no
    gradient and normalises by its moving averages; both see the same view. A student of the teacher's own architecture
    (self-distillation) ends better than its teacher, a smaller one better than if it had been fine-tuned itself. The
    lowest possible L is the entropy of the teacher's answers, not 0; a student that says nothing has ln C.

    params are {"encoder", "projection_head": {}, "supervised_head"} as of `make_supervised` with ft_proj_selector 0;
    method_state has "batch_stats" and "teacher", {"params", "batch_stats"}, so that a run goes on without the teacher's
    own folder. Metrics: "distillation_loss", "teacher_agreement" (how often both name the same class) and those of
    `classifier.reduce_rows`. Exact in chunks.

    Args:
        encoder: the student, `apply(variables, images, train=...)` -> h [N, D].
        teacher: see `make_teacher`. Its weights must be put into method_state["teacher"]; they start at random.
        temperature: T; 0.1 for self-distillation and 1.0 for a smaller student in the paper.
        loss_scale: see `losses.distillation`.
        label_weight: w, from 0 (no labels) to 1 (labels only).
        dtype: type of the head's activations.

    Raises:
        InputError: a value is out of range.

    Reference: SimCLRv2 (arXiv 2006.10029) section 2.3, equations 2 and 3. Deliberate difference: the student's
    classifier starts at zero, see `make_supervised`.

    Example:
        >>> student, large = models.make_encoder("resnet18"), models.make_encoder("resnet50")
        >>> method = methods.make_distill(student, teacher=methods.make_teacher(large, num_classes=10))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 64, 64, 3)))
        >>> sorted(params)
        ['encoder', 'projection_head', 'supervised_head']
    """
    if not 0 <= label_weight <= 1:
        raise base.InputError(f"label_weight must be 0 to 1; got {label_weight}. Use 0.0 for the teacher's word alone.")
    base.check_number("temperature", temperature, "Use 1.0, or 0.1 for self-distillation.")
    base.check_number("loss_scale", loss_scale, "Use 1.0.")
    student = supervised.make_supervised(encoder, num_classes=teacher.num_classes, ft_proj_selector=0, dtype=dtype)
    net = network.make_network(encoder, heads.ProjectionHead(0, dtype=dtype), num_layers=0)

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, method_state = student.init(key, views)
        return params, {**method_state, "teacher": teacher.init(jax.random.fold_in(key, 3), views)}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        images, shape = views.reshape(-1, *views.shape[2:]), (*views.shape[:2], teacher.num_classes)
        activations, batch_stats = net.apply(params, method_state["batch_stats"], images, True)
        said = classifier.classify(params, activations[-1]).reshape(shape)
        of_teacher = jax.lax.stop_gradient(method_state["teacher"])
        told = teacher.classify(of_teacher["params"], of_teacher["batch_stats"], images).reshape(shape)
        values = losses.distillation(said, told, temperature=temperature, loss_scale=loss_scale)
        agrees = (said.argmax(axis=-1) == told.argmax(axis=-1)).astype(values.dtype)
        own = {"distillation_losses": values.mean(axis=1), "agreements": agrees.mean(axis=1)}
        return {**own, **classifier.score_rows(said, batch)}, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        mean, agreement = outputs["distillation_losses"].mean(), outputs["agreements"].mean()
        of_labels, metrics = classifier.reduce_rows(outputs)
        total = mean if label_weight == 0 else (1 - label_weight) * mean + label_weight * of_labels
        return total, (method_state, {"distillation_loss": mean, "teacher_agreement": agreement, **metrics})

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep)


def uninformed_loss(*, num_classes: int, loss_scale: float = 1.0, label_weight: float = 0.0, **other: object) -> float:
    """((1 - w) loss_scale + w) ln C of a batch with labels, C the teacher's, for settings of `make_distill`."""
    del other
    return ((1 - label_weight) * loss_scale + label_weight) * math.log(num_classes)
