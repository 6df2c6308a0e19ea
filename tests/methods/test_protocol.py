"""What every entry of METHODS promises to the training loop."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import base, methods, train_step
from simclr_jax.methods import METHODS
from simclr_jax.models import norms
from tests.methods import settings, steps

B, V, SIZE = 4, 2, 8
LABELS = (2, 0, -1, 1)
# Settings other than the defaults that the announced loss of equal embeddings depends on.
OPTIONS = {
    "simclr": {"loss_scale": 3.0},
    "simclr_v2": {"loss_scale": 3.0},
    "moco_v3": {"temperature": 0.2},
    "barlow_twins": {"loss_scale": 0.1},
    "vicreg": {"variance_weight": 7.0},
    "sup_con": {"temperature": 0.2, "base_temperature": 0.07},
    "dcl": {"temperature": 0.3},
    "pirl": {"objective": "cross_entropy"},
}


class Trained(NamedTuple):
    """A method, its state at the start, by two batches, and near it, and one gradient there on a fixed batch."""

    method: base.Method
    start: Any
    by_another_batch: Any
    params: Any
    state: Any
    loss: Any
    metrics: Any
    new_state: Any
    outputs: Any
    gradient: Any
    value: Any


@functools.cache
def encoder(norm: str = "batch") -> steps.TinyEncoder:
    """Of a network what methods must pass on, above all statistics: those of all methods compile soon."""
    return steps.TinyEncoder(64, norms.Norm(norm))


def make_method(name: str, norm: str = "batch", dtype: str = "float32", **options: Any) -> base.Method:
    return METHODS[name](encoder(norm), **{**settings.arguments(name, dtype), **options})


def views() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).random((B, V, SIZE, SIZE, 3), np.float32))


def batch() -> base.Batch:
    return base.Batch(
        image=jnp.zeros((B, SIZE, SIZE, 3), jnp.uint8),
        size=jnp.full((B, 2), SIZE, jnp.int32),
        label=jnp.asarray(LABELS, jnp.int32),
        index=jnp.arange(B, dtype=jnp.int32),
        position=jnp.arange(B, dtype=jnp.int32),
        mask=jnp.ones((B,), bool),
        text=jnp.asarray([[18, 3, 19, 0, 0], [18, 5, 1, 2, 19], [18, 19, 0, 0, 0], [18, 7, 7, 19, 0]], jnp.int32),
    )


@functools.cache
def run(name: str) -> Trained:
    method = make_method(name)
    batches = views(), views()[:2] + 1
    # Jitted, as in training, and sooner compiled.
    starts = jax.jit(lambda key, batches: [method.init(key, some) for some in batches])(jax.random.key(0), batches)
    initial, state = starts[0]
    # A little away from the start, where a classifier that is zero would pass no gradient.
    leaves, structure = jax.tree.flatten(initial)
    rng = np.random.default_rng(1)
    noise = (0.01 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves)
    params = jax.tree.unflatten(structure, [leaf + n for leaf, n in zip(leaves, noise, strict=True)])

    @jax.jit
    def value(params, state, views, batch):
        def total(params):
            outputs, embedded = method.embed(params, state, views, batch, jax.random.key(1))
            loss, (new_state, metrics) = method.loss(outputs, embedded)
            return loss, (new_state, metrics, outputs)

        return jax.value_and_grad(total, has_aux=True)(params)

    (loss, (new_state, metrics, outputs)), gradient = value(params, state, views(), batch())
    return Trained(method, *starts, params, state, loss, metrics, new_state, outputs, gradient, value)


# One of each kind: two views, a moving average, a queue, prototypes, sums over the batch, labels, texts, tiles.
FAST = ("simclr", "byol", "moco", "swav", "barlow_twins", "sup_con", "clip", "pirl")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in METHODS])
def name(request) -> str:
    return request.param


def avals(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_init_runs_abstractly_and_keeps_the_backbone_where_all_look_for_it(name):
    method = make_method(name)
    params, state = jax.eval_shape(
        method.init, jax.random.key(0), jax.ShapeDtypeStruct((64, V, 32, 32, 3), jnp.float32)
    )
    own = jax.eval_shape(functools.partial(encoder().init, train=False), jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    assert avals(params["encoder"]) == avals(own["params"])
    assert avals(state["batch_stats"]["encoder"]) == avals(own["batch_stats"])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_init_is_a_function_of_the_key_and_not_of_the_batch(name):
    trained = run(name)
    for ours, expected in zip(*map(jax.tree.leaves, (trained.by_another_batch, trained.start)), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_outputs_have_one_row_per_image(name):
    leaves = jax.tree.leaves(run(name).outputs)
    assert leaves and all(leaf.shape[0] == B for leaf in leaves)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves), "chunks differentiate them"


def test_loss_is_a_finite_float32_scalar_and_so_is_every_metric(name):
    trained = run(name)
    for value in (trained.loss, *trained.metrics.values()):
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value)


def test_gradients_are_finite_and_reach_the_encoder(name):
    gradient = run(name).gradient
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient["encoder"]))


def test_training_moves_the_statistics_and_keeps_the_tree(name):
    trained = run(name)
    assert avals(trained.new_state) == avals(trained.state)
    old, new = (jax.tree.leaves(s["batch_stats"]["encoder"]) for s in (trained.state, trained.new_state))
    assert all(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_update_keeps_the_tree(name):
    trained = run(name)
    params, state = trained.method.update(trained.params, trained.new_state, jnp.asarray(0, jnp.int32))
    assert (avals(params), avals(state)) == (avals(trained.params), avals(trained.state))


def test_embed_follows_the_order_of_the_images(name):
    trained = run(name)
    order = np.array([2, 0, 3, 1])
    permuted = jax.tree.map(lambda leaf: leaf[order], (views(), batch()))
    (_, (*_, outputs)), _ = trained.value(trained.params, trained.state, *permuted)
    # BatchNorm sums in another order; the head divides by small variances of a tiny batch.
    for a, b in zip(jax.tree.leaves(trained.outputs), jax.tree.leaves(outputs), strict=True):
        np.testing.assert_allclose(b, a[order], rtol=1e-3, atol=1e-3)


@pytest.mark.few(4)
def test_a_small_gradient_step_lowers_the_loss_on_the_same_batch(name):
    trained = run(name)
    # A step of fixed length: fresh heads have weights of 0.01 and steep gradients.
    length = 1e-3 / float(optax.tree.norm(trained.gradient))
    params = jax.tree.map(lambda p, g: p - length * g, trained.params, trained.gradient)
    (loss, _), _ = trained.value(params, trained.state, views(), batch())
    assert float(loss) < float(trained.loss)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_may_be_differentiated_for_the_outputs_and_pulled_back(name):
    trained = run(name)

    def embed(params):
        return trained.method.embed(params, trained.state, views(), batch(), jax.random.key(1))

    @jax.jit
    def pulled_back(params):
        outputs, pullback, embedded = jax.vjp(embed, params, has_aux=True)
        cotangents = jax.grad(lambda outputs: trained.method.loss(outputs, embedded)[0])(outputs)
        return pullback(cotangents)[0]

    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(trained.gradient))
    ours = jax.tree.leaves(pulled_back(trained.params))
    for leaf, expected in zip(ours, jax.tree.leaves(trained.gradient), strict=True):
        # The same sums in another order.
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-5 * largest)


def equal_embeddings(name: str, options: dict[str, Any]) -> Any:
    """(loss, metrics) of the method for embeddings that are all the same, in the batch and in every queue."""
    if name in methods.CLASSIFIERS:  # which start at zero, whatever they are shown, and reduce in `embed`
        (loss, (_, metrics, _)), _ = run(name).value(*run(name).start, views(), batch())
        return loss, metrics
    method, key = make_method(name, **options), jax.random.key(1)
    params, state = jax.eval_shape(method.init, key, views())
    shapes, _ = jax.eval_shape(method.embed, params, state, views(), batch(), key)
    outputs = {key: jnp.full(leaf.shape, 0.3, leaf.dtype) for key, leaf in shapes.items() if key != "label"}
    outputs |= {"label": jnp.asarray(LABELS, jnp.float32)} if "label" in shapes else {}
    rows = {"rows": lambda x: jnp.full(x.shape, x.shape[-1] ** -0.5, x.dtype)}
    state = jax.tree.map_with_path(lambda path, x: rows.get(path[-1].key, jnp.zeros_like)(x), state)
    loss, (_, metrics) = jax.jit(method.loss)(outputs, state)
    return loss, metrics


def test_equal_embeddings_have_the_loss_that_is_announced(name):
    options = OPTIONS.get(name, {})
    loss, metrics = equal_embeddings(name, options)
    section = {"name": name, **settings.small(name), **options}
    announced = methods.uninformed_loss(section, batch_size=B, num_classes=3)
    if announced is None:
        assert metrics["projection_spread"] < 1e-3
    else:
        assert float(loss) == pytest.approx(announced, rel=1e-5)


def test_every_method_says_what_equal_embeddings_cost():
    assert set(methods._UNINFORMED) == set(METHODS)
    for name, weight in (("supervised", {}), ("distill", {}), ("simclr", {"supervised_weight": 1.0})):
        assert methods.uninformed_loss({"name": name, **weight}, batch_size=4, num_classes=0) is None, "no classes"


@pytest.mark.few(1)
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_a_batch_in_chunks_has_the_gradient_of_the_whole_batch(name, norm):
    """In float64, where the order of sums leaves no trace: behind a temperature of 0.1 float32 would."""
    with jax.enable_x64(True):
        (loss, (new_state, metrics)), gradient, *in_chunks = in_both_ways(name, norm)
    (ours, (our_state, our_metrics)), our_gradient = in_chunks
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert largest > 0
    pairs = ((ours, our_metrics, our_state), (loss, metrics, new_state))
    for a, b in zip(*(jax.tree.leaves(tree) for tree in pairs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(jax.tree.leaves(our_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * largest)


def in_both_ways(name: str, norm: str) -> tuple[Any, ...]:
    """Result and gradient with the whole batch, and again in two chunks."""
    method, images = make_method(name, norm, "float64"), views().astype(jnp.float64)
    # Fresh heads have weights of 0.01: without a batch's statistics all embeddings would be nearly the same, and the
    # gradient a difference of equal terms.
    start, method_state = jax.jit(method.init)(jax.random.key(0), images)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), start)
    state = base.TrainState(jnp.int32(0), params, method_state, ())

    def load_views(key, source, indices, positions):
        return jax.tree.map(lambda leaf: leaf[indices], (batch(), images))

    keys, indices = (jax.random.key(1), jax.random.key(2)), jnp.asarray([3, 0, 2, 1], jnp.int32)
    whole = train_step.differentiate_whole(method, load_views)
    in_chunks = train_step.differentiate_in_chunks(method, load_views, train_step.Chunks(2))
    results = [jax.jit(way)(state, keys, (), indices) for way in (whole, in_chunks)]
    return tuple(jax.device_get(part) for result in results for part in result)
