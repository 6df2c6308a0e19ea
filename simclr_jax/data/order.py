"""In which order examples are visited: pure functions of (seed, position), the same on any number of hosts.

Nothing here holds state, so there is nothing to checkpoint: the step number says where the stream stands.
"""

import functools

import numpy as np

from simclr_jax import base


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of one epoch: int32 [num_examples], a permutation of 0..num_examples-1; read-only.

    A stable argsort of the first `num_examples` raw 64-bit words of Philox4x64-10 with key (seed, epoch). NumPy
    promises to keep that bit stream; it does not promise `Generator.permutation`, hence the sort. The last few
    permutations are remembered, because training asks for the same epoch at every step.

    Args:
        seed: 0 <= seed < 2**64.
        epoch: 0 <= epoch < 2**64.
        num_examples: 1 <= num_examples < 2**31.

    Raises:
        base.InputError: an argument is out of range.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    for name, value, low, high in (
        ("seed", seed, 0, 2**64),
        ("epoch", epoch, 0, 2**64),
        ("num_examples", num_examples, 1, 2**31),
    ):
        if not low <= value < high:
            raise base.InputError(f"{name} must be from {low} to {high - 1}; got {value}. Choose another value.")
    words = np.random.Philox(key=np.asarray([seed, epoch], np.uint64)).random_raw(num_examples)
    permutation = np.argsort(words, kind="stable").astype(np.int32)
    permutation.setflags(write=False)
    return permutation


def stream_indices(seed: int, start: int, count: int, *, num_examples: int) -> np.ndarray:
    """Examples at positions start .. start + count - 1 of the endless training stream: int32 [count].

    The stream is epoch after epoch, each in its own order; position p belongs to epoch p // num_examples. A batch may
    straddle two epochs, and every example comes exactly once per epoch.

    Raises:
        base.InputError: negative `start` or `count`, or an argument which `epoch_permutation` refuses.

    Reference: google-research/simclr data.py: shuffle, repeat, then batch with drop_remainder. Difference: the
        reference shuffles within a buffer of 50 batches; here the whole epoch is shuffled.
    """
    if start < 0 or count < 0:
        raise base.InputError(f"start and count must not be negative; got {start} and {count}. Use 0 or more.")
    pieces = [np.zeros(0, np.int32)]
    position, stop = start, start + count
    while position < stop:
        epoch, offset = divmod(position, num_examples) if num_examples > 0 else (0, 0)
        piece = epoch_permutation(seed, epoch, num_examples)[offset : offset + stop - position]
        pieces.append(piece)
        position += len(piece)
    return np.concatenate(pieces)
