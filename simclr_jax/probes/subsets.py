"""Fixed, published subsets of the labels: which examples count as labelled at 1 %, 10 %, 100 %.

The draw is a pure function of (labels, fraction, seed). It uses the raw output of a counter-based generator and a
stable sort only, because NumPy promises those to stay the same while `Generator.permutation` may change.
"""

from collections.abc import Sequence

import numpy as np

from simclr_jax import base

# Separate streams, so that the validation rows are not simply the first rows of the subset.
_SUBSET_STREAM, _SPLIT_STREAM = 1, 2


def label_subset(labels: np.ndarray, fraction: float, *, seed: int = 0) -> np.ndarray:
    """The examples whose labels may be used: sorted int64 indices into `labels`.

    Of every class with n examples, max(1, floor(fraction * n + 1/2)) are taken, drawn at random within the class.
    Subsets of one seed are nested: the 1 % set lies inside the 10 % set. Rows with label -1 (unlabelled) are never
    taken, so a fraction of 1 returns all labelled rows.

    Args:
        labels: int [N].
        fraction: in (0, 1].
        seed: which draw; 0 is the published one.

    Raises:
        InputError: if the fraction is outside (0, 1] or the seed is negative.

    Reference: SimCLR section 4.2 and the lists of `imagenet2012_subset` (random within class, 1 % inside 10 %). Those
    lists fix the total (12,811 images, 12 or 13 per class); here each class is rounded by itself, which is what keeps
    subsets of any two fractions nested.

    Example:
        >>> probes.label_subset(np.arange(100) % 10, 0.1).shape
        (10,)
    """
    if not 0.0 < fraction <= 1.0:
        raise base.InputError(f"label_fraction must lie in (0, 1]; got {fraction}. Use for example 0.01, 0.1 or 1.0.")
    labels = np.asarray(labels)
    order = _random_order(len(labels), seed=seed, stream=_SUBSET_STREAM)
    taken = [rows[: max(1, _rounded(fraction, len(rows)))] for rows in _rows_by_class(labels, order)]
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def rows_by_name(ids: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The examples that a list of file names means: sorted int64 indices into `ids`.

    Args:
        ids: of the examples, paths below the data folder.
        names: file names or paths, in any order; an id is meant if it is one of them or ends in "/" and one of them.

    Raises:
        InputError: the list is empty, or a name means no example or several.

    Reference: the lists 1percent.txt and 10percent.txt of SimCLR's code, "n01440764_10027.JPEG" a line.

    Example:
        >>> probes.rows_by_name(["n01/n01_7.JPEG", "n02/n02_3.JPEG"], ["n02_3.JPEG"])
        array([1])
    """
    wanted = dict.fromkeys(names)
    last = {name.rpartition("/")[2] for name in wanted}
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(ids):
        parts = example.split("/")
        for start in range(len(parts)) if parts[-1] in last else ():
            rows.setdefault("/".join(parts[start:]), []).append(row)
    wrong = [name for name in wanted if len(rows.get(name, ())) != 1]
    if wrong or not wanted:
        several = (
            f"{len(wrong)} of {len(wanted)} mean none or several, such as {base.one_line(wrong[0], 60)}"
            if wrong
            else "none"
        )
        raise base.InputError(
            f"Every name of a list (split.label_list) must mean one training image; got {several}. Use the list of "
            "these data, and data.name=folder:PATH, whose images have names."
        )
    return np.sort(np.asarray([rows[name][0] for name in wanted], np.int64))


def stratified_split(labels: np.ndarray, fraction: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held_out): the rows split class by class, both as sorted int64 indices.

    A class with n >= 2 examples gives max(1, floor(fraction * n + 1/2)) of them to `held_out`, but always keeps one;
    a class with a single example keeps it. So `held_out` is empty when no class has two examples.

    Example:
        >>> kept, held_out = probes.stratified_split(np.arange(20) % 2, 0.2)
        >>> len(kept), len(held_out)
        (16, 4)
    """
    labels = np.asarray(labels)
    order = _random_order(len(labels), seed=seed, stream=_SPLIT_STREAM)
    held_out = [
        rows[: min(len(rows) - 1, max(1, _rounded(fraction, len(rows))))] for rows in _rows_by_class(labels, order)
    ]
    held = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, np.int64)
    labelled = np.flatnonzero(labels >= 0)
    return np.setdiff1d(labelled, held), held


def _random_order(count: int, *, seed: int, stream: int) -> np.ndarray:
    if seed < 0:
        raise base.InputError(f"seed of the label subset must be 0 or larger; got {seed}. Use seed=0.")
    priorities = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)
    return np.argsort(priorities, kind="stable")


def _rows_by_class(labels: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    shuffled = labels[order]
    return [order[shuffled == label] for label in np.unique(labels) if label >= 0]


def _rounded(fraction: float, count: int) -> int:
    return int(np.floor(fraction * count + 0.5))
