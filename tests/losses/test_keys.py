"""MoCo, MoCo v3 and NNCLR: recorded values and gradients, float64 restatements, collapse values."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family

FILES = {name: family.load(f"loss_{name}") for name in ("moco", "mocov3", "nnclr")}
FORMS = {
    "moco": lambda case: losses.moco(case["q"], case["k"], case["queue"], temperature=case["temperature"]),
    "mocov3": lambda case: losses.moco_v3(case["q"], case["k"], temperature=case["temperature"]),
    "nnclr": lambda case: losses.nnclr(case["nn"], case["p"], temperature=case["temperature"]),
}
# (what has a gradient, what is constant) of each file.
INPUTS = {"moco": ("q", "k"), "mocov3": ("q", "k"), "nnclr": ("p", "nn")}
ROWS = [
    pytest.param(name, *row.values, marks=row.marks, id=f"{name}-{'-'.join(row.values)}")
    for name, arrays in FILES.items()
    for row in family.rows(family.cases(arrays, "temperature"))
]


@functools.cache
def recorded(name: str, program: tuple[str, ...], dtype: str):
    return family.run(FILES[name], program, FORMS[name], inputs=INPUTS[name], dtype=dtype)


@pytest.mark.few(5)
@pytest.mark.parametrize(("name", "case", "dtype"), ROWS)
def test_a_loss_equals_the_recorded_loss_and_gradient(name, case, dtype, compare):
    names = family.cases(FILES[name], "temperature")
    result, gradients = recorded(name, family.program(names, case), dtype)[case]
    trained, constant = INPUTS[name]
    zero = ("constant", "pair") if name != "moco" else ("constant",)
    assert not gradients[constant].any()
    family.check(
        FILES[name],
        case,
        (result, {trained: gradients[trained]}),
        dtype=dtype,
        compare=(compare, {"moco": "MoCo", "mocov3": "MoCo v3", "nnclr": "NNCLR"}[name]),
        zero=zero,
    )


def units(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True))


def cross_entropy(scores: np.ndarray, own: int) -> float:
    return float(np.log(np.sum(np.exp(scores))) - scores[own])


def test_moco_is_its_definition_in_float64():
    rng = np.random.default_rng(0)
    k, queue = rng.normal(size=(4, 3)), units(rng.normal(size=(6, 3)))

    def oracle(q):
        u, v = units(q), units(k)
        return (
            sum(cross_entropy(np.array([u[i] @ v[i], *(u[i] @ row for row in queue)]) / 0.2, 0) for i in range(4)) / 4
        )

    def form(q):
        return losses.moco(q, jnp.asarray(k), jnp.asarray(queue), temperature=0.2)

    family.check_oracle(form, oracle, rng.normal(size=(4, 3)))


@pytest.mark.parametrize("name", ["moco_v3", "nnclr"])
def test_a_loss_of_both_directions_is_its_definition_in_float64(name):
    rng, temperature = np.random.default_rng(0), 0.3
    other = rng.normal(size=(4, 2, 3))

    def oracle(x):
        anchors, candidates = (x, other) if name == "moco_v3" else (other, x)
        a, c = units(anchors), units(candidates)
        total = sum(
            cross_entropy(np.array([a[i, v] @ c[j, 1 - v] for j in range(4)]) / temperature, i)
            for i in range(4)
            for v in (0, 1)
        )
        return total / 4 * (2 * temperature if name == "moco_v3" else 0.5)

    def form(x):
        first, second = (x, jnp.asarray(other)) if name == "moco_v3" else (jnp.asarray(other), x)
        return getattr(losses, name)(first, second, temperature=temperature)

    family.check_oracle(form, oracle, rng.normal(size=(4, 2, 3)))


def test_equal_embeddings_give_the_collapse_values():
    ones = jnp.ones((6, 2, 4))
    assert float(losses.moco_v3(ones, ones, temperature=0.2)[0]) == pytest.approx(4 * 0.2 * math.log(6), rel=1e-6)
    assert float(losses.nnclr(ones, ones)[0]) == pytest.approx(math.log(6), rel=1e-6)
    queue = jnp.full((5, 4), 0.5)
    assert float(losses.moco(ones[:, 0], ones[:, 1], queue)[0]) == pytest.approx(math.log(6), rel=1e-6)


def test_mistakes_are_refused():
    ones = jnp.ones((4, 2, 8))
    for loss in (losses.moco_v3, losses.nnclr):
        with pytest.raises(base.InputError, match=r"temperature of .* must be above 0; got 0"):
            loss(ones, ones, temperature=0.0)
        with pytest.raises(base.InputError, match=r"\[B, 2, d\]"):
            loss(ones[:, 0], ones[:, 0])
    with pytest.raises(base.InputError, match=r"moco needs queries and keys \[B, d\]"):
        losses.moco(ones, ones, jnp.ones((4, 8)))


def test_nt_xent_with_memory_is_its_definition_in_float64():
    rng = np.random.default_rng(0)
    memory, temperature = units(rng.normal(size=(5, 3))), 0.3

    def oracle(z):
        u = units(z).reshape(-1, 3)  # rows image by image: the other view of row i is i ^ 1
        total = 0.0
        for i in range(8):
            others = [n for n in range(8) if n != i]
            scores = np.array([*(u[i] @ u[n] for n in others), *(u[i] @ row for row in memory)]) / temperature
            total += cross_entropy(scores, others.index(i ^ 1))
        return total / 8

    def form(z):
        return losses.nt_xent_with_memory(z, jnp.asarray(memory), temperature=temperature)

    family.check_oracle(form, oracle, rng.normal(size=(4, 2, 3)))


def test_an_empty_memory_adds_nothing_and_equal_embeddings_give_the_collapse_value():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 4)), jnp.float32)
    ours, _ = losses.nt_xent_with_memory(z, jnp.zeros((0, 4)), temperature=0.2)
    assert float(ours) == pytest.approx(float(losses.nt_xent(z, temperature=0.2)[0]), rel=1e-6)
    equal, _ = losses.nt_xent_with_memory(jnp.ones((6, 2, 4)), jnp.full((9, 4), 0.5))
    assert float(equal) == pytest.approx(math.log(11 + 9), rel=1e-6)
