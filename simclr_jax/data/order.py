"""In which order examples are visited: pure functions of (seed, position), the same on any number of hosts.

Nothing here holds state, so there is nothing to checkpoint: the step number says where the stream stands.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

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
    return _take(start, count, lambda epoch: epoch_permutation(seed, epoch, num_examples), size=num_examples)


def _take(start: int, count: int, order_of: Callable[[int], np.ndarray], *, size: int) -> np.ndarray:
    """Positions start .. start + count - 1 of epochs of `size` examples one after another."""
    if start < 0 or count < 0:
        raise base.InputError(f"start and count must not be negative; got {start} and {count}. Use 0 or more.")
    pieces = [np.zeros(0, np.int32)]
    position, stop = start, start + count
    while position < stop:
        epoch, offset = divmod(position, size) if size > 0 else (0, 0)
        piece = order_of(epoch)[offset : offset + stop - position]
        pieces.append(piece)
        position += len(piece)
    return np.concatenate(pieces)


class Mix(NamedTuple):
    """A split of several sets, which come unequally often.

    weights: how many times an epoch holds the examples of each set, above 0. parts: int32 [N], the set of each example.
    """

    weights: tuple[float, ...]
    parts: np.ndarray


def num_occurrences(weight: float, count: int) -> int:
    """How many images of a set of `count` examples an epoch holds: weight * count, rounded, at least one."""
    return max(1, round(weight * count)) if count else 0


def mixed_size(mix: Mix) -> int:
    """Images of an epoch."""
    return sum(num_occurrences(*part) for part in zip(mix.weights, _counts(mix), strict=True))


def _counts(mix: Mix) -> tuple[int, ...]:
    return tuple(np.bincount(mix.parts, minlength=len(mix.weights)).tolist())


def make_stream(seed: int, *, num_examples: int, mix: Mix | None = None) -> Callable[[int, int], np.ndarray]:
    """(start, count) -> the examples at these positions of the endless training stream: int32 [count].

    `stream_indices`, or with a `mix` of the same examples their stream: epoch e is a permutation of its occurrences
    (`epoch_permutation` of as many). A set of weight w gives m = `num_occurrences` of them: positions e m .. (e + 1) m
    of a stream of its own. So a whole w gives every example w times in every epoch; with 0.5 two epochs of an even set
    share no example and together hold all.

    Raises:
        base.InputError: as `stream_indices`, when it is called.
    """
    if mix is None:
        return functools.partial(stream_indices, seed, num_examples=num_examples)
    examples = np.argsort(mix.parts, kind="stable").astype(np.int32)  # set after set
    counts, size = _counts(mix), mixed_size(mix)

    def take(start: int, count: int) -> np.ndarray:
        return examples[_take(start, count, lambda epoch: _mixed_epoch(seed, epoch, counts, mix.weights), size=size)]

    return take


@functools.lru_cache(maxsize=4)
def _mixed_epoch(seed: int, epoch: int, counts: tuple[int, ...], weights: tuple[float, ...]) -> np.ndarray:
    """The order of one epoch of a mix whose examples lie set after set: int32 [`mixed_size`]."""
    occurrences, first = [], 0
    for part, (weight, count) in enumerate(zip(weights, counts, strict=True)):
        length = num_occurrences(weight, count)
        # A key of its own: the words that choose examples must not be those that put them in order.
        drawn = stream_indices(seed ^ ((part + 1) << 32), epoch * length, length, num_examples=count)
        occurrences.append(first + np.sort(drawn))
        first += count
    together = np.concatenate(occurrences)
    return together[epoch_permutation(seed, epoch, len(together))]
