"""What projections of images and texts are worth: retrieval both ways, and classes by their names."""

from collections.abc import Mapping, Sequence

import numpy as np

from simclr_jax import base

# Similarities that are held at a time, 16 MB.
_BLOCK = 2**22


def retrieval_recall(
    image_z: np.ndarray, text_z: np.ndarray, owners: np.ndarray, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """How often the k nearest by cosine hold what belongs together, in [0, 1].

    An image is found right where any of its texts is among the k nearest of all texts; a text, where its image is
    among the k nearest of all images. Of equal similarities the one of the lower row comes first.

    Args:
        image_z: [N, d], N at least 1.
        text_z: [M, d].
        owners: int [M], the image of every text; every image has one at least.
        ks: how many neighbours; above the number of candidates it is all of them.

    Returns:
        {"image_to_text_recall_1": ..., "text_to_image_recall_1": ..., ...}.

    Raises:
        InputError: the arrays do not fit together, or an image has no text.

    Reference: Karpathy and Li 2015 (arXiv 1412.2306), section 4.1, as reported for Flickr8k to COCO.

    Example:
        >>> probes.retrieval_recall(np.eye(2), np.eye(2)[[0, 1, 1]], np.asarray([0, 1, 1]), ks=(1,))
        {'image_to_text_recall_1': 1.0, 'text_to_image_recall_1': 1.0}
    """
    owners = np.asarray(owners)
    if image_z.shape[1:] != text_z.shape[1:] or owners.shape != text_z.shape[:1]:
        raise base.InputError(
            f"retrieval_recall needs images [N, d], texts [M, d] and owners [M]; got {list(image_z.shape)}, "
            f"{list(text_z.shape)} and {list(owners.shape)}. Project both."
        )
    if set(owners.tolist()) != set(range(len(image_z))):
        raise base.InputError(
            "retrieval_recall needs a text for every image, and an image for every text. Leave others out."
        )
    image, text = _unit(image_z), _unit(text_z)
    own = owners[None] == np.arange(len(image))[:, None]
    ranks = {"image_to_text": _best_ranks(image, text, own), "text_to_image": _best_ranks(text, image, own.T)}
    return {f"{way}_recall_{k}": float(np.mean(ranks[way] < k)) for way in ranks for k in ks}


def chance_recall(owners: np.ndarray, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """`retrieval_recall` of projections that know nothing, in expectation.

    Example:
        >>> probes.chance_recall(np.asarray([0, 1, 1]), ks=(1,))
        {'image_to_text_recall_1': 0.5, 'text_to_image_recall_1': 0.5}
    """
    counts = np.bincount(owners)
    num_texts, num_images = len(owners), len(counts)
    found = {}
    for k in ks:
        # No text of c among the first k of M in random order.
        places = np.arange(min(k, num_texts))
        misses = np.prod(np.maximum(num_texts - counts[:, None] - places, 0) / (num_texts - places), axis=1)
        found[f"image_to_text_recall_{k}"] = float(np.mean(1 - misses))
    return {**found, **{f"text_to_image_recall_{k}": min(k / num_images, 1.0) for k in ks}}


def class_vectors(text_z: np.ndarray) -> np.ndarray:
    """[C, d]: the classifier of texts [C, T, d], T templates a class: unit vectors, their mean, a unit vector again.

    Reference: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4.

    Example:
        >>> bool(np.allclose(probes.class_vectors(np.asarray([[[2.0, 0.0], [0.0, 5.0]]])), [[0.5**0.5, 0.5**0.5]]))
        True
    """
    return _unit(_unit(text_z).mean(axis=1))


def zero_shot_accuracy(image_z: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Mapping[str, float]:
    """The share of labelled images whose class has the nearest vector: "top_1", and "top_5" of six classes or more.

    Args:
        image_z: [N, d].
        labels: int [N], -1 for images that do not count.
        classes: [C, d], see `class_vectors`.

    Raises:
        InputError: no image has a label.

    Example:
        >>> probes.zero_shot_accuracy(np.eye(2), np.asarray([0, 0]), np.eye(2))
        {'top_1': 0.5}
    """
    known = np.asarray(labels) >= 0
    if not known.any():
        raise base.InputError("zero_shot_accuracy needs labelled images; got none. Use images in class folders.")
    own = np.asarray(labels)[known][:, None] == np.arange(len(classes))
    ranks = _best_ranks(_unit(image_z[known]), _unit(classes), own)
    return {f"top_{k}": float(np.mean(ranks < k)) for k in (1, 5) if k < len(classes)}


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def _best_ranks(queries: np.ndarray, candidates: np.ndarray, own: np.ndarray) -> np.ndarray:
    """int [N]: how many candidates stand before the first of the own ones, bool [N, M]."""
    rows = max(_BLOCK // max(len(candidates), 1), 1)
    ranks = []
    for start in range(0, len(queries), rows):
        s, mine = queries[start : start + rows] @ candidates.T, own[start : start + rows]
        place = np.argmax(np.where(mine, s, -np.inf), axis=1)[:, None]
        best = np.take_along_axis(s, place, axis=1)
        before = (s > best) | ((s == best) & (np.arange(s.shape[1]) < place))
        # NaN is before nothing: it would be found first.
        ranks.append(np.where(np.isfinite(best[:, 0]), before.sum(axis=1), np.iinfo(np.int64).max))
    return np.concatenate(ranks)
