"""Placements and the map over rows, on four virtual devices in a process of their own."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from simclr_jax import base, sharding


def run_on_devices(num_devices: int, code: str) -> str:
    """stdout of `code` in a fresh process with that many virtual CPU devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_mesh_of_one_device_has_the_batch_axis():
    mesh = sharding.make_mesh(1)
    assert mesh.shape == {sharding.BATCH_AXIS: 1}


def test_asking_for_more_devices_than_there_are_is_refused():
    with pytest.raises(base.InputError, match="got 99 and 1"):
        sharding.make_mesh(99)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(base.InputError, match="batch_size must be a positive multiple"):
        sharding.check_batch_size(batch_size, sharding.make_mesh(1))


def test_map_rows_equals_the_plain_function_on_one_device():
    mesh = sharding.make_mesh(1)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    mapped = sharding.map_rows(lambda scale, rows: rows * scale, mesh, row_args=(False, True))
    np.testing.assert_array_equal(mapped(np.float32(2), x), 2 * x)


# The published budget of the step: no all-to-all, no gather of images, at most two all-reduces per BatchNorm layer and
# three more, the projections gathered once. It holds the axis order (batch first, views second): views first would
# gather every image on every device. The program is the one that `train` runs.
_BUDGET = """
    import json, re
    import jax
    from simclr_jax import assemble, config, hlo, sharding

    settings = config.load_file("demo").to_dict()
    settings["train"]["batch_size"] = 16
    settings["encoder"].update(name="resnet10", width_multiplier=0.0625)
    settings["augment"]["size"] = 24
    shape = assemble.DataShape(num_examples=64, num_classes=0, canvas=(24, 24), is_streamed=False)
    mesh = sharding.make_mesh()
    for dtype in ("bfloat16", "float32"):
        settings["encoder"]["dtype"] = dtype
        program = assemble.make_program(settings, mesh, shape=shape, steps_per_dispatch=1, seed=0)
        arguments = assemble.abstract_arguments(program, mesh, shape=shape, batch_size=16, steps_per_dispatch=1)
        text = program.train_steps.lower(*arguments).compile().as_text()
        found = hlo.summarise(text).collectives
        layers = sum("bn" in str(path) and "scale" in str(path)
                     for path, _ in jax.tree_util.tree_leaves_with_path(jax.eval_shape(program.init).params))
        print(json.dumps({
            "layers": layers,
            "moved": [c.dims for c in found if c.kind != "all-reduce"],
            "kinds": sorted({c.kind for c in found}),
            "all_reduces": sum(c.times for c in found if c.kind == "all-reduce"),
            "host": bool(re.search(r"callback|infeed|outfeed| send\\(| recv\\(", text)),
        }))
"""


def test_the_compiled_step_keeps_its_collective_budget_on_four_devices():
    for line in run_on_devices(4, _BUDGET).splitlines():
        found = json.loads(line)
        assert found["layers"] == 15, "the budget is counted against all BatchNorm layers of encoder and head"
        assert 2 * 11 <= found["all_reduces"] <= 2 * found["layers"] + 3
        # Images or activations have four axes. What turns back is a number per row, not the projections.
        assert found["moved"] == [[16, 2, 128], [16, 2, 1]] and "all-to-all" not in found["kinds"]
        assert not found["host"], "the host takes part in the step"


# What a device holds of a net of 1.2 M parameters, by the compiler's own analysis, and what two steps make of it.
_SPLIT = """
    import json
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax import config, sharding, train

    settings = config.load_file("smoke").to_dict()
    settings["encoder"]["width_multiplier"], settings["augment"]["size"] = 0.5, 8
    settings["optimizer"]["name"], settings["schedule"]["base_learning_rate"] = "lars", 0.001
    settings["train"]["batch_size"], settings["train"]["evaluate_every_epochs"] = 8, 0.0
    found = {}
    for how in sharding.PARAMETER_SHARDINGS:
        settings["train"]["parameter_sharding"] = how
        run = train.build(settings)
        state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
        key = sharding.make_key(run.mesh, 0)
        source, indices = run.feed.draw(0)
        compiled = run.train_steps.lower(state, key, source, indices, jnp.int32(1)).compile()
        hlo, memory = compiled.as_text(), compiled.memory_analysis()
        losses = []
        for step in range(2):
            source, indices = run.feed.draw(step)
            state, metrics = compiled(state, key, source, indices, jnp.int32(1))
            losses.append(float(jax.block_until_ready(metrics["loss"])[0]))
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
        found[how] = [memory.argument_size_in_bytes, whole, held, losses, hlo.count(" all-to-all(")]
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_split_parameters_take_less_of_every_device_and_give_the_same_losses():
    import json

    found = json.loads(run_on_devices(4, _SPLIT))
    (arguments, whole, held, losses, _), split = found["replicated"], found["fsdp"]
    assert held == whole and 0.25 <= split[2] / whole < 0.30, "a quarter, but for the small arrays"
    assert arguments - split[0] == held - split[2], "the compiler counts what the placement says"
    np.testing.assert_allclose(split[3], losses, rtol=1e-5)
    assert split[4] == 0, "no images travel to split weights"


def test_long_arrays_are_split_along_their_longest_axis_that_divides():
    mesh = sharding.make_mesh(1)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), np.float32),
        "tie": jax.ShapeDtypeStruct((64, 64), np.float32),
        "scale": jax.ShapeDtypeStruct((128,), np.float32),
        "step": jax.ShapeDtypeStruct((), np.int32),
    }
    placed = sharding.state_placement(mesh, shapes, how="fsdp")
    assert placed == {
        "kernel": sharding.rows(mesh, 3),
        "tie": sharding.rows(mesh, 1),
        "scale": sharding.replicated(mesh),
        "step": sharding.replicated(mesh),
    }
    whole = sharding.state_placement(mesh, shapes, how="replicated")
    assert set(jax.tree.leaves(whole)) == {sharding.replicated(mesh)}


def test_an_unknown_parameter_sharding_is_refused():
    with pytest.raises(base.InputError, match=r"must be one of replicated, fsdp; got 'zero3'"):
        sharding.check_parameter_sharding("zero3")


def test_a_vote_in_one_process_is_its_own():
    vote = sharding.make_vote(sharding.make_mesh())
    assert [vote(0), vote(15), vote(0)] == [0, 15, 0]


# Three steps of the smoke config; order and views must not depend on devices at all, sums only by rounding.
_STEPS = """
    import hashlib, json
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax import config, sharding, train, train_step, augment
    from simclr_jax.data import resident

    settings = config.load_file("smoke").to_dict()
    run = train.build(settings)
    key = sharding.make_key(run.mesh, 0)
    source, first = run.feed.draw(0)
    make_views = augment.make_simclr_views(**settings["augment"])
    load = sharding.map_rows(
        train_step.make_load_views(resident.gather_batch, make_views), run.mesh, row_args=(False, False, True, True))
    positions = sharding.put_rows(run.mesh, np.arange(64, dtype=np.int32))
    rows = sharding.put_rows(run.mesh, np.asarray(first)[0])
    views = jax.jit(load)(train_step.views_key(key, jnp.int32(0)), source, rows, positions)[1]
    digest = hashlib.sha256(np.asarray(views).tobytes()).hexdigest()
    state, losses = sharding.jit_once(run.init, run.mesh)(), []
    for step in range(3):
        state, metrics = run.train_steps(state, key, *run.feed.draw(step), jnp.int32(1))
        losses.append(float(jax.block_until_ready(metrics["loss"])[0]))
    print(json.dumps([digest, losses, jax.device_count()]))
"""


def test_views_and_losses_do_not_depend_on_the_number_of_devices():
    import json

    one, four = (json.loads(run_on_devices(n, _STEPS)) for n in (1, 4))
    assert (one[2], four[2]) == (1, 4)
    assert one[0] == four[0], "views must be the same bit for bit"
    # Sums over the batch are taken in another order: float32 rounding, grown over three updates.
    np.testing.assert_allclose(one[1], four[1], rtol=1e-5)


def test_rows_places_the_batch_on_the_named_axis():
    mesh = sharding.make_mesh(1)
    placed = sharding.put_rows(mesh, np.zeros((3, 8), np.int32), axis=1)
    assert placed.sharding == sharding.rows(mesh, 1) and isinstance(placed, jax.Array)
