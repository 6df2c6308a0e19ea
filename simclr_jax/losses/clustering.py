"""SwAV: images are assigned to prototypes by Sinkhorn's algorithm, and every crop predicts the others' assignment."""

import functools

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import classification, inputs

Array = jax.Array


def _log_sum(x: Array, axis: int) -> Array:
    return jax.nn.logsumexp(x, axis=axis, keepdims=True)


def sinkhorn(
    scores: Array,
    *,
    epsilon: float | Array = 0.05,
    iterations: int | Array = 3,
    others: Array | None = None,
    use_others: bool | Array = True,
) -> Array:
    """Soft assignments of samples to prototypes that use all prototypes equally: [N, K] of at least float32.

    exp(scores / epsilon) is scaled `iterations` times: first every prototype's sum over all samples to a common value,
    then every sample's sum over the prototypes to 1. No gradient passes. Everything happens in logarithms, so no score
    over- or underflows. Without a turn it is the softmax over all entries together, times N.

    Args:
        scores: [N, K], of the GLOBAL batch.
        epsilon: above 0; the smaller, the closer to one prototype a sample.
        iterations: turns, at least 0. An integer array may be given.
        others: [L, K], scores of samples that take part without being returned, for instance from a queue. They stay
            an array of their own: joined to scores that are spread over devices, they would move them.
        use_others: bool scalar, possibly known at run time only; False leaves them out.

    Raises:
        InputError: scores or others are not [N, K] and [L, K], epsilon is not above 0 or iterations is below 0.

    Reference: Cuturi 2013; Caron et al. 2020 (arXiv 2006.09882), section 3.1; distributed_sinkhorn of main_swav.py in
    their code, whose float32 overflows from scores / epsilon of 88 on; its constants N and K cancel.

    Example:
        >>> assignments = losses.sinkhorn(jnp.asarray([[0.9, 0.1], [0.8, 0.1], [0.7, 0.6]]))
        >>> assignments.sum(axis=1).round(3).tolist()
        [1.0, 1.0, 1.0]
    """
    if scores.ndim != 2 or (others is not None and (others.ndim != 2 or others.shape[1] != scores.shape[1])):
        got = [list(x.shape) for x in (scores, others) if x is not None]
        raise base.InputError(
            f"sinkhorn needs scores [N, K] and others [L, K]; got {got}. Give one view's scores for all prototypes."
        )
    inputs.check_positive("epsilon of sinkhorn", epsilon, "SwAV uses 0.05.")
    if not isinstance(iterations, Array) and iterations < 0:
        raise base.InputError(f"iterations of sinkhorn must be at least 0; got {iterations}. SwAV uses 3.")
    blocks = [scores] if others is None or not others.shape[0] else [scores, others]
    blocks = [jax.lax.stop_gradient(inputs.wide(block)) for block in blocks]
    # Every sample's highest score is taken off before the division, which keeps its digits; what that takes off beside
    # the highest of all is where the samples' own factors begin.
    tops = [jnp.max(block, axis=1, keepdims=True) for block in blocks]
    highest = functools.reduce(jnp.maximum, [jnp.max(top) for top in tops])
    logits = [classification.below_top(block, epsilon) for block in blocks]
    begin = [(highest - top) / epsilon for top in tops]

    def of_prototypes(of_samples: list[Array]) -> Array:
        sums = [_log_sum(x - own, axis=0) for x, own in zip(logits, of_samples, strict=True)]
        return functools.reduce(jnp.logaddexp, [sums[0], *(jnp.where(use_others, s, -jnp.inf) for s in sums[1:])])

    def turn(_: Array, logs: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        prototypes = of_prototypes(logs[1])
        return prototypes, [_log_sum(x - prototypes, axis=1) for x in logits]

    # Without a turn, all entries have the same factor: the number of samples over the sum of all.
    counts = [jnp.asarray(block.shape[0], block.dtype) for block in blocks]
    count = sum((jnp.where(use_others, n, 0) for n in counts[1:]), counts[0])
    everything = _log_sum(of_prototypes(begin), axis=1) - jnp.log(count)
    start = (jnp.broadcast_to(everything, (1, scores.shape[1])), begin)
    prototypes, samples = jax.lax.fori_loop(0, iterations, turn, start)
    return jnp.exp(logits[0] - prototypes - samples[0])


def swav(
    scores: Array,
    *,
    temperature: float | Array = 0.1,
    epsilon: float | Array = 0.05,
    iterations: int | Array = 3,
    queue_scores: Array | None = None,
    use_queue: bool | Array = True,
) -> tuple[Array, dict[str, Array]]:
    """SwAV, swapped prediction of assignments: (loss, metrics), scalars of at least float32.

    The first two crops of every image are assigned to the prototypes, each crop's batch by a `sinkhorn` of its own. All
    other crops of the image predict that assignment: the loss is the mean over the two assigning crops, the predicting
    crops and the images of the cross entropy between the assignment and softmax(scores / temperature). Assignments are
    constants. Embeddings that are all equal have at least the value ln K, and just that where all scores are equal.

    Args:
        scores: [B, V, K], dot products of unit projections with unit prototypes; crops 1 and 2 assign, V of at least 2.
        temperature: of the predictions, above 0.
        epsilon: see `sinkhorn`.
        iterations: see `sinkhorn`.
        queue_scores: [L, 2, K], scores of earlier images' crops 1 and 2 with the current prototypes, which join the
            assignment only. For batches smaller than a few times K.
        use_queue: bool scalar; False leaves the queue out.

    Returns:
        The loss, and {"assignment_entropy": the mean entropy in nats of an image's assignment, at most ln K,
        "assignment_accuracy": how often the highest score of crop 2 is at the prototype that crop 1 has most of}.

    Raises:
        InputError: scores are not [B, V, K] with V of at least 2, queue_scores not [L, 2, K], or a number is out of
            range.

    Reference: Caron et al. 2020 (arXiv 2006.09882), equations 2 to 5; main_swav.py of their code. Deliberate
    difference: logarithms, see `sinkhorn`.

    Example:
        >>> loss, metrics = losses.swav(jax.random.normal(key, (8, 4, 5)))
        >>> round(float(losses.swav(jnp.zeros((8, 2, 5)))[0]), 3)
        1.609
    """
    if scores.ndim != 3 or scores.shape[1] < 2:
        raise base.InputError(
            f"swav needs scores [B, V, K] of at least two crops; got {list(scores.shape)}. "
            "Give every crop's scores for all prototypes, crops on axis 1."
        )
    if queue_scores is not None and queue_scores.shape[1:] != (2, scores.shape[2]):
        raise base.InputError(
            f"queue_scores of swav must be [L, 2, {scores.shape[2]}]; got {list(queue_scores.shape)}. "
            "Give both assigning crops' scores for the same prototypes."
        )
    inputs.check_positive("temperature of swav", temperature, "SwAV uses 0.1.")
    scores = inputs.wide(scores)
    num_crops = scores.shape[1]
    predictions = jax.nn.log_softmax(classification.below_top(scores, temperature))
    total, assigned = jnp.zeros((), scores.dtype), []
    for crop in range(2):
        others = None if queue_scores is None else queue_scores[:, crop]
        assigned.append(
            sinkhorn(scores[:, crop], epsilon=epsilon, iterations=iterations, others=others, use_others=use_queue)
        )
        summed = sum(predictions[:, other] for other in range(num_crops) if other != crop)
        total -= jnp.mean(jnp.sum(assigned[-1] * summed, axis=-1))
    return total / (2 * (num_crops - 1)), _describe(assigned, jax.lax.stop_gradient(scores))


def _describe(assigned: list[Array], scores: Array) -> dict[str, Array]:
    entropies = [-jnp.mean(jnp.sum(jax.scipy.special.xlogy(q, q), axis=-1)) for q in assigned]
    correct = jnp.argmax(scores[:, 1], axis=-1) == jnp.argmax(assigned[0], axis=-1)
    return {
        "assignment_entropy": (entropies[0] + entropies[1]) / 2,
        "assignment_accuracy": jnp.mean(correct.astype(scores.dtype)),
    }
