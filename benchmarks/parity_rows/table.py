"""What a comparison is, how it is run and when it fails; no comparison of its own.

A `Row` compares numbers that should be equal. A `Difference` measures the effect of something that two
implementations do differently on purpose, and fails when the effect is not of the expected size.
"""

import importlib.util
import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

PASS, FAIL, ERROR = "pass", "FAIL", "ERROR"

# What a tolerance is multiplied by; any other wording needs the scale in every case.
ABSOLUTE, LARGEST, EACH, EXACT = "absolute", "of largest entry", "of each value", "exact"


class Case(NamedTuple):
    """One comparison inside a row: two arrays of one shape, and what the row's tolerance is multiplied by.

    scale: None for the scale that the row's `relative_to` names.
    """

    ours: Any
    reference: Any
    scale: Any = None


class Row(NamedTuple):
    """One line of the parity table.

    limit: tolerance, times the scale that `relative_to` names.
    cases: makes the cases when the row is run.
    needs: import names of the packages without which the row cannot run.
    """

    component: str
    reference: str
    limit: float
    relative_to: str
    cases: Callable[[], Iterable[Case]]
    needs: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What running a row gave. Errors are NaN and num_cases is 0 if nothing was compared."""

    row: Row
    num_cases: int
    max_abs: float
    max_rel: float
    verdict: str


class Effect(NamedTuple):
    """The measured size of a difference: `value` must lie in [low, high]; `text` says it in words, with unit."""

    value: float
    low: float
    high: float
    text: str


class Difference(NamedTuple):
    """One line of the table of intended differences.

    ours, others: what this project and the others do. switch: the option that changes it, or why there is none.
    """

    topic: str
    ours: str
    others: str
    measure: Callable[[], Effect]
    switch: str
    needs: tuple[str, ...] = ()


class Measured(NamedTuple):
    """What measuring a difference gave."""

    difference: Difference
    text: str
    verdict: str


def missing(needs: Sequence[str]) -> list[str]:
    """The packages of `needs` that are not installed."""
    return [name for name in needs if importlib.util.find_spec(name) is None]


def failed(verdict: str) -> bool:
    """Whether a verdict makes the run fail: all but a pass and a missing package."""
    return verdict.startswith((FAIL, ERROR))


def run_row(row: Row) -> Outcome:
    """Runs a row; an exception and a row without cases are failures, a missing package is not."""
    absent = missing(row.needs)
    if absent:
        return Outcome(row, 0, math.nan, math.nan, f"not installed: {', '.join(absent)}")
    try:
        errors = [_errors(case, row) for case in row.cases()]
    except Exception as error:
        traceback.print_exc()
        return Outcome(row, 0, math.nan, math.nan, _error_verdict(error))
    if not errors:
        return Outcome(row, 0, math.nan, math.nan, f"{ERROR}: no case was compared")
    absolute, relative, excess = (np.asarray(column, float) for column in zip(*errors, strict=True))
    # Written so that NaN fails.
    verdict = PASS if bool((excess <= 1).all()) else FAIL
    known = relative[~np.isnan(relative)]
    return Outcome(row, len(errors), float(absolute.max()), float(known.max()) if len(known) else math.nan, verdict)


def run_difference(difference: Difference) -> Measured:
    """Measures a difference; an exception is a failure, a missing package is not."""
    absent = missing(difference.needs)
    if absent:
        return Measured(difference, "", f"not installed: {', '.join(absent)}")
    try:
        effect = difference.measure()
    except Exception as error:
        traceback.print_exc()
        return Measured(difference, "", _error_verdict(error))
    inside = effect.low <= effect.value <= effect.high
    verdict = PASS if inside else f"{FAIL}: {effect.value:.3g} is not in [{effect.low:g}, {effect.high:g}]"
    return Measured(difference, effect.text, verdict)


def _error_verdict(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{ERROR}: {type(error).__name__}: {lines[0][:120]}"


def _errors(case: Case, row: Row) -> tuple[float, float, float]:
    """(largest absolute error, largest relative error, largest error over tolerance)."""
    ours, reference = np.asarray(case.ours, np.float64), np.asarray(case.reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, reference {reference.shape}")
    error = np.abs(ours - reference)
    absolute, largest = float(error.max()), float(np.abs(reference).max())
    scale = _scale(case, row.relative_to, reference)
    allowed = row.limit * scale
    # Where nothing at all is allowed, equality is what is asked for.
    excess = np.where(error == 0, 0.0, error / np.maximum(allowed, np.finfo(float).tiny))
    # Over the largest entry of the reference, or over what a case is compared with in its place.
    relative = float((error / scale).max()) if case.scale is not None else absolute / largest if largest else math.nan
    return absolute, relative, float(excess.max())


def _scale(case: Case, relative_to: str, reference: np.ndarray) -> np.ndarray:
    if case.scale is not None:
        return np.asarray(case.scale, np.float64)
    scales = {ABSOLUTE: lambda: 1.0, EXACT: lambda: 1.0, LARGEST: lambda: np.abs(reference).max()}
    scales[EACH] = lambda: np.abs(reference)
    if relative_to not in scales:
        raise ValueError(f"a tolerance {relative_to!r} needs the scale of every case")
    return np.asarray(scales[relative_to](), np.float64)
