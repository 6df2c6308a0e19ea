"""What is wrong with a run, in plain sentences: from numbers that were measured anyway to a cause and a remedy."""

from collections.abc import Mapping
from typing import NamedTuple

# Below this deviation (of 1) all images have the same features: cosines above 0.9999.
_IDENTICAL = 0.01
_NEARLY_ONE_DIRECTION = 1.1
# A loss this near to that of equal embeddings, as a share of it, has not moved.
_STUCK = 0.02
_HIGH_TEMPERATURE, _LOW_TEMPERATURE = 1.0, 0.02


class Signs(NamedTuple):
    """What was measured; None or empty where it was not.

    scores: of `label_free_scores`. num_features: D. finite_share: of the features, in [0, 1].
    loss, uninformed_loss: of late, and that of equal embeddings. temperature: of the method's loss.
    dtype: in which the network computes. knn, untrained_knn: accuracy of the trained and of the same untrained network,
        in [0, 1], with knn_error the standard error of their difference.
    target: of a method with a momentum network "still" (it has not moved although the trained network has) or "same"
        (it is the trained network itself); "" if neither.
    """

    scores: Mapping[str, float] = {}
    num_features: int | None = None
    finite_share: float = 1.0
    loss: float | None = None
    uninformed_loss: float | None = None
    temperature: float | None = None
    dtype: str = "float32"
    knn: float | None = None
    untrained_knn: float | None = None
    knn_error: float = 0.0
    target: str = ""


def diagnose(signs: Signs) -> list[str]:
    """Sentences on what is wrong, the gravest first; empty if nothing is.

    Example:
        >>> probes.diagnose(probes.Signs(finite_share=0.5, dtype="bfloat16"))[0][:42]
        '50 % of the features are NaN or infinite, '
    """
    found = [_not_finite(signs), _dead_target(signs), _identical(signs), _stuck(signs), _below_untrained(signs)]
    return [sentence for sentence in found if sentence]


def _not_finite(signs: Signs) -> str:
    if signs.finite_share >= 1:
        return ""
    precision = f"computed in {signs.dtype}"
    remedy = "Set encoder.dtype=float32" if signs.dtype != "float32" else "Lower schedule.base_learning_rate"
    share = 100 * (1 - signs.finite_share)
    return (
        f"{share:.3g} % of the features are NaN or infinite, {precision}: no score means anything. {remedy}, and start "
        "from a checkpoint before."
    )


def _dead_target(signs: Signs) -> str:
    if signs.target == "still":
        return (
            "The momentum network has not moved although the trained one has: it teaches what it knew at random. Lower "
            "method.target_decay below 1."
        )
    if signs.target == "same":
        return (
            "The momentum network is the trained one itself, bit for bit: there is no slow teacher. Raise "
            "method.target_decay above 0, for example to 0.99."
        )
    return ""


def _identical(signs: Signs) -> str:
    deviation, rank = (signs.scores.get(name) for name in ("feature_deviation", "effective_rank"))
    if deviation is not None and deviation < _IDENTICAL:
        return (
            f"All images have nearly the same features (their directions deviate by {deviation:.2g} where 1 is evenly "
            "spread): the representation has collapsed. Lower schedule.base_learning_rate, and look at the views."
        )
    if rank is not None and rank < _NEARLY_ONE_DIRECTION and (signs.num_features or 0) > 2:
        return (
            f"Nearly all that differs between features lies in one direction of {signs.num_features} (effective rank "
            f"{rank:.2f}): the representation has collapsed in the others. Look at the views: one easy property may "
            "tell all images apart."
        )
    return ""


def _stuck(signs: Signs) -> str:
    loss, uninformed = signs.loss, signs.uninformed_loss
    if loss is None or not uninformed or abs(loss - uninformed) > _STUCK * abs(uninformed):
        return ""
    sentence = f"The loss, {loss:.3f}, is that of embeddings which are all the same ({uninformed:.3f})"
    temperature = signs.temperature
    if temperature is not None and temperature >= _HIGH_TEMPERATURE:
        return (
            f"{sentence}: at a temperature of {temperature:g} similarities, which lie between -1 and 1, hardly count. "
            "Set method.temperature between 0.05 and 0.5."
        )
    if temperature is not None and temperature <= _LOW_TEMPERATURE:
        return (
            f"{sentence}: at a temperature of {temperature:g} only the single most similar image counts. Set "
            "method.temperature between 0.05 and 0.5."
        )
    # Losses of several terms pass through that value while they fall, and long queues keep others near it.
    knn, untrained = signs.knn, signs.untrained_knn
    if knn is not None and untrained is not None and knn > untrained + 2 * signs.knn_error:
        return ""
    return f"{sentence}: nothing has been learned. Change schedule.base_learning_rate, or train longer."


def _below_untrained(signs: Signs) -> str:
    if signs.knn is None or signs.untrained_knn is None or signs.knn >= signs.untrained_knn - 2 * signs.knn_error:
        return ""
    return (
        f"kNN gets {100 * signs.knn:.1f} % on the trained features and {100 * signs.untrained_knn:.1f} % on those of "
        "the same network untrained: the training has destroyed more than it has learned. Look at the views and at the "
        "learning rate."
    )
