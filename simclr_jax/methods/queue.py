"""A queue of embeddings of earlier batches, the candidates or neighbours of methods that need many.

{"rows": float [K, d], unit vectors; "pointer": int32, where the next batch goes}. Rows are written in the order of the
GLOBAL batch, so that a queue does not depend on how the batch is spread over devices; nor does it matter whether its
rows are on every device or spread over them.
"""

import jax
import jax.numpy as jnp

from simclr_jax import base, losses

Array = jax.Array
Queue = dict[str, Array]


def check_length(length: int) -> None:
    """Raises InputError for a queue without rows."""
    if length < 1:
        raise base.InputError(f"queue_length must be at least 1; got {length}. Use 65536, or 4096 for CIFAR.")


def check_batch(length: int, batch_size: int) -> None:
    """Raises InputError unless batches of `batch_size` fill a queue exactly."""
    if length % batch_size:
        below = length // batch_size * batch_size
        raise base.InputError(
            f"queue_length must be a multiple of the batch size; got {length} and {batch_size}. "
            f"Use {' or '.join(str(n) for n in (below, below + batch_size) if n)}."
        )


def init_queue(key: Array, length: int, like: Array | jax.ShapeDtypeStruct) -> Queue:
    """A queue of `length` random unit rows, of the width and type of the embeddings `like` [N, d]."""
    rows = jax.random.normal(key, (length, like.shape[-1]), like.dtype)
    return {"rows": losses.l2_normalize(rows), "pointer": jnp.zeros((), jnp.int32)}


def nearest(queue: Queue, rows: Array) -> Array:
    """What lies nearest in the queue, by cosine, to each of the unit rows [..., d]; the first of equals. A constant."""
    candidates, rows = jax.lax.stop_gradient((queue["rows"], rows))
    # Full precision: a rounded product would take another neighbour.
    scores = jnp.einsum("...d,kd->...k", rows, candidates, precision=jax.lax.Precision.HIGHEST)
    return candidates[jnp.argmax(scores, axis=-1)]


def enqueue(queue: Queue, rows: Array) -> Queue:
    """The queue with a batch of unit rows [B, d] in place of its oldest; K must be a multiple of B.

    Raises:
        InputError: K is not a multiple of B.

    Reference: MoCo builder._dequeue_and_enqueue.
    """
    length, batch_size = len(queue["rows"]), len(rows)
    check_batch(length, batch_size)
    zero = jnp.zeros((), jnp.int32)
    new = jax.lax.stop_gradient(rows).astype(queue["rows"].dtype)
    written = jax.lax.dynamic_update_slice(queue["rows"], new, (queue["pointer"], zero))
    return {"rows": written, "pointer": (queue["pointer"] + batch_size) % length}
