"""Programs compiled for hardware that is not here: reading XLA's text, the hardware's names, the recorded budgets."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from benchmarks import aot as bench
from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.planning import aot, hardware, hlo
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = program_lib.DataShape(50000, 10, (32, 32), is_streamed=False)

# As XLA prints them, shortened: a loop of four turns, an asynchronous pair, a fusion, a gather that ends a pair.
PROGRAM = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,128]{1,0})->f32[8,128]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p.0: f32[8,128]) -> bf16[8,128] {
  %p.0 = f32[8,128]{1,0} parameter(0)
  ROOT %convert = bf16[8,128]{1,0} convert(%p.0)
}

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %t = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[8,128]{1,0} get-tuple-element(%t), index=1
  %reduced = f32[8,128]{1,0} all-reduce(%v), channel_id=1, to_apply=%add, metadata={op_name="jit(step)/bn"}
  ROOT %out = (s32[], f32[8,128]{1,0}) tuple(%i, %reduced)
}

%condition (t.1: (s32[], f32[8,128])) -> pred[] {
  %t.1 = (s32[], f32[8,128]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x.1: f32[8,128], n: s32[]) -> (f32[8,128], /*index=1*/bf16[8,128]) {
  %x.1 = f32[8,128]{1,0} parameter(0), metadata={op_name="x = \\'y\\'"}
  %n = s32[] parameter(1)
  %start = (s32[], f32[8,128]{1,0}) tuple(%n, %x.1)
  %loop = (s32[], f32[8,128]{1,0}) while(%start), condition=%condition, body=%body, TURNS
  %w = f32[8,128]{1,0} get-tuple-element(%loop), index=1
  %fusion.1 = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%w), kind=kLoop, calls=%fused
  %gather = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%fusion.1), dimensions={0}
  %gathered = bf16[32,128]{1,0} all-gather-done(%gather)
  %conv = (f32[8,128]{1,0}, u8[16]{0}) custom-call(%w, %gathered), custom_call_target="__cudnn$convForward"
  %y.1 = f32[8,128]{1,0} get-tuple-element(%conv), index=0
  ROOT %result = (f32[8,128]{1,0}, bf16[8,128]{1,0}) tuple(%y.1, %fusion.1)
}
""".replace("TURNS", 'backend_config={"known_trip_count":{"n":"4"}}')


def lowered(recipe, monkeypatch, encoder):
    """The text of a recipe's program as it would go to a GPU's compiler."""
    monkeypatch.setattr(base, "platform", lambda mesh=None: "gpu")
    config = config_lib.load_file(recipe).to_dict()
    config["train"].update(batch_size=8, deterministic=True, steps_per_dispatch=1)
    config["encoder"].update(encoder)
    config["augment"]["loop"] = "vmap"  # as on accelerators
    mesh, shape = sharding.make_mesh(1), SHAPE._replace(num_examples=64)
    program = program_lib.make_program(config, mesh, shape=shape, steps_per_dispatch=1, seed=0)
    arguments = program_lib.abstract_arguments(program, mesh, shape=shape, batch_size=8, steps_per_dispatch=1)
    return program.train_steps.lower(*arguments).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "encoder"),
    [("imagenet_resnet50", {"name": "resnet10"}), ("cifar10", {"name": "resnet10", "dtype": "float32"})],
)
def test_a_step_leaves_the_order_of_no_sum_open(recipe, encoder, monkeypatch):
    text = lowered(recipe, monkeypatch, encoder)
    assert "stablehlo.convolution" in text
    # Atomic additions, on a GPU.
    assert "select_and_scatter" not in text and "stablehlo.scatter" not in text
    adds = jax.jit(lambda x, i: jnp.zeros(4).at[i].add(x)).lower(jnp.ones(9), jnp.zeros(9, jnp.int32)).as_text()
    assert "stablehlo.scatter" in adds  # what the check would see


def test_only_a_gpu_is_asked_for_the_same_bits():
    config = {"train": {"deterministic": True}}
    assert program_lib.compiler_options(config, platform="gpu") == {"xla_gpu_deterministic_ops": True}
    assert program_lib.compiler_options(config, platform="cpu") is None
    assert program_lib.compiler_options({"train": {"deterministic": False}}, platform="gpu") is None


@pytest.mark.parametrize(
    ("platform", "asked", "folds"), [("gpu", True, True), ("gpu", False, False), ("tpu", True, False)]
)
def test_batch_norm_is_folded_on_gpus_unless_the_config_says_no(monkeypatch, platform, asked, folds):
    monkeypatch.setattr(base, "platform", lambda mesh=None: platform)
    config = config_lib.load_file("imagenet_resnet50").to_dict()
    config["train"]["fused_conv_bn"] = asked
    assert program_lib.make_encoder(config, sharding.make_mesh(1)).norm.folded is folds


def test_a_program_is_read_as_xla_prints_it():
    summary = hlo.summarise(PROGRAM)
    assert [(c.kind, c.dtype, c.dims, c.num_bytes, c.times) for c in summary.collectives] == [
        ("all-reduce", "f32", (8, 128), 4096, 4),
        ("all-gather", "bf16", (32, 128), 8192, 1),
    ]
    assert summary.collectives[0].op_name == "jit(step)/bn"
    # The fusion reads 4096 and writes 2048; the convolution reads 4096 + 8192 and writes 4096 + 16.
    assert summary[:3] == (2, 1, 4096 + 2048 + 4096 + 8192 + 4096 + 16)


def test_traffic_of_a_real_program_is_that_of_the_compilers_own_count():
    matrix = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(lambda a, b: a @ b).lower(matrix, matrix).compile()
    counted = compiled.cost_analysis()["bytes accessed"]
    assert counted == 3 * 64 * 64 * 4
    assert hlo.summarise(compiled.as_text()).program_bytes == counted


def gather(dtype, *dims, kind="all-gather"):
    return hlo.Collective(kind, dtype, dims, hlo.num_bytes(((dtype, dims),)), 1, "")


def test_images_on_the_move_are_recognised():
    assert hlo.is_image_shaped(gather("u8", 512, 384, 384, 3))
    assert hlo.is_image_shaped(gather("bf16", 8192, 56, 56, 64))
    assert not hlo.is_image_shaped(gather("f32", 4096, 1, 128))
    assert not hlo.is_image_shaped(gather("f32", 128, 4096))


def test_all_reduces_of_statistics_and_of_gradients_are_told_apart():
    statistics, kernel = gather("f32", 4096, kind="all-reduce"), gather("bf16", 1, 1, 64, 256, kind="all-reduce")
    flat, stacked = gather("f32", 4458691, kind="all-reduce"), gather("f32", 2, 2048, kind="all-reduce")
    found = aot.sort_collectives([statistics, stacked, kernel, flat])
    counts = {name: found[name] for name in found if name != "collectives"}
    assert counts == {
        "statistic_all_reduces": 2,
        "gradient_all_reduces": 2,
        "gradient_groups": 2,
        "image_collectives": [],
    }
    assert found["collectives"] == {"all-reduce": {"count": 4, "bytes": 16384 + 2 * 8192 + 32768 + 4 * 4458691}}


def recorded(name="imagenet_resnet50-h200-8-4096"):
    row = json.loads(bench.RESULTS.read_text())[name]
    return aot.Compiled(**{field: row[field] for field in aot.Compiled._fields}), row["num_batch_norms"]


def test_every_budget_can_be_broken():
    good, norms = recorded()
    assert not aot.broken_budgets(good, num_batch_norms=norms)
    assert aot.broken_budgets(good._replace(peak_bytes=139 * 10**9), num_batch_norms=norms)
    assert aot.broken_budgets(good._replace(image_collectives=["all-gather u8[4096,384,384,3]"]), num_batch_norms=norms)
    assert aot.broken_budgets(good, num_batch_norms=norms // 2)
    exchange = {**good.collectives, "all-to-all": {"count": 1, "bytes": 4}}
    assert aot.broken_budgets(good._replace(collectives=exchange), num_batch_norms=norms) == ["1 all-to-all"]


def test_the_recorded_programs_keep_their_budgets_and_the_page_is_theirs():
    rows = json.loads(bench.RESULTS.read_text())
    known = {target.name: target for target in bench.TARGETS}
    assert set(rows) <= set(known)
    for name, row in rows.items():
        assert not bench.broken(known[name], row), name
    assert bench.PAGE.read_text() == bench.render(bench.PAGE.read_text(), rows)


def test_products_without_tiles_are_left_to_cublas_and_other_errors_are_not_hidden():
    asked = []

    class Lowered:
        def __init__(self, message):
            self.message = message

        def compile(self, compiler_options=None):
            asked.append(compiler_options)
            if compiler_options is None:
                raise jax.errors.JaxRuntimeError(self.message)
            return "compiled"

    assert aot._compile(Lowered("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot")) == "compiled"
    assert asked == [None, {"xla_gpu_enable_triton_gemm": False}]
    with pytest.raises(jax.errors.JaxRuntimeError, match="memory"):
        aot._compile(Lowered("RESOURCE_EXHAUSTED: out of memory"))


def test_a_model_that_is_asked_to_be_exact_stays_within_a_tenth_of_the_compiler():
    rows = json.loads(bench.RESULTS.read_text())
    gpus = {name: row for name, row in rows.items() if "h200" in name and "failed" not in row}
    assert gpus
    for name, row in gpus.items():
        assert row["modelled_peak_bytes"] == pytest.approx(row["peak_bytes"], rel=0.1), name


@pytest.mark.parametrize(
    ("kind", "devices", "name"),
    [("h200", 8, "1x1x8"), ("h200", 16, "1x2x8"), ("a100", 4, "1x1x4"), ("v5e", 32, "4x8"), ("v5p", 64, "4x4x4")],
)
def test_topologies_have_the_compilers_names(kind, devices, name):
    assert hardware.topology(kind, devices) == name


@pytest.mark.parametrize(
    ("kind", "devices", "remedy"), [("h200", 12, "8 or 16"), ("v5e", 48, "32 or 64"), ("v5p", 1000, "256 or 512")]
)
def test_what_is_no_slice_is_refused_with_the_nearest_that_are(kind, devices, remedy):
    with pytest.raises(base.InputError, match=f"Use {remedy}"):
        hardware.topology(kind, devices)


@pytest.mark.parametrize("kind", hardware.DEVICES)
def test_device_figures_are_possible(kind):
    device = hardware.find(kind)
    if device.platform == "cpu":
        return
    assert 0.5 < device.reached_flops / device.flops < 1 and 0.5 < device.reached_bandwidth / device.bandwidth < 1
    assert 10e9 < device.memory_bytes < 200e9 and 0.5 < device.usable < 1
    # Accelerators of these years compute 100 to 600 operations in the time that they read a byte.
    assert 100 < device.flops / device.bandwidth < 600
    waits = [hardware.latency(kind, n) for n in (1, 2, 8, 64, 512, 4096)]
    assert waits[0] == 0 and waits == sorted(waits) and waits[-1] < 2e-4
    for chips, name in device.slices.items():
        sides = [int(side) for side in name.split("x")]
        assert chips == pytest.approx(sides[0] * sides[1] * (sides[2] if len(sides) == 3 else 1))
    if device.platform == "gpu":
        text = hardware.description(kind)
        assert text.count("{") == text.count("}") == 4
        assert f"device_memory_size: {device.memory_bytes}" in text and device.name in text


def test_a_compiler_that_says_nothing_is_an_error_of_one_line(monkeypatch):
    config = config_lib.load_file("smoke").to_dict()
    monkeypatch.setattr(
        aot.subprocess, "run", lambda *a, **k: __import__("types").SimpleNamespace(stdout="", stderr="")
    )
    with pytest.raises(aot.CannotCompile, match="no answer"):
        aot.compile_elsewhere(config, kind="h200", devices=8, shape=SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "devices"), [("h200", 8), ("v5e", 8)])
def test_a_small_step_compiles_for_accelerators_and_keeps_its_budget(kind, devices):
    if not aot.is_installed(kind):
        pytest.skip(f"needs the extra {aot.extra(kind)}")
    config = config_lib.load_file("smoke").to_dict()
    compiled = aot.compile_elsewhere(config, kind=kind, devices=devices, shape=SHAPE, timeout=280)
    assert compiled.batch_size == config["train"]["batch_size"] and compiled.temp_bytes > 0
    assert not aot.broken_budgets(compiled, num_batch_norms=30)
