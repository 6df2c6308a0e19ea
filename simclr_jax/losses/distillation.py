"""The loss of a student network that imitates a teacher's class probabilities.

Computation is in float32 (float64 stays float64). Natural logarithms: losses are in nats.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import classification, inputs

Array = jax.Array


def distillation(student_logits: Array, teacher_logits: Array, *, temperature: float, loss_scale: float = 1.0) -> Array:
    """-sum_c T_c log S_c of every example, times loss_scale: [...] of at least float32.

    T and S are softmax(logits / temperature) of teacher and student. Only the student receives a gradient. The lowest
    possible value, at S = T, is the entropy of T and not 0.

    Args:
        student_logits: [..., C].
        teacher_logits: [..., C].
        temperature: of both softmaxes, above 0; above 1 it spreads the teacher's probabilities.
        loss_scale: multiplies the loss. 1 is the paper's equation, temperature**2 the released code: a gradient of
            the equation falls as 1 / temperature**2, and that factor keeps its size. At temperature 1 they agree.

    Raises:
        InputError: the shapes differ, or temperature or loss_scale is not above 0.

    Reference: SimCLRv2 equation 2; add_kd_loss in their notebook on distillation (loss_scale = temperature**2), which
    averages over the examples.

    Example:
        >>> losses.distillation(jnp.ones((4, 3)), jnp.ones((4, 3)), temperature=1.0).round(3).tolist()
        [1.099000096321106, 1.099000096321106, 1.099000096321106, 1.099000096321106]
    """
    if student_logits.shape != teacher_logits.shape:
        raise base.InputError(
            f"student and teacher need logits of one shape; got {list(student_logits.shape)} and "
            f"{list(teacher_logits.shape)}. Use the same examples and classes."
        )
    for name, value in (("temperature", temperature), ("loss_scale", loss_scale)):
        if not 0 < value < math.inf:
            raise base.InputError(f"{name} of distillation must be above 0 and finite; got {value}. Use 1.0.")
    student_logits = inputs.wide(student_logits)
    student = jax.nn.log_softmax(classification.below_top(student_logits, temperature))
    teacher_logits = jax.lax.stop_gradient(teacher_logits).astype(student_logits.dtype)
    teacher = jax.nn.softmax(classification.below_top(teacher_logits, temperature))
    return -loss_scale * jnp.sum(teacher * student, axis=-1)
