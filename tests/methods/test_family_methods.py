"""Barlow Twins, VICReg, SwAV, SupCon and DCL: what each says of itself beside the protocol and the recorded steps."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, methods, optim, train_step
from simclr_jax.models import norms, resnet
from tests.devices import run_on_devices
from tests.methods import settings, steps


def make(name: str, **options) -> base.Method:
    return methods.METHODS[name](steps.TinyEncoder(5), **{**settings.arguments(name), **options})


@functools.cache
def shapes(name: str):
    """(names of the head's parameters, names of the parameters' modules)."""
    params, _ = jax.eval_shape(make(name).init, jax.random.key(0), jax.ShapeDtypeStruct((2, 2, 4, 4, 3), jnp.float32))
    return sorted(base.flat(params["projection_head"])), sorted(params)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("barlow_twins", "bn1.bias bn1.scale bn2.bias bn2.scale dense1.kernel dense2.kernel dense3.kernel"),
        (
            "vicreg",
            "bn1.bias bn1.scale bn2.bias bn2.scale dense1.bias dense1.kernel dense2.bias dense2.kernel dense3.kernel",
        ),
        ("swav", "bn1.bias bn1.scale dense1.kernel dense2.bias dense2.kernel"),
        ("sup_con", "dense1.bias dense1.kernel dense2.bias dense2.kernel"),
        ("dcl", "bn1.bias bn1.scale dense1.kernel dense2.bias dense2.kernel"),
    ],
)
def test_the_head_has_the_layers_of_the_official_code(name, layers):
    assert shapes(name)[0] == layers.split()
    assert shapes(name)[1] == ["encoder", "projection_head", *(["prototypes"] if name == "swav" else [])]


def test_sup_con_hands_on_labels_as_floats_and_padding_as_unlabelled():
    method, views = make("sup_con"), jnp.ones((3, 2, 4, 4, 3))
    batch = base.Batch(
        image=jnp.zeros((3, 1, 1, 3), jnp.uint8),
        size=jnp.ones((3, 2), jnp.int32),
        label=jnp.asarray([2, -1, 1], jnp.int32),
        index=jnp.arange(3),
        position=jnp.arange(3),
        mask=jnp.asarray([True, True, False]),
    )
    run = jax.jit(lambda key: method.embed(*method.init(key, views), views, batch, key)[0])
    np.testing.assert_array_equal(run(jax.random.key(0))["label"], np.asarray([2, -1, -1], np.float32))


def crops(count: int = 6):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.random(shape, np.float32)) for shape in ((count, 2, 6, 6, 3), (count, 3, 4, 4, 3)))


@pytest.mark.parametrize("optimizer", [pytest.param("lars", marks=pytest.mark.slow), "larc"])
def test_frozen_prototypes_stay_where_they_are_under_any_decay_and_then_move_on_the_sphere(optimizer):
    method = make("swav", freeze_prototypes_steps=2)
    tx = optim.make_optimizer(optimizer, learning_rate=5.0, weight_decay=0.1)
    shape = jax.tree.map(lambda x: x.shape, crops(), is_leaf=lambda x: hasattr(x, "shape"))
    state = jax.jit(lambda key: train_step.init_state(method, tx, key, views_shape=shape))(jax.random.key(0))
    update, seen = jax.jit(train_step.make_update(method, tx)), [np.asarray(state.params["prototypes"]["kernel"])]
    for _ in range(3):
        state, _ = update(state, crops())
        seen.append(np.asarray(state.params["prototypes"]["kernel"]))
    np.testing.assert_allclose(seen[2], seen[0], rtol=0, atol=1e-6)
    assert np.abs(seen[3] - seen[2]).max() > 1e-5
    np.testing.assert_allclose(np.linalg.norm(seen[3], axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(state.method_state["prototypes"], seen[3])


@pytest.mark.slow
def test_swav_with_small_crops_in_chunks_has_the_gradient_of_the_whole_batch():
    # No BatchNorm but the head's, which is frozen: with it, chunks have statistics of their own.
    encoder = resnet.ResNet(
        resnet.BasicBlock, group_sizes=(1,), width_multiplier=1 / 16, stem="cifar", norm=norms.Norm("frozen")
    )
    method = methods.make_swav(encoder, **{**settings.small("swav"), "queue_length": 6})
    views = crops()
    params, method_state = jax.jit(method.init)(jax.random.key(0), views)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), params)
    state = base.TrainState(jnp.int32(0), params, method_state, ())

    def load_views(key, source, indices, positions):
        return {"position": positions}, jax.tree.map(lambda x: x[indices], views)

    keys, indices = (jax.random.key(1), jax.random.key(2)), jnp.asarray([3, 0, 5, 4, 2, 1], jnp.int32)
    whole = jax.jit(train_step.differentiate_whole(method, load_views))
    parts = jax.jit(train_step.differentiate_in_chunks(method, load_views, train_step.Chunks(3)))
    (loss, (kept, _)), gradient = whole(state, keys, (), indices)
    (ours, (our_kept, _)), our_gradient = parts(state, keys, (), indices)
    assert float(ours) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(our_kept["queue"], kept["queue"], rtol=0, atol=1e-5)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(our_gradient), jax.tree.leaves(gradient), strict=True):
        # The same sums in another order, behind temperatures of 0.1 and 0.05.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest)


_CODE = """
    import json
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax import methods, optim, train_step
    from simclr_jax.distributed import sharding
    from simclr_jax.planning import hlo
    from tests.methods import settings, steps, test_family_methods as family

    def train(name, num_devices):
        mesh = sharding.make_mesh(num_devices)
        views = family.crops(8) if name == "swav" else family.crops(8)[0]
        method, tx = family.make(name), optim.make_optimizer("larc", learning_rate=1.0, weight_decay=1e-6)
        step = jax.jit(train_step.make_update(method, tx), out_shardings=sharding.replicated(mesh))
        shape = jax.tree.map(lambda x: x.shape, views)
        init = lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=shape)
        state = sharding.jit_once(init, mesh)()
        labels = sharding.put_rows(mesh, np.arange(8, dtype=np.int32) % 3)
        views = jax.tree.map(lambda x: sharding.put_rows(mesh, np.asarray(x)), views)
        text = step.lower(state, views, labels=labels).compile().as_text()
        losses = []
        for _ in range(3):
            state, metrics = step(state, views, labels=labels)
            losses.append(float(jax.block_until_ready(metrics["loss"])))
        moved = [c.dims for c in hlo.summarise(text).collectives if c.kind != "all-reduce"]
        return losses, moved, text.count("all-to-all")

    print(json.dumps([[train(name, n) for n in (1, 4)] for name in NAMES]))
"""


# Of the small network; all methods with a larger one in tests/distributed/test_sharding.py.
@pytest.mark.slow
@pytest.mark.parametrize("names", [("vicreg", "moco"), ("swav",)])
def test_on_four_devices_the_losses_are_those_of_one_and_no_view_moves(names):
    found = json.loads(run_on_devices(4, _CODE.replace("NAMES", repr(names))))
    for name, ((one, *_), (four, moved, to_all)) in zip(names, found, strict=True):
        assert len(set(one)) == 3, "it does not train"
        # Sums over the batch in another order, and what three updates make of it.
        np.testing.assert_allclose(four, one, rtol=2e-5)
        # Views have five axes, activations four. Projections of the batch may be gathered, where rows are compared.
        assert not to_all and all(len(dims) <= 3 for dims in moved), (name, moved)
        assert not moved or name != "vicreg", "its sums over images need no row of another device"


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("barlow_twins", {"redundancy_weight": -1.0}, "redundancy_weight must be at least 0"),
        ("barlow_twins", {"loss_scale": 0.0}, "loss_scale must be above 0 and finite; got 0.0"),
        ("barlow_twins", {"bn_per": "device"}, "bn_per must be one of view, batch"),
        ("vicreg", {"variance_weight": float("inf")}, "variance_weight must be at least 0 and finite"),
        ("vicreg", {"proj_out_dim": 0}, "widths of at least 1"),
        ("sup_con", {"temperature": 0.0}, "temperature must be above 0"),
        ("sup_con", {"base_temperature": -0.07}, "base_temperature must be above 0"),
        ("sup_con", {"num_classes": 1}, "num_classes of at least 2; got 1"),
        ("dcl", {"temperature": float("nan")}, "temperature must be above 0"),
        ("dclw", {"sigma": 0.0}, "sigma must be above 0"),
        ("swav", {"epsilon": 0.0}, "epsilon must be above 0"),
        ("swav", {"num_prototypes": 1}, "num_prototypes must be at least 2"),
        ("swav", {"queue_length": -1}, "queue_length must be at least 0"),
        ("swav", {"freeze_prototypes_steps": -1}, "freeze_prototypes_steps must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(name, option, message):
    with pytest.raises(base.InputError, match=message):
        make(name, **option)
