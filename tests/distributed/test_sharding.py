"""Placements and the map over rows, on four virtual devices in a process of their own."""

import functools
import json
from typing import Any

import jax
import numpy as np
import pytest

from simclr_jax import base, methods
from simclr_jax.distributed import sharding
from tests.devices import run_on_devices


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
def budget(dtype):
    taps._CACHED_BYTES = 1  # image after image, as with large batches
    settings = config_lib.load_file("demo").to_dict()
    settings["train"]["batch_size"] = 16
    settings["encoder"].update(name="resnet10", width_multiplier=0.0625)
    settings["augment"]["image_size"] = 24
    shape = program_lib.DataShape(num_examples=64, num_classes=0, canvas=(24, 24), is_streamed=False)
    mesh = sharding.make_mesh()
    settings["encoder"]["dtype"] = dtype
    program = program_lib.make_program(settings, mesh, shape=shape, steps_per_dispatch=1, seed=0)
    arguments = program_lib.abstract_arguments(program, mesh, shape=shape, batch_size=16, steps_per_dispatch=1)
    text = program.train_steps.lower(*arguments).compile().as_text()
    collectives = hlo.summarise(text).collectives
    params = jax.eval_shape(program.init).params
    return {
        "layers": sum("bn" in str(path) and "scale" in str(path)
                      for path, _ in jax.tree_util.tree_leaves_with_path(params)),
        "all_reduces": sum(c.times for c in collectives if c.kind == "all-reduce"),
        "moved": [c.dims for c in collectives if c.kind != "all-reduce"],
        "kinds": sorted({c.kind for c in collectives}),
        "hosts": re.findall(r"callback|infeed|outfeed| send\\(| recv\\(", text),
    }
"""

# Some updates by every method on one device and on four. A third of the labels is left out, the digits do not lie
# evenly on the devices: a mean of the devices' means would not be the batch's.
_METHODS = """
def train_method(name, num_devices, train_set):
    mesh = sharding.make_mesh(num_devices)
    norm = norms.Norm(num_parts=mesh.size)  # as the program says it: convolutions of many rows take them in runs
    encoder = resnet.ResNet(resnet.BasicBlock, group_sizes=(1,), width_multiplier=1 / 4, stem="cifar", norm=norm)
    teacher = {"teacher": TEACHER} if name == "distill" else {}
    # At 0.1 these few updates raise this method's loss from step to step, and what rounding does with it.
    calm = {"temperature": 0.5} if name == "simclr_v2" else {}
    config = {"method": {"name": name, **small(name), **calm}, "text": {"vocab_size": 20, "length": 5}, **teacher}
    if name in methods.IMAGE_TEXT:
        tokens = np.random.default_rng(0).integers(1, 18, (len(train_set.images), 2, 5)).astype(np.int32)
        tokens[:, :, 3] = 19
        train_set = train_set._replace(tokens=tokens)
    method = program_lib.make_method(encoder, config, mesh, num_classes=10, num_steps=NUM_STEPS)
    # At the full rate SimSiam's few updates multiply what rounding does; from key 0 its cosines pass through 0.
    rate, start = (LEARNING_RATE / 10, 3) if name == "simsiam" else (LEARNING_RATE, 0)
    tx = optim.make_optimizer("sgd", learning_rate=rate, weight_decay=1e-4)
    off = {f"{what}_probability": 0.0 for what in ("color_jitter", "grayscale", "blur")}
    views = augment.make_simclr_views(image_size=8, **off)
    load = sharding.map_rows(
        train_step.make_load_views(resident.gather_batch, views), mesh, row_args=(False, False, True, True))
    step = train_step.make_train_step(sharding.collected(method, mesh), tx, load, schedule=lambda s: LEARNING_RATE)
    update = jax.jit(step, out_shardings=sharding.replicated(mesh))
    key = sharding.make_key(mesh, 0)
    init = lambda: train_step.init_state(method, tx, jax.random.key(start), views_shape=(2, 2, 8, 8, 3))
    state = sharding.jit_once(init, mesh)()
    rows = input_pipeline.make_feed(train_set, mesh, seed=0, shape=(1, 32), max_resident_gigabytes=None)
    before, losses, compiled = flat(state.params), [], None
    for number in range(NUM_STEPS):
        source, indices = rows.draw(number)
        given = state, key, source, sharding.put_rows(mesh, np.asarray(indices)[0])
        compiled = compiled or update.lower(*given).compile()
        state, metrics = compiled(*given)
        losses.append(float(jax.block_until_ready(metrics["loss"])))
    text = compiled.as_text()
    moved = [c for c in hlo.summarise(text).collectives if c.kind != "all-reduce"]
    return {
        "losses": losses,
        "moved": (flat(state.params) - before).tolist(),
        "images": [str(c) for c in moved if hlo.is_image_shaped(c)],
        "rows": [c.dims for c in moved],
        "exchanges": text.count(" all-to-all("),
    }


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def digest_of_views(num_devices, train_set):
    mesh, settings = sharding.make_mesh(num_devices), config_lib.load_file("smoke").to_dict()
    rows = input_pipeline.make_feed(train_set, mesh, seed=0, shape=(1, 64), max_resident_gigabytes=None)
    source, first = rows.draw(0)
    load = sharding.map_rows(
        train_step.make_load_views(resident.gather_batch, augment.make_simclr_views(**settings["augment"])),
        mesh, row_args=(False, False, True, True))
    positions = sharding.put_rows(mesh, np.arange(64, dtype=np.int32))
    rows = sharding.put_rows(mesh, np.asarray(first)[0])
    key = train_step.views_key(sharding.make_key(mesh, 0), jnp.int32(0))
    return hashlib.sha256(np.asarray(jax.jit(load)(key, source, rows, positions)[1]).tobytes()).hexdigest()
"""

_IMPORTS = """
import hashlib, json, re
import jax, jax.numpy as jnp, numpy as np
from simclr_jax import augment, data, methods, optim, train_step
from simclr_jax.run import program as program_lib, config as config_lib, input_pipeline
from simclr_jax.planning import hlo
from simclr_jax.distributed import sharding
from simclr_jax.data import resident
from simclr_jax.models import norms, resnet, taps
from tests.methods.settings import TEACHER, small
"""
_DIGITS = f"""
{_IMPORTS}
LEARNING_RATE, NUM_STEPS = 0.01, 4
{_METHODS}
train_set = data.load_split("digits", split="train")
labels = np.where(np.arange(len(train_set.labels)) % 3 == 0, -1, train_set.labels).astype(np.int32)
train_set = train_set._replace(labels=labels)
"""

# Methods whose loss is made of sums over images, of which no row is compared with one of another device.
REDUCES = ("barlow_twins", "vicreg", "byol", "simsiam", "supervised", "distill")
REDUCES += ("rotation", "patch_location", "jigsaw", "autoencoder")


def on_one_and_four(function: str) -> list[Any]:
    """What `function`(n, train_set), an expression of the code above, finds on one and on four devices."""
    code = f"{_DIGITS}\nassert jax.device_count() == 4\nprint(json.dumps([({function})(n, train_set) for n in (1, 4)]))"
    one, four = json.loads(run_on_devices(4, code))
    return [one, four]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_compiled_step_keeps_its_collective_budget_on_four_devices(dtype):
    found = json.loads(run_on_devices(4, f"{_IMPORTS}{_BUDGET}\nprint(json.dumps(budget('{dtype}')))"))
    assert found["layers"] == 15, "the budget is counted against all BatchNorm layers of encoder and head"
    assert 2 * 11 <= found["all_reduces"] <= 2 * found["layers"] + 3
    # Images or activations have four axes. What turns back is a number per row, not the projections.
    assert found["moved"] == [[16, 2, 128], [16, 2, 1]] and "all-to-all" not in found["kinds"]
    assert found["hosts"] == [], "the host takes part in the step"


@pytest.mark.slow
def test_views_are_the_same_bits_on_any_number_of_devices():
    one, four = on_one_and_four("digest_of_views")
    assert one == four


@functools.cache
def trained(names: tuple[str, ...]) -> dict[str, Any]:
    """What `train_method` finds for these methods on one and on four devices; one process for some of them."""
    one, four = on_one_and_four(f"lambda *where: {{name: train_method(name, *where) for name in {names}}}")
    return {name: (one[name], four[name]) for name in names}


# One of each kind first: pairs, a moving average, a queue, prototypes, sums over the batch, labels, texts, a memory.
_KINDS = ("simclr", "byol", "moco", "swav", "barlow_twins", "sup_con", "clip", "pirl")
_NAMES = (*_KINDS, *(name for name in methods.METHODS if name not in _KINDS))
_GROUPS = [_NAMES[start : start + 4] for start in range(0, len(_NAMES), 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.rare] * (name not in _KINDS)) for name in _NAMES]
)
def test_a_method_trains_the_same_on_one_device_and_on_four_and_moves_no_image(name):
    one, other = trained(next(group for group in _GROUPS if name in group))[name]
    # Projections of the batch may be gathered, where rows are compared: they have three axes at most.
    assert other["images"] == [] and other["exchanges"] == 0 and all(len(dims) <= 3 for dims in other["rows"])
    assert not other["rows"] or name not in REDUCES, "its sums over images need no row of another device"
    moved = np.asarray(one["moved"])
    assert len(set(one["losses"])) == len(one["losses"]) == 4 and np.linalg.norm(moved) > 1e-3
    # Sums over the batch are taken in another order: float32 rounding, and what four updates make of it.
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    assert np.linalg.norm(other["moved"] - moved) < 1e-3 * np.linalg.norm(moved), "of the way the parameters went"


# What a device holds of a net of 1.2 M parameters, by the compiler's own analysis, and what two steps make of it.
_SPLIT = """
    import json
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax.run import config as config_lib
    from simclr_jax.distributed import sharding
    from simclr_jax.run import setup

    settings = config_lib.load_file("smoke").to_dict()
    settings["encoder"] |= {"group_sizes": (1, 1, 1, 1), "width_multiplier": 0.5}
    settings["augment"]["image_size"] = 8
    settings["optimizer"]["name"], settings["schedule"]["base_learning_rate"] = "lars", 0.001
    settings["train"]["batch_size"], settings["train"]["evaluate_every_epochs"] = 8, 0.0
    found = {}
    for how in sharding.PARAMETER_SHARDINGS:
        settings["train"]["parameter_sharding"] = how
        run = setup.make_run(settings)
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


def test_rows_places_the_batch_on_the_named_axis():
    mesh = sharding.make_mesh(1)
    placed = sharding.put_rows(mesh, np.zeros((3, 8), np.int32), axis=1)
    assert placed.sharding == sharding.rows(mesh, 1) and isinstance(placed, jax.Array)
