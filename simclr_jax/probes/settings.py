"""The settings of the probes of a run, checked once at the border."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from simclr_jax import base
from simclr_jax.probes import nearest


class ProbeSettings(NamedTuple):
    """See `make_settings`."""

    knn_k: int
    knn_temperature: float
    label_fractions: tuple[float, ...]
    batch_size: int
    knn_weights: str = "similarity"
    more_knn_k: tuple[int, ...] = ()
    label_free_rows: int = 4096


def make_settings(
    *,
    knn_k: int,
    knn_temperature: float,
    label_fractions: Sequence[float],
    batch_size: int,
    knn_weights: str = "similarity",
    more_knn_k: Sequence[int] = (),
    label_free_rows: int = 4096,
) -> ProbeSettings:
    """The config's section `probe`.

    Args:
        knn_k: neighbours that vote, at least 1.
        knn_temperature: of the vote, above 0.
        label_fractions: shares of the training labels that the probes see, each in (0, 1].
        batch_size: images in one forward pass of the encoder, at least 1.
        knn_weights: "similarity" by similarity, or "uniform"; see `nearest.knn`.
        more_knn_k: further numbers of neighbours that are scored after training, each at least 1.
        label_free_rows: training images of the scores without labels, see `label_free`; 0 = no such scores.

    Raises:
        base.InputError: a value is out of its range.

    Example:
        >>> probes.make_settings(knn_k=20, knn_temperature=0.1, label_fractions=(1.0,), batch_size=256).knn_weights
        'similarity'
    """
    if knn_k < 1:
        raise base.InputError(f"probe.knn_k must be at least 1; got {knn_k}. Use 200.")
    if not all(isinstance(k, int) and k >= 1 for k in more_knn_k):
        raise base.InputError(f"probe.more_knn_k must be whole numbers from 1; got {more_knn_k}. Use (10, 20, 200).")
    if not (knn_temperature > 0 and math.isfinite(knn_temperature)):
        raise base.InputError(f"probe.knn_temperature must be above 0; got {knn_temperature}. Use 0.1.")
    if not label_fractions or not all(0 < fraction <= 1 for fraction in label_fractions):
        raise base.InputError(
            f"probe.label_fractions must be numbers above 0 and up to 1; got {label_fractions}. Use (0.01, 0.1, 1.0)."
        )
    if label_free_rows < 0:
        raise base.InputError(f"probe.label_free_rows must be at least 0; got {label_free_rows}. Use 4096.")
    if batch_size < 1:
        raise base.InputError(f"probe.batch_size must be at least 1; got {batch_size}. Use 512.")
    base.check_choice(knn_weights, nearest.WEIGHTS, name="probe.knn_weights", remedy="Use similarity.")
    return ProbeSettings(
        knn_k,
        knn_temperature,
        tuple(label_fractions),
        batch_size,
        knn_weights,
        tuple(more_knn_k),
        label_free_rows,
    )
