"""The blockwise and the sharded NT-Xent against the reference, float64, the dense form, and their own promises."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from simclr_jax.distributed import sharding
from simclr_jax.losses import blockwise, cuts
from tests import oracles, parity
from tests.devices import run_on_devices
from tests.losses import test_contrastive as dense

GOLDEN = dense.GOLDEN


# Almost all of the time of these tests is compilation, and this halves it.
_QUICK = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnames=("plan", "normalize"), compiler_options=_QUICK)
def _value_and_gradient(z, scale, plan, normalize):
    def form(z):
        z = z if z.dtype == jnp.float64 else z.astype(jnp.float32)
        return blockwise.nt_xent_in_tiles(losses.l2_normalize(z) if normalize else z, scale, plan)

    return jax.value_and_grad(form, has_aux=True)(z)


@functools.partial(jax.jit, static_argnames="normalize", compiler_options=_QUICK)
def _dense(z, temperature, normalize):
    form = functools.partial(losses.nt_xent, temperature=temperature, normalize=normalize)
    return jax.value_and_grad(form, has_aux=True)(z)


def evaluate(z, *, temperature: float, normalize: bool = True, block_size: int = 512):
    """(loss, metrics, gradient) as of `nt_xent_blockwise`, with 1 / temperature as data: few compilations serve all."""
    z = jnp.asarray(z)
    _, scale, bounded = blockwise.prepare(z, temperature=temperature, block_size=block_size, normalize=normalize)
    plan = cuts.make_tiling(z.shape[0], block_size=block_size, bounded=bounded)
    (loss, metrics), gradient = jax.device_get(_value_and_gradient(z, scale, plan, normalize))
    return loss, metrics, gradient


def exactly(z, *, temperature: float, normalize: bool = True):
    """The dense form in float64, which the golden vectors hold to 1e-10."""
    with jax.enable_x64(True):
        z, temperature = jnp.asarray(z, jnp.float64), jnp.asarray(temperature, jnp.float64)
        (loss, metrics), gradient = jax.device_get(_dense(z, temperature, normalize))
    return float(loss), metrics, gradient


SHAPE, BLOCK = (11, 2, 6), 4  # three blocks a view, the last with padding; shared, so that it is compiled once


def draw(seed: int, shape: tuple[int, int, int], *, alike: float = 0.0) -> np.ndarray:
    """Normal projections; `alike` in [0, 1] pulls the two views of an image together."""
    z = np.random.default_rng(seed).normal(size=shape)
    z[:, 1] = alike * z[:, 0] + (1 - alike) * z[:, 1]
    return z.astype(np.float32)


def check_golden(case: str, *, dtype: str, tolerance: dict[str, float], compare) -> None:
    temperature, normalize = float(GOLDEN[f"{case}/temperature"]), case.endswith("norm")
    z = dense.golden_input(case).astype(dtype)
    # Five rows a tile: no case divides by it, and most have several tiles and padding.
    loss, metrics, gradient = evaluate(z, temperature=temperature, normalize=normalize, block_size=5)
    expected, short = float(GOLDEN[f"{case}/loss_f64"]), dtype.replace("loat", "")
    scale = max(abs(expected), dense.SMALLEST)
    compare(f"blockwise loss, {short}", 2 * loss, expected, limit=tolerance["loss"], of=parity.EACH, scale=scale)
    entropy = float(GOLDEN[f"{case}/contrast_entropy_f64"])
    # The reference's logarithm of p + 1e-8 makes its entropy smaller by up to 1e-8 a candidate.
    above = metrics["contrastive_entropy"] - entropy
    assert -tolerance["entropy"] <= above <= 1e-8 * len(z) + tolerance["entropy"]
    if "identical" not in case:
        assert metrics["contrastive_accuracy"] == pytest.approx(float(GOLDEN[f"{case}/contrast_acc"]), abs=1e-7)
    gradient, words = 2 * gradient.swapaxes(0, 1).reshape(-1, z.shape[-1]), f"blockwise gradient, {short}"
    dense.compare_gradient(case, gradient, compare=compare, words=words, limit=tolerance["gradient"])


@pytest.mark.few(1)
@pytest.mark.parametrize("case", dense.CASES_FLOAT32)
def test_blockwise_equals_the_reference_in_float32(case, compare):
    check_golden(case, dtype="float32", tolerance={"loss": 1e-5, "entropy": 1e-5, "gradient": 2e-5}, compare=compare)


@pytest.mark.parametrize("case", [case for case in dense.CASES if case not in dense.CASES_FLOAT32])
@pytest.mark.slow
def test_blockwise_equals_the_reference_in_float64_in_all_cases(case, compare):
    with jax.enable_x64(True):
        check_golden(
            case, dtype="float64", tolerance={"loss": 1e-10, "entropy": 1e-10, "gradient": 1e-10}, compare=compare
        )


@pytest.mark.parametrize("case", dense.CASES_FLOAT32)
@pytest.mark.slow
def test_blockwise_equals_the_reference_in_float64(case, compare):
    with jax.enable_x64(True):
        check_golden(
            case, dtype="float64", tolerance={"loss": 1e-10, "entropy": 1e-10, "gradient": 1e-10}, compare=compare
        )


@pytest.mark.few(1)
@pytest.mark.parametrize("temperature", [0.005, 0.03, 0.1, 100.0])
def test_blockwise_equals_the_dense_form_in_float64(temperature):
    z = draw(0, SHAPE, alike=0.3)
    with jax.enable_x64(True):
        loss, metrics, gradient = evaluate(z.astype(np.float64), temperature=temperature, block_size=BLOCK)
    expected, expected_metrics, expected_gradient = exactly(z, temperature=temperature)
    assert loss.dtype == np.float64 and loss == pytest.approx(expected, rel=1e-10)
    atol = 1e-10 * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)
    assert metrics["contrastive_accuracy"] == pytest.approx(expected_metrics["contrastive_accuracy"])
    # The dense form has the reference's 1e-8 inside the logarithm.
    assert -1e-12 <= metrics["contrastive_entropy"] - expected_metrics["contrastive_entropy"] <= 1.1e-7


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.6])
def test_float32_is_within_the_stated_error_of_float64(alike):
    """At T >= 0.1 and up to 1024 images: loss 2e-7 relative, gradient 2e-6 of its largest entry."""
    z = draw(1, (1000, 2, 128), alike=alike)
    loss, metrics, gradient = evaluate(z, temperature=0.1)
    expected, expected_metrics, expected_gradient = exactly(z, temperature=0.1)
    assert loss == pytest.approx(expected, rel=2e-7)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=2e-6 * np.abs(expected_gradient).max())
    assert metrics["contrastive_accuracy"] == pytest.approx(expected_metrics["contrastive_accuracy"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.02, 0.03, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_any_temperature_keeps_the_digits_that_float32_logits_have(temperature, alike):
    z = draw(2, SHAPE, alike=alike)
    loss, metrics, gradient = evaluate(z, temperature=temperature, block_size=BLOCK)
    expected, _, expected_gradient = exactly(z, temperature=temperature)
    # A logit s / T has an error of 1.2e-7 / T, which is a relative error of its probability.
    rounding = 1.2e-7 / temperature
    assert loss > 0 and loss == pytest.approx(expected, rel=2e-7 + 4 * rounding)
    assert np.isfinite(gradient).all() and np.isfinite(list(metrics.values())).all()
    atol = (2e-6 + 4 * rounding) * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)


# Between 0.05 and 0.01 even float64 loses what it is asked for here to 1 - p.
@pytest.mark.few(1)
@pytest.mark.parametrize("temperature", [0.005, 0.05, 0.1])
def test_a_small_loss_and_its_gradient_keep_their_digits(temperature):
    """The positive far ahead of everything else: 1 - p would be 0 in float32."""
    directions = np.concatenate([np.eye(6), -np.eye(6)])[: SHAPE[0], None]
    z = (directions + 0.01 * draw(3, SHAPE)).astype(np.float32)
    loss, _, gradient = evaluate(z, temperature=temperature, block_size=BLOCK)
    expected, _, expected_gradient = exactly(z, temperature=temperature)
    if temperature == 0.005:
        assert expected < 1e-80 and loss == 0 and np.abs(gradient).max() < 1e-37, "float32 ends before"
        return
    assert 0 < expected < 2e-3 and loss == pytest.approx(expected, rel=8 * 1.2e-7 / temperature)
    atol = 8 * 1.2e-7 / temperature * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)


@pytest.mark.parametrize("temperature", [0.005, 0.1])
def test_one_pair_has_loss_and_gradient_zero(temperature):
    loss, metrics, gradient = evaluate(draw(0, (1, 2, 4)), temperature=temperature)
    assert loss == 0 and not gradient.any()
    assert metrics["contrastive_accuracy"] == 1 and abs(metrics["contrastive_entropy"]) < 1e-6


@pytest.mark.parametrize("temperature", [0.005, 0.1, 100.0])
def test_equal_rows_have_the_collapse_value(temperature):
    row = np.random.default_rng(0).normal(size=6).astype(np.float32)
    loss, metrics, gradient = evaluate(np.tile(row, (11, 2, 1)), temperature=temperature, block_size=BLOCK)
    assert loss == pytest.approx(losses.collapse_value(11), rel=1e-6)
    assert metrics["contrastive_entropy"] == pytest.approx(math.log(11), abs=1e-5)
    assert metrics["contrastive_accuracy"] == pytest.approx(1 / 11), "of equal candidates the first is chosen"
    assert np.abs(gradient).max() <= 1e-5 / temperature


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_zero_rows_stay_zero_and_keep_the_loss_right(temperature):
    z = draw(4, SHAPE)
    z[[1, 4], 0] = 0
    loss, _, gradient = evaluate(z, temperature=temperature, block_size=BLOCK)
    assert loss == pytest.approx(oracles.nt_xent(z, temperature=temperature), rel=1e-6 + 1.2e-7 / temperature)
    expected = exactly(z, temperature=temperature)[2]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.few(2)
@pytest.mark.parametrize(("batch_size", "block_size"), [(2, 1), (5, 7), (8, 4), (11, 3)])
@pytest.mark.parametrize("normalize", [pytest.param(True, marks=pytest.mark.slow), False])
def test_blockwise_equals_the_loop_over_anchors_for_any_tile(batch_size, block_size, normalize):
    z = draw(batch_size, (batch_size, 2, 3))
    loss, _, _ = evaluate(z, temperature=0.3, normalize=normalize, block_size=block_size)
    assert loss == pytest.approx(oracles.nt_xent(z, temperature=0.3, normalize=normalize), rel=1e-6, abs=1e-7)


@pytest.mark.slow
def test_ties_are_broken_as_argmax_breaks_them():
    """Rows of whole numbers, so that candidates tie bit for bit, across tiles as well."""
    z = np.random.default_rng(5).integers(-1, 2, size=(40, 2, 3)).astype(np.float32)
    ours = evaluate(z, temperature=1.0, normalize=False, block_size=7)[1]
    expected = _dense(jnp.asarray(z), jnp.float32(1), False)[0][1]
    assert 0 < ours["contrastive_accuracy"] == expected["contrastive_accuracy"] < 0.5


@pytest.mark.slow
def test_a_traced_temperature_has_the_dense_forms_values_and_gradients():
    z, temperature = jnp.asarray(draw(6, SHAPE)), jnp.float32(0.07)

    def both(form):
        return jax.jit(jax.value_and_grad(lambda z, t: form(z, temperature=t)[0], argnums=(0, 1)))(z, temperature)

    loss, (gradient, slope) = both(functools.partial(losses.nt_xent_blockwise, block_size=BLOCK))
    expected, (expected_gradient, expected_slope) = both(losses.nt_xent)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(slope) == pytest.approx(float(expected_slope), rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=2e-6 * np.abs(expected_gradient).max())


@pytest.mark.slow
def test_bfloat16_projections_are_compared_in_float32():
    z = jnp.asarray(draw(7, SHAPE), jnp.bfloat16)
    loss, metrics, gradient = evaluate(z, temperature=0.1, block_size=BLOCK)
    exact, _, exact_gradient = evaluate(z.astype(jnp.float32), temperature=0.1, block_size=BLOCK)
    assert loss.dtype == np.float32 and loss == exact and gradient.dtype == jnp.bfloat16
    assert {value.dtype for value in metrics.values()} == {np.dtype("float32")}
    # Seven bits behind the point: half a unit is 2^-8.
    np.testing.assert_allclose(gradient.astype(np.float32), exact_gradient, rtol=2.0**-8, atol=1e-30)


@pytest.mark.slow
def test_the_gradient_is_multiplied_by_what_comes_from_above():
    z = draw(8, (5, 2, 4))
    scaled = jax.jit(jax.grad(lambda z: 3 * losses.nt_xent_blockwise(z, temperature=0.1)[0]))(z)
    expected = 3 * evaluate(z, temperature=0.1)[2]
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_metrics_pass_no_gradient():
    z = draw(9, (5, 2, 4))
    form = functools.partial(losses.nt_xent_blockwise, temperature=0.1)
    assert not np.any(jax.jit(jax.grad(lambda z: form(z)[1]["contrastive_entropy"]))(z))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [pytest.param(0.01, marks=pytest.mark.slow), 0.1])
def test_8192_pairs_need_less_than_100_megabytes(temperature):
    form = jax.value_and_grad(functools.partial(losses.nt_xent_blockwise, temperature=temperature), has_aux=True)
    compiled = jax.jit(form).lower(jax.ShapeDtypeStruct((8192, 2, 128), jnp.float32)).compile()
    # z itself is 8 MB. The dense form asks for 1.9 GB.
    assert compiled.memory_analysis().temp_size_in_bytes < 100e6


@pytest.mark.parametrize("block_size", [0, -1])
def test_a_block_without_rows_is_refused(block_size):
    with pytest.raises(base.InputError, match="block_size must be at least 1"):
        losses.nt_xent_blockwise(jnp.zeros((4, 2, 8)), temperature=0.1, block_size=block_size)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(base.InputError, match="temperature must be above 0"):
        losses.nt_xent_blockwise(jnp.zeros((4, 2, 8)), temperature=temperature)


def test_anything_but_two_views_is_refused():
    with pytest.raises(base.InputError, match=r"must have shape \[B, 2, d\]; got"):
        losses.nt_xent_blockwise(jnp.zeros((4, 3, 8)), temperature=0.1)


def test_the_fixed_shift_does_not_underflow_where_it_is_taken():
    smallest = np.exp(np.float32(-2 / blockwise.MIN_FIXED_SHIFT_TEMPERATURE))
    assert smallest > 1e6 * np.finfo(np.float32).tiny


# Values, gradients and collectives of both sharded forms; the parent compares them with float64.
_SHARDED = """
    import json, re
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax import base, losses
    from simclr_jax.distributed import sharding

    mesh, out = sharding.make_mesh(), {}
    for name in ("nt_xent_gathered", "nt_xent_ring"):
        form = getattr(losses, name)
        for count, dim, block, temperature in CASES:
            z = np.random.default_rng(count).normal(size=(count, 2, dim)).astype(np.float32)
            z = sharding.put_rows(mesh, z)
            value = jax.value_and_grad(
                lambda z: form(z, temperature=temperature, mesh=mesh, block_size=block), has_aux=True)
            value = jax.jit(value).lower(z).compile({"xla_backend_optimization_level": 0})
            (loss, metrics), gradient = jax.block_until_ready(value(z))
            assert gradient.sharding == sharding.rows(mesh), gradient.sharding
            hlo = value.as_text()
            kinds = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
            moved = re.findall(rf" ({kinds})(?:-start)?[(]", hlo)
            shapes = re.findall(r"= \\\\(?\\\\w+\\\\[([0-9,]*)\\\\]\\\\S* (?:all-gather|collective-permute)", hlo)
            sizes = {tuple(map(int, s.split(","))) for s in re.findall(r"f32\\\\[([0-9,]+)\\\\]", hlo)}
            out[f"{name}/{count}/{temperature}"] = [
                float(loss), {k: float(v) for k, v in metrics.items()}, np.asarray(gradient).tolist(), moved,
                [[int(x) for x in s.split(",") if x] for s in shapes], sorted(map(list, sizes))]
        try:
            form(jnp.zeros((mesh.size + 1, 2, 4)), temperature=0.1, mesh=mesh)
            refused = ""
        except base.InputError as error:
            refused = str(error)
        out[name] = refused
    print(json.dumps(out))
"""
_CASES = [(20, 6, 3, 0.1), (64, 12, 16, 0.01)]


@pytest.mark.parametrize(
    ("num_devices", "cases"),
    [
        (4, _CASES[:1]),
        pytest.param(4, _CASES[1:], marks=pytest.mark.slow),
        pytest.param(2, _CASES, marks=pytest.mark.slow),
    ],
)
def test_sharded_forms_equal_float64_and_move_rows_once(num_devices, cases):
    out = json.loads(run_on_devices(num_devices, _SHARDED.replace("CASES", repr(cases)).replace("\\\\", "\\")))
    for name in ("nt_xent_gathered", "nt_xent_ring"):
        assert out[name] == (
            f"The batch must divide evenly over the devices; got {num_devices + 1} images and {num_devices} "
            f"devices. Use {num_devices}."
        )
        for count, dim, _, temperature in cases:
            z = np.random.default_rng(count).normal(size=(count, 2, dim)).astype(np.float32)
            loss, metrics, gradient, moved, shapes, sizes = out[f"{name}/{count}/{temperature}"]
            check_value(z, temperature, (loss, metrics, np.asarray(gradient)))
            check_collectives(name, moved, shapes, rows=(count, num_devices, dim))
            assert [2 * count, 2 * count] not in sizes and [count, count] not in sizes


@pytest.mark.parametrize("form", [losses.nt_xent_gathered, losses.nt_xent_ring])
def test_on_one_device_the_sharded_forms_are_the_blockwise_one(form):
    z, mesh = draw(10, (5, 2, 4)), sharding.make_mesh(1)
    ours = jax.jit(lambda z: form(z, temperature=0.1, mesh=mesh)[0])(z)
    assert float(ours) == pytest.approx(float(evaluate(z, temperature=0.1)[0]), rel=1e-6)


def check_value(z: np.ndarray, temperature: float, ours) -> None:
    expected, metrics, gradient = exactly(z, temperature=temperature)
    rounding = 1.2e-7 / temperature
    assert ours[0] == pytest.approx(expected, rel=2e-7 + rounding)
    np.testing.assert_allclose(ours[2], gradient, rtol=0, atol=(2e-6 + rounding) * np.abs(gradient).max())
    assert ours[1]["contrastive_accuracy"] == pytest.approx(float(metrics["contrastive_accuracy"]), abs=1e-6)
    entropy = float(metrics["contrastive_entropy"])
    assert ours[1]["contrastive_entropy"] == pytest.approx(entropy, rel=0, abs=1e-5 + 40 * rounding)


def check_collectives(name: str, moved: list[str], shapes: list[list[int]], *, rows: tuple[int, int, int]) -> None:
    """Rows move by one all-gather, or by permutes of one device's share; beside it one sum of three numbers."""
    count, num_devices, dim = rows
    assert set(moved) == {"all-reduce", "all-gather" if name == "nt_xent_gathered" else "collective-permute"}
    assert moved.count("all-reduce") == 1
    of_rows = [shape for shape in shapes if shape[-1] == dim]
    if name == "nt_xent_gathered":
        assert of_rows == [[count, 2, dim]] and len(shapes) == 2, "rows once, normalizers once"
    else:
        # One permute in each loop, or one for both passes where the compiler sees that they are the same.
        assert 1 <= len(of_rows) <= 2 and len(shapes) - len(of_rows) == 1
        assert all(math.prod(shape) <= 2 * dim * (count / num_devices + 2) for shape in of_rows)
