"""Losses of the family against recorded values and gradients: all cases of a file in one compiled program.

Names, cases and tolerances are those of tests/golden/README.md, section on the family.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import golden, parity

Arrays = Mapping[str, Any]
Form = Callable[[Arrays], tuple[jax.Array, Any]]


def load(name: str) -> dict[str, np.ndarray]:
    return golden.load(f"family/{name}")


def cases(arrays: Arrays, leaf: str) -> list[str]:
    """The cases that have an array `leaf`."""
    return [name.removesuffix(f"/{leaf}") for name in arrays if name.endswith(f"/{leaf}")]


def rows(names: list[str]) -> list[Any]:
    """Parameters (case, dtype) of a test: every third case in float32 is fast."""
    return [
        pytest.param(case, dtype, marks=() if dtype == "float32" and not number % 3 else pytest.mark.slow)
        for number, case in enumerate(names)
        for dtype in ("float32", "float64")
    ]


def program(names: list[str], case: str) -> tuple[str, ...]:
    """The cases that are compiled together with `case`: all fast ones, or all others."""
    fast = names[::3]
    return tuple(fast if case in fast else [name for name in names if name not in fast])


def own(arrays: Arrays, case: str) -> dict[str, np.ndarray]:
    """What a case has, by last name; numbers as Python's."""
    found = {name.removeprefix(f"{case}/"): value for name, value in arrays.items() if name.startswith(f"{case}/")}
    return {name: value if value.ndim else value.item() for name, value in found.items() if "/" not in name}


def run(arrays: Arrays, names: Iterable[str], form: Form, *, inputs: tuple[str, ...], dtype: str) -> dict[str, Any]:
    """{case: ((loss, metrics), {input: gradient})} of `form`, which gets a case's arrays and numbers by name."""
    with jax.enable_x64(dtype == "float64"):
        chosen = {case: own(arrays, case) for case in names}
        given = {case: {name: jnp.asarray(values[name], dtype) for name in inputs} for case, values in chosen.items()}
        rest = {
            case: {
                name: jnp.asarray(value, dtype if value.dtype.kind == "f" else None)
                for name, value in values.items()
                if isinstance(value, np.ndarray) and name not in inputs and "f64" not in name and "alt" not in name
            }
            for case, values in chosen.items()
        }

        @jax.jit
        def all_cases(given, rest):
            return {
                case: jax.value_and_grad(lambda x, case=case: form({**chosen[case], **rest[case], **x}), has_aux=True)(
                    given[case]
                )
                for case in given
            }

        return jax.device_get(all_cases(given, rest))


def check(
    arrays: Arrays,
    case: str,
    result: Any,
    *,
    dtype: str,
    compare: tuple[Callable[..., None], str],
    gradient_tolerance: float = 2e-5,
    zero: tuple[str, ...] = (),
) -> None:
    """Loss and gradients of a case are the recorded ones, up to the tolerances of the files' README.

    `compare` is the fixture and the name of the loss on its page. The true gradient of the cases `zero` is 0 but for
    the rounding of their inputs.
    """
    compares, name_of_loss = compare
    words = f"{name_of_loss}, {'f64' if dtype == 'float64' else 'f32'}"
    (loss, metrics), gradients = result
    values = own(arrays, case)
    cold = values.get("temperature", 1.0) < 0.1 or "log_scale" in values
    of_loss, of_gradient = (1e-10, 1e-8) if dtype == "float64" else (1e-5 if cold else 2e-6, gradient_tolerance)
    assert loss.dtype == dtype and loss.shape == ()
    recorded = values["loss_f64"]
    of = {"of": "of max(value, 1)", "scale": max(1, abs(recorded)), "source": "official code"}
    compares(f"{words}, loss", loss, recorded, limit=of_loss, **of)
    assert all(metric.dtype == dtype and np.isfinite(metric) for metric in metrics.values())
    for name, gradient in gradients.items():
        if f"grad_{name}_f64" not in values:  # of `leak`, whose source keeps what should be left out
            assert np.isfinite(gradient).all()
            continue
        expected = np.asarray(values[f"grad_{name}_f64"])
        largest = np.abs(expected).max()
        if case in zero or largest < (1e-12 if dtype == "float64" else 1e-7):  # zero, or but for rounded inputs
            rows = np.atleast_1d(np.asarray(values[name], np.float64))
            smallest = np.linalg.norm(rows, axis=-1).min() if rows.ndim > 1 else 1.0
            assert np.abs(gradient).max() <= 1e-5 / (values.get("temperature", 1.0) * smallest)
        else:
            of = {"of": parity.LARGEST, "source": "official code"}
            compares(f"{words}, gradient", gradient, expected, limit=of_gradient, **of)


def directional(oracle: Callable[..., float], given: tuple[np.ndarray, ...], along: tuple[np.ndarray, ...]) -> float:
    """The derivative of an oracle in float64 by central differences."""
    step = 1e-5
    ahead, behind = (oracle(*(x + sign * step * d for x, d in zip(given, along, strict=True))) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


def check_oracle(form: Callable[..., Any], oracle: Callable[..., float], *given: np.ndarray) -> None:
    """Value and gradient of `form` in float64 are those of a float64 restatement at float64 arrays `given`."""
    rng = np.random.default_rng(1)
    along = tuple(rng.normal(size=x.shape) for x in given)
    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(lambda x: form(*x)[0]))
        value, gradient = jax.device_get(both(tuple(jnp.asarray(x) for x in given)))
    expected = oracle(*given)
    assert abs(value - expected) <= 1e-10 * max(1, abs(expected))
    slope = sum(float(np.sum(g * d)) for g, d in zip(gradient, along, strict=True))
    scale = sum(float(np.sum(np.abs(g * d))) for g, d in zip(gradient, along, strict=True))
    assert scale > 0
    # A central difference in float64 with a step of 1e-5 has about eight digits.
    assert abs(slope - directional(oracle, given, along)) <= 1e-6 * scale
