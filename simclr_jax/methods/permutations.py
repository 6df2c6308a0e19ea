"""Orders of nine tiles that differ as much as orders can, for the jigsaw puzzle.

Two orders are told apart by the places in which they differ, their Hamming distance. A set of orders of n things in
which any two differ in at least d places has at most n! / (d - 1)! members: 9 orders of nine may differ in all nine
places, 72 in eight, 504 in seven. Groups of maps of finite fields reach these bounds, no search is needed: x -> x + b
and x -> a x + b of the field of 9 elements, and x -> (a x + b) / (c x + d) of the field of 8 elements with infinity.
"""

import functools
import itertools

import numpy as np

from simclr_jax import base

MAX_PERMUTATIONS = 504


@functools.cache
def make_permutations(num_permutations: int) -> np.ndarray:
    """int32 [P, 9]: P different orders of 0 to 8, any two of which differ in 9 places (P <= 9), 8 (<= 72), 7 (<= 504).

    Raises:
        InputError: P is below 2 or above 504.

    Reference: Noroozi and Favaro 2016 (arXiv 1603.09246), algorithm 1, which looks for such orders step by step, each
    as far as can be from those found so far. Deliberate difference: theirs are not the farthest possible, these are
    (Blake, Cohen and Deza 1979, on sharply k-transitive sets).
    """
    if not 2 <= num_permutations <= MAX_PERMUTATIONS:
        raise base.InputError(
            f"num_permutations must be 2 to {MAX_PERMUTATIONS}; got {num_permutations}. Use 64, or 72 or 504, the most "
            "that differ in 8 and in 7 of 9 places."
        )
    orders = _affine() if num_permutations <= 72 else _projective()
    return np.asarray(orders[:num_permutations], np.int32)


def _affine() -> list[list[int]]:
    """x -> a x + b of the field of 9 elements 3 u + v = u i + v, i^2 = -1; the 9 shifts, a = 1, come first."""

    def times(x: int, y: int) -> int:
        (u, v), (s, t) = divmod(x, 3), divmod(y, 3)
        return 3 * ((u * t + v * s) % 3) + (v * t - u * s) % 3

    def plus(x: int, y: int) -> int:
        return 3 * ((x // 3 + y // 3) % 3) + (x + y) % 3

    return [[plus(times(a, x), b) for x in range(9)] for a in range(1, 9) for b in range(9)]


def _projective() -> list[list[int]]:
    """x -> (a x + b) / (c x + d), a d != b c, of the field of 8 elements, polynomials modulo x^3 + x + 1; 8 is 1/0."""

    def times(x: int, y: int) -> int:
        product = (x if y & 1 else 0) ^ (x << 1 if y & 2 else 0) ^ (x << 2 if y & 4 else 0)
        for degree in (4, 3):
            product ^= (0b1011 << degree - 3) if product >> degree & 1 else 0
        return product

    table = [[times(x, y) for y in range(8)] for x in range(8)]
    inverse = [0, *(row.index(1) for row in table[1:])]

    def divide(over: int, under: int) -> int:
        return table[over][inverse[under]] if under else 8

    orders = []
    # A map has one form that begins with c = 0, d = 1, or with c = 1.
    for c, d, a, b in itertools.product((0, 1), range(8), range(8), range(8)):
        if (c or d == 1) and table[a][d] != table[b][c]:
            finite = [divide(table[a][x] ^ b, table[c][x] ^ d) for x in range(8)]
            orders.append([*finite, divide(a, c)])
    return orders
