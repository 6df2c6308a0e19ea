"""A comparison of numbers that a test asserts, and that `make parity` puts into docs/parity.md as part of a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

# What a tolerance is multiplied by -> how the page says it; any other wording needs the scale in the comparison.
SCALES: dict[str, Callable[[np.ndarray], Any]] = {
    "absolute": lambda theirs: 1.0,
    "of largest entry": lambda theirs: np.abs(theirs).max(),
    "of each value": lambda theirs: np.abs(theirs),
}
LARGEST, EACH = "of largest entry", "of each value"


class Compared(NamedTuple):
    """One comparison: whose numbers, the tolerance, and the largest errors.

    component, source: together they name the row of the page. limit: the tolerance, times what `of` says; 0 asks for
    equality. absolute, relative: the largest error, and over the largest entry of theirs or, where a scale was given,
    over that; NaN where there is none. excess: the largest error over what is allowed.
    """

    component: str
    source: str
    limit: float
    of: str
    absolute: float
    relative: float
    excess: float

    @property
    def holds(self) -> bool:
        """Whether the numbers agree; NaN does not."""
        return self.excess <= 1


def measure(
    component: str,
    ours: Any,
    theirs: Any,
    *,
    limit: float = 0.0,
    of: str = "absolute",
    scale: Any = None,
    source: str = "TF2",
) -> Compared:
    """The errors of `ours`, an array like `theirs`; see `Compared`. A `scale` takes the place of what `of` names.

    Raises:
        ValueError: the shapes differ, or `of` names a scale that is not known and was not given.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{component}: shapes differ, ours {ours.shape}, theirs {theirs.shape}")
    if scale is None and of not in SCALES:
        raise ValueError(f"{component}: a tolerance {of!r} needs a scale")
    given = scale is not None
    scale = np.asarray(scale if given else SCALES[of](theirs), np.float64)
    with np.errstate(all="ignore"):  # infinity and NaN fail below
        error = np.abs(ours - theirs)
        # Where nothing at all is allowed, equality is what is asked for.
        excess = np.where(error == 0, 0.0, error / np.maximum(limit * scale, np.finfo(float).tiny))
        relative = (error / scale if given else error / np.abs(theirs).max()).max()
    # Plain numbers: pytest's workers send them to each other, and cannot send NumPy's.
    return Compared(component, source, float(limit), of, *map(float, (error.max(), relative, excess.max())))


@pytest.fixture
def compare(request):
    """`measure`, which fails the test where the numbers do not agree and records the errors for the page."""

    def compare(component: str, ours: Any, theirs: Any, **tolerance: Any) -> None:
        found = measure(component, ours, theirs, **tolerance)
        request.node.user_properties.append(("compared", list(found)))
        assert found.holds, (
            f"{component}, {found.source}: {found.absolute:.2e}, {found.excess:.2e} times what is allowed"
        )

    return compare


@pytest.fixture
def effect(request):
    """Records the measured size of an intended difference, and fails the test where it is not the expected one."""

    def effect(topic: str, text: str, value: float, *, low: float, high: float) -> None:
        """`text` says `value`, which must lie in [low, high], in words with its unit."""
        request.node.user_properties.append(("effect", [topic, text]))
        assert low <= value <= high, f"{topic}: {value:.3g} is not in [{low:g}, {high:g}]"

    return effect
