"""NT-Xent against the reference's values and gradients, a loop, and the properties it must have."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import base, losses
from tests import golden, oracles, parity

GOLDEN = golden.load("nt_xent")
CASES = [f"{name}/{kind}" for name in GOLDEN["case_names"].tolist() for kind in ("norm", "raw")]
CASES = [case for case in CASES if f"{case}/temperature" in GOLDEN]
CASES_FLOAT32 = [case for case in CASES if case.startswith(("n4_d8", "n8_d16", "n64_d128"))]


def golden_input(case: str) -> np.ndarray:
    """z [B, 2, d] of a case, float32: the file has the rows of view 1, then those of view 2."""
    hidden = GOLDEN[f"hidden/{GOLDEN[f'{case}/hidden_key']}"] * GOLDEN[f"{case}/hidden_scale"]
    assert hidden.dtype == np.float32
    return hidden.reshape(2, -1, hidden.shape[1]).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="normalize")
def value_and_gradient(z, temperature, normalize):
    def total(z):
        loss, metrics = losses.nt_xent(z, temperature=temperature, normalize=normalize)
        return 2 * loss, metrics

    return jax.value_and_grad(total, has_aux=True)(z)


def evaluate(z: np.ndarray, *, temperature: float, normalize: bool = True):
    """Loss, metrics and gradient, as the reference lays them out: sum over both views, gradient [2B, d]."""
    temperature = jnp.asarray(temperature, z.dtype)  # traced, so that cases of one shape share a compilation
    (loss, metrics), gradient = jax.device_get(value_and_gradient(jnp.asarray(z), temperature, normalize))
    return loss, metrics, gradient.swapaxes(0, 1).reshape(-1, z.shape[-1])


def compare_gradient(case: str, gradient: np.ndarray, *, compare, words: str, limit: float) -> None:
    """The norm of the gradient, which is stored for every case, and the rows that are stored."""
    if "identical" in case:
        # All logits tie and the true gradient is zero: compared with 1 / temperature, float32 with a half of it.
        scale = (0.5 if gradient.dtype == np.float32 else 1.0) / GOLDEN[f"{case}/temperature"]
        compare(words, gradient, np.zeros_like(gradient), limit=limit, of=parity.LARGEST, scale=scale)
        return
    norm = np.sqrt(np.sum(np.square(gradient, dtype=np.float64)))
    compare(words, norm, GOLDEN[f"{case}/grad_norm_f64"], limit=limit, of=parity.LARGEST)
    stored = GOLDEN.get(f"{case}/grad_f64")
    if stored is not None:
        rows = GOLDEN.get(f"{case}/grad_rows", np.arange(len(gradient)))
        compare(words, gradient[rows], stored, limit=limit, of=parity.LARGEST)


# A loss of raw rows can be a sum of exponentials with few float32 digits: below this it is compared absolutely.
SMALLEST = 1e-2


def compare_all(case: str, values, *, compare, words: str, limit: float) -> None:
    """Loss, gradient and metrics of `evaluate`; the gradient is allowed twice `limit` in float32."""
    loss, metrics, gradient = values
    expected, single = GOLDEN[f"{case}/loss_f64"], loss.dtype == np.float32
    scale = max(abs(float(expected)), SMALLEST)
    compare(f"loss, {words}", loss, expected, limit=limit, of=parity.EACH, scale=scale)
    entropy = GOLDEN[f"{case}/contrast_entropy_f64"]
    compare(f"contrastive entropy, {words}", metrics["contrastive_entropy"], entropy, limit=limit)
    if "identical" not in case:
        accuracy = GOLDEN[f"{case}/contrast_acc"]
        compare(f"contrastive accuracy, {words}", metrics["contrastive_accuracy"], accuracy)
    compare_gradient(case, gradient, compare=compare, words=f"gradient, {words}", limit=2 * limit if single else limit)


@pytest.mark.few(6)
@pytest.mark.parametrize("case", CASES_FLOAT32)
def test_nt_xent_equals_the_reference_in_float32(case, compare):
    temperature, normalize = float(GOLDEN[f"{case}/temperature"]), case.endswith("norm")
    values = evaluate(golden_input(case), temperature=temperature, normalize=normalize)
    assert values[0].dtype == np.float32 and values[0].shape == ()
    compare_all(case, values, compare=compare, words="f32", limit=1e-5)


@pytest.mark.few(6)
@pytest.mark.parametrize("case", CASES)
def test_nt_xent_equals_the_reference_in_float64(case, compare):
    temperature, normalize = float(GOLDEN[f"{case}/temperature"]), case.endswith("norm")
    with jax.enable_x64(True):
        z = golden_input(case).astype(np.float64)
        values = evaluate(z, temperature=temperature, normalize=normalize)
    compare_all(case, values, compare=compare, words="f64", limit=1e-10)


# m, d, temperature, loss (sum of both views), accuracy, entropy, gradient norm, gradient[0, :3] of sine-shaped rows.
TABLE = [
    (4, 8, 1.0, 2.672226, 1.0, 1.297414, 0.490854, (0.0557941, -0.0517280, -0.0638437)),
    (4, 8, 0.5, 1.807770, 1.0, 1.093612, 0.807893, (0.0836517, -0.0888251, -0.1007821)),
    (4, 8, 0.1, 0.099779, 1.0, 0.089118, 0.525713, (0.0484810, -0.0595017, -0.0638650)),
    (3, 4, 0.5, 5.071766, 0.0, 0.678542, 2.206182, (0.2433247, 0.1245671, -0.4362400)),
    (3, 4, 0.1, 19.128424, 0.0, 0.080325, 12.445689, (-0.1931453, 0.9101021, -0.8853054)),
]


def sine_rows(m: int, d: int) -> np.ndarray:
    i, j = np.arange(2 * m)[:, None], np.arange(d)
    rows = np.sin(1 + 1.3 * i + 0.7 * j + 0.1 * i * j).astype(np.float32)
    return rows.reshape(2, m, d).swapaxes(0, 1)


@pytest.mark.parametrize(("m", "d", "temperature", "loss", "accuracy", "entropy", "norm", "first"), TABLE)
def test_nt_xent_equals_recorded_values_on_sine_rows(m, d, temperature, loss, accuracy, entropy, norm, first):
    ours, metrics, gradient = evaluate(sine_rows(m, d), temperature=temperature)
    # The recorded values have six decimals.
    assert ours == pytest.approx(loss, rel=1e-5, abs=6e-7)
    assert metrics["contrastive_accuracy"] == accuracy
    assert metrics["contrastive_entropy"] == pytest.approx(entropy, abs=1e-5)
    assert np.linalg.norm(gradient) == pytest.approx(norm, rel=2e-5)
    np.testing.assert_allclose(gradient[0, :3], first, rtol=0, atol=2e-5 * np.abs(gradient).max())


@pytest.mark.parametrize(("m", "d", "loss"), [(4, 8, 0.792134), (3, 4, 5.168035)])
def test_nt_xent_without_normalisation_equals_recorded_values(m, d, loss):
    assert evaluate(sine_rows(m, d), temperature=1.0, normalize=False)[0] == pytest.approx(loss, rel=1e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("batch_size", "dim"), [(1, 3), (2, 1), (5, 7)])
def test_nt_xent_equals_the_loop_over_anchors(batch_size, dim, normalize):
    z = np.random.default_rng(batch_size).normal(size=(batch_size, 2, dim)).astype(np.float32)
    expected = 2 * oracles.nt_xent(z, temperature=0.3, normalize=normalize)
    loss, _, _ = evaluate(z, temperature=0.3, normalize=normalize)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_equal_embeddings_have_the_collapse_value(batch_size):
    loss, _, _ = evaluate(np.ones((batch_size, 2, 8), np.float32), temperature=0.1)
    # The sum of 2B-1 ones is exact; the logarithm has float32 accuracy.
    assert loss == pytest.approx(2 * losses.collapse_value(batch_size), rel=1e-6, abs=1e-7)


def test_collapse_value_is_half_of_the_recorded_reference_line():
    # Recorded from a float32 run.
    recorded = {4: 3.891820, 256: 12.472739, 512: 13.860991, 4096: 18.021583}
    for batch_size, twice in recorded.items():
        assert 2 * losses.collapse_value(batch_size) == pytest.approx(twice, abs=2e-6)


hypothesis.settings.register_profile("losses", deadline=None, max_examples=20, derandomize=True, database=None)
PROFILE = hypothesis.settings.get_profile("losses")
seeds = st.integers(0, 2**31 - 1)


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(5, 2, 3)).astype(np.float32)


def nt_xent_of(z: np.ndarray) -> float:
    return evaluate(z, temperature=0.5)[0]


@PROFILE
@hypothesis.given(seeds, st.permutations(range(5)))
def test_nt_xent_is_invariant_to_row_order(seed, order):
    z = draw(seed)
    # Only the order of sums changes: a few units of float32 rounding.
    assert nt_xent_of(z[order]) == pytest.approx(nt_xent_of(z), rel=1e-5)


@PROFILE
@hypothesis.given(seeds)
def test_nt_xent_is_invariant_to_swapping_the_views(seed):
    z = draw(seed)
    assert nt_xent_of(z[:, ::-1]) == pytest.approx(nt_xent_of(z), rel=1e-5)


@PROFILE
@hypothesis.given(seeds, st.floats(0.01, 1000))
def test_nt_xent_is_invariant_to_the_length_of_the_embeddings(seed, scale):
    z = draw(seed)
    assert nt_xent_of(z * np.float32(scale)) == pytest.approx(nt_xent_of(z), rel=1e-5)


@PROFILE
@hypothesis.given(seeds)
def test_gradient_is_orthogonal_to_every_embedding(seed):
    z = draw(seed)
    _, _, gradient = evaluate(z, temperature=0.5)
    rows = z.swapaxes(0, 1).reshape(gradient.shape)
    radial = np.abs(np.sum(gradient * rows, axis=1))
    lengths = np.linalg.norm(gradient, axis=1) * np.linalg.norm(rows, axis=1)
    assert (radial <= 1e-5 * lengths + 1e-6).all()


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e3])
def test_nt_xent_stays_finite_at_extreme_temperatures(temperature):
    z = np.random.default_rng(0).normal(size=(8, 2, 16)).astype(np.float32)
    loss, metrics, gradient = evaluate(z, temperature=temperature)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert all(np.isfinite(value) for value in metrics.values())
    # The error of a logit is 1e-7 / temperature.
    expected = 2 * oracles.nt_xent(z, temperature=temperature)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_zero_embeddings_have_a_finite_gradient():
    z = np.random.default_rng(0).normal(size=(4, 2, 8)).astype(np.float32)
    z[1] = 0
    loss, _, gradient = evaluate(z, temperature=0.1)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_bfloat16_embeddings_are_compared_in_float32():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 16)), jnp.bfloat16)
    loss, metrics = jax.jit(lambda z: losses.nt_xent(z, temperature=0.1))(z)
    exact, _, _ = evaluate(np.asarray(z.astype(jnp.float32)), temperature=0.1)
    assert loss.dtype == jnp.float32 and 2 * float(loss) == pytest.approx(float(exact), rel=1e-6)
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}


def test_entropy_of_equal_embeddings_is_the_logarithm_of_the_batch_size():
    _, metrics, _ = evaluate(np.ones((4, 2, 8), np.float32), temperature=0.1)
    assert metrics["contrastive_entropy"] == pytest.approx(math.log(4), abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 8), (8, 8), (4, 1, 8)])
def test_nt_xent_refuses_anything_but_two_views(shape):
    with pytest.raises(base.InputError, match=r"must have shape \[B, 2, d\]; got"):
        losses.nt_xent(jnp.zeros(shape), temperature=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_nt_xent_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(base.InputError, match="temperature must be above 0"):
        losses.nt_xent(jnp.zeros((4, 2, 8)), temperature=temperature)


TF1 = golden.load("losses_tf1")
WEIGHTED = TF1["nt_xent_weights/case_names"].tolist()
REPLICAS = {2: golden.load("replicas_2"), 4: golden.load("replicas_4")}
REPLICA_CASES = [(r, c) for r, arrays in REPLICAS.items() for c in arrays["case_names"].tolist() if "nt_xent" in c]


def as_pairs(hidden: np.ndarray) -> np.ndarray:
    """Rows of view 1, then of view 2 -> [B, 2, d]."""
    return hidden.reshape(2, -1, hidden.shape[-1]).swapaxes(0, 1)


@jax.jit
def weighted_value_and_gradient(z, temperature, weights):
    def total(z):
        return 2 * losses.nt_xent(z, temperature=temperature, weights=weights)[0]

    return jax.value_and_grad(total)(z)


@pytest.mark.few(6)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("case", WEIGHTED)
def test_weighted_nt_xent_equals_the_first_reference_code(case, dtype, tolerance, compare):
    with jax.enable_x64(dtype == "float64"):
        arguments = (as_pairs(TF1[f"{case}/hidden"]), TF1[f"{case}/temperature"], TF1[f"{case}/weights"])
        value = weighted_value_and_gradient(*(jnp.asarray(argument, dtype) for argument in arguments))
        loss, gradient = jax.device_get(value)
    short = dtype.replace("loat", "")
    compare(f"weighted loss, {short}", loss, TF1[f"{case}/loss_f64"], limit=tolerance, of=parity.EACH, source="TF1")
    # The recorded gradient is float32 (also beside a loss in float64), as good as that of nt_xent: 2e-5.
    expected = TF1[f"{case}/grad"]
    ours = gradient.swapaxes(0, 1).reshape(expected.shape)
    compare(f"weighted gradient, {short}", ours, expected, limit=2e-5, of=parity.LARGEST, source="TF1")


@pytest.mark.few(6)
@pytest.mark.parametrize("case", [c for c in CASES if f"nt_xent_tf1_loss/{c}" in TF1])
def test_nt_xent_equals_the_first_reference_code(case, compare):
    loss, _, _ = evaluate(
        golden_input(case), temperature=float(GOLDEN[f"{case}/temperature"]), normalize=case.endswith("norm")
    )
    expected = float(TF1[f"nt_xent_tf1_loss/{case}"])
    scale = max(abs(expected), SMALLEST)
    compare("loss, f32", loss, expected, limit=1e-5, of=parity.EACH, scale=scale, source="TF1")


@pytest.mark.few(2)
@pytest.mark.parametrize(("num_replicas", "case"), REPLICA_CASES)
def test_nt_xent_of_the_global_batch_equals_the_mean_over_the_replicas_of_the_reference(num_replicas, case, compare):
    arrays = REPLICAS[num_replicas]
    temperature = float(arrays[f"{case}/temperature"])
    # Every replica has the rows of view 1, then of view 2, of its own images.
    z = np.concatenate([as_pairs(hidden) for hidden in arrays[f"{case}/hidden_per_replica"]])
    losses_of_replicas, gradients = (
        arrays[f"{case}/{name}"] for name in ("loss_per_replica", "gradient_of_local_loss_over_replicas")
    )
    source = "TF2, 2 and 4 replicas"
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            loss, metrics, gradient = evaluate(z.astype(dtype), temperature=temperature)
        words = "global batch {}, " + dtype.replace("loat", "")
        mean = losses_of_replicas.astype(np.float64).mean()
        compare(words.format("loss"), loss, mean, limit=1e-5, of=parity.EACH, source=source)
        assert metrics["contrastive_accuracy"] == pytest.approx(arrays[f"{case}/contrast_acc_per_replica"].mean())
        ours = as_pairs(gradient).reshape(num_replicas, -1, 2, z.shape[-1]).swapaxes(1, 2).reshape(gradients.shape)
        compare(words.format("gradient"), ours, gradients, limit=2e-5, of=parity.LARGEST, source=source)
    exact = arrays[f"{case}/global_gradient_f64"]
    compare("global batch, recorded in f64", ours.reshape(exact.shape), exact, limit=1e-10, of=parity.LARGEST)
    exact = arrays[f"{case}/global_batch_loss_f64"]
    compare("global batch, recorded in f64", loss, exact, limit=1e-10, of=parity.LARGEST)


def test_an_image_of_weight_zero_remains_a_candidate_of_the_others():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 8)), jnp.float32)
    weights = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    whole, _ = weighted_value_and_gradient(z, jnp.asarray(0.5), weights)
    without, _ = weighted_value_and_gradient(z[:3], jnp.asarray(0.5), weights[:3])
    assert float(whole) > float(without) + 0.05


def test_weights_of_one_give_the_unweighted_loss():
    z = draw(0)
    ours, _ = weighted_value_and_gradient(jnp.asarray(z), jnp.asarray(0.5), jnp.ones(5))
    # Only the order of a sum differs.
    assert float(ours) == pytest.approx(float(nt_xent_of(z)), rel=1e-6)


def test_nt_xent_refuses_weights_of_another_length():
    with pytest.raises(base.InputError, match=r"one per image; got shape \[3\] for 4 images"):
        losses.nt_xent(jnp.zeros((4, 2, 8)), temperature=0.1, weights=jnp.ones(3))
