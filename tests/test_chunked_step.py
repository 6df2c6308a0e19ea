"""The step in chunks: the whole batch's gradient where that is possible, and BatchNorm's statistics per chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import augment, base, methods, train_step
from simclr_jax.data import resident
from simclr_jax.models import norms, resnet
from tests.devices import run_on_devices
from tests.methods import steps

B, SIZE = 8, 8
TWO = train_step.Chunks(2)


def keys():
    return jax.random.key(3), jax.random.key(4)


def source():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    return resident.SplitArrays(
        jnp.asarray(images), jnp.full((12, 2), SIZE, jnp.int32), jnp.asarray(np.arange(12) % 3, jnp.int32)
    )


def indices():
    return jnp.asarray([3, 1, 11, 0, 7, 5, 2, 9], jnp.int32)


def shifted_views(key, images, sizes, positions):
    """A stand-in for the augmentation that compiles at once: noise of the position and a shift that all share.

    Sums of whole numbers over 256, so that no compiled form of it can round differently.
    """

    def draw(key, shape=()):
        return jax.random.randint(key, shape, 0, 100, jnp.int32).astype(jnp.float32)

    noise = jax.vmap(lambda position: draw(jax.random.fold_in(key, position), (2, SIZE, SIZE, 3)))(positions)
    return (images[:, None].astype(jnp.float32) + noise + draw(key)) / 256


def load_views(make_views=shifted_views):
    return train_step.make_load_views(resident.gather_batch, make_views)


def make_toy_method(embed_rows):
    """z by `embed_rows`, and a loss that gives every row of the batch, in its place, a weight of its own."""

    def init(key, views):
        return {"kernel": jax.random.normal(key, (views[0, 0].size, 4))}, {"last": jnp.zeros((B // 2,), jnp.int32)}

    def embed(params, method_state, views, batch, key):
        z = views.reshape(*views.shape[:2], -1) @ params["kernel"]
        return embed_rows(z, batch, key), {"last": batch["position"]}

    def loss(outputs, method_state):
        weights = jnp.arange(outputs.shape[0], dtype=jnp.float32)[:, None, None]
        return jnp.sum(weights * outputs**2), (method_state, {"outputs": outputs})

    return base.Method(init, embed, loss, base.keep)


def differentiate(method, chunks=None, load=None):
    params, method_state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, 2, SIZE, SIZE, 3)))
    state = base.TrainState(jnp.int32(0), params, method_state, ())
    load = load or load_views()
    make = train_step.differentiate_whole if chunks is None else train_step.differentiate_in_chunks
    compute = make(method, load) if chunks is None else make(method, load, chunks)
    return jax.jit(compute)(state, keys(), source(), indices())


def noise_of(batch, key, shape):
    fold = jax.vmap(lambda position: jax.random.normal(jax.random.fold_in(key, position), shape))
    return fold(batch["position"])


def test_rows_keys_and_order_are_those_of_the_whole_batch():
    method = make_toy_method(lambda z, batch, key: z + noise_of(batch, key, z.shape[1:]))
    (loss, (_, metrics)), gradient = differentiate(method)
    for chunks in (TWO, train_step.Chunks(4, 2)):
        toy = method._replace(init=lambda key, views, c=chunks: _with_last(method.init(key, views), c))
        (in_chunks, (_, more)), chunked = differentiate(toy, chunks)
        # A matrix product of fewer rows may be summed in another order.
        np.testing.assert_allclose(more["outputs"], metrics["outputs"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(in_chunks, loss, rtol=1e-5)
        largest = np.abs(gradient["kernel"]).max()
        np.testing.assert_allclose(chunked["kernel"], gradient["kernel"], rtol=0, atol=1e-5 * largest)


def _with_last(initial, chunks):
    return initial[0], {"last": jnp.zeros((B // chunks.num_chunks,), jnp.int32)}


@pytest.mark.few(1)
@pytest.mark.parametrize(("num_devices", "last"), [(1, [4, 5, 6, 7]), (2, [2, 3, 6, 7]), (4, [1, 3, 5, 7])])
def test_every_device_keeps_its_rows_and_works_on_every_chunk(num_devices, last):
    method = make_toy_method(lambda z, batch, key: z)
    (_, (state, _)), _ = differentiate(method, train_step.Chunks(2, num_devices))
    assert state["last"].tolist() == last


@pytest.mark.slow  # compiled as users do: the quick compiler rounds the two programs differently
def test_views_of_chunks_are_bit_for_bit_those_of_the_whole_batch():
    def embed(params, method_state, views, batch, key):
        return views * params["one"], method_state

    def loss(outputs, method_state):
        return jnp.sum(outputs), (method_state, {"views": outputs})

    method = base.Method(lambda key, views: ({"one": jnp.ones(())}, ()), embed, loss, base.keep)
    load = load_views(augment.make_simclr_views(image_size=SIZE, blur_probability=1.0, blur_sigma_per="view"))
    whole, parts = (differentiate(method, chunks, load)[0][1][1]["views"] for chunks in (None, train_step.Chunks(2, 2)))
    np.testing.assert_array_equal(parts, whole)


def test_the_state_passes_from_chunk_to_chunk_and_is_the_same_in_both_passes():
    """The outputs depend on the state: a second pass that began where the first ended would give another gradient."""

    def embed(params, method_state, views, batch, key):
        z = params["scale"] * jnp.mean(views, axis=(1, 2, 3, 4)) * method_state
        return z, 0.5 * method_state + jnp.mean(jax.lax.stop_gradient(z))

    def loss(outputs, method_state):
        return jnp.sum(jnp.square(outputs)), (method_state, {})

    def init(key, views):
        return {"scale": jnp.float32(3.0)}, jnp.float32(2.0)

    method = base.Method(init, embed, loss, base.keep)
    (value, (state, _)), gradient = differentiate(method, TWO)
    views = load_views()(keys()[0], source(), indices(), jnp.arange(B, dtype=jnp.int32))[1]
    means = np.asarray(views, np.float64).mean(axis=(1, 2, 3, 4)).reshape(2, 4)
    expected_state, expected, expected_gradient = 2.0, 0.0, 0.0
    for chunk in means:
        z = 3.0 * chunk * expected_state
        expected += np.sum(z**2)
        expected_gradient += np.sum(2 * z * chunk * expected_state)
        expected_state = 0.5 * expected_state + z.mean()
    np.testing.assert_allclose([value, state, gradient["scale"]], [expected, expected_state, expected_gradient], 1e-5)


def test_outputs_of_integers_are_refused():
    method = make_toy_method(lambda z, batch, key: batch["label"])
    with pytest.raises(TypeError, match="int32"):
        differentiate(method, TWO)


@pytest.mark.parametrize(
    ("num_chunks", "said"),
    [(0, "Use 1."), (3, "Use 2 or 4."), (5, "Use 4 or 8."), (9, "Use 8."), (100, "Use 8."), (-1, "Use 1.")],
)
def test_a_number_of_chunks_that_does_not_divide_is_refused_with_the_nearest_that_do(num_chunks, said):
    with pytest.raises(base.InputError, match=rf"got {num_chunks} chunks and 8 images per device .* {said}"):
        train_step.check_chunks(16, train_step.Chunks(num_chunks, 2))


@pytest.mark.parametrize("num_chunks", [1, 2, 4, 8])
def test_a_number_of_chunks_that_divides_is_taken(num_chunks):
    train_step.check_chunks(16, train_step.Chunks(num_chunks, 2))


def simclr(norm, dtype="float32"):
    encoder = resnet.ResNet(
        resnet.BasicBlock, (1,), width_multiplier=1 / 4, stem="cifar", dtype=dtype, norm=norms.Norm(norm)
    )
    return methods.METHODS["simclr"](encoder, num_proj_layers=2, proj_out_dim=32, dtype=dtype)


def near(ours, expected, share):
    """Every leaf within `share` of the largest entry of all leaves."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=share * largest)


@pytest.mark.slow
def test_batch_norm_has_the_statistics_of_each_chunk():
    """Against the loss written out with two calls of the network, differentiated as one function."""
    method = methods.make_simclr(steps.TinyEncoder(16), num_proj_layers=2, proj_out_dim=32)
    params, method_state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, 2, SIZE, SIZE, 3)))
    positions = jnp.arange(B, dtype=jnp.int32)

    @jax.jit
    def oracle(params):
        batch, views = load_views()(keys()[0], source(), indices(), positions)

        def total(params):
            first, state = method.embed(
                params, method_state, views[:4], jax.tree.map(lambda leaf: leaf[:4], batch), keys()[1]
            )
            second, state = method.embed(
                params, state, views[4:], jax.tree.map(lambda leaf: leaf[4:], batch), keys()[1]
            )
            return method.loss(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), state)

        return jax.value_and_grad(total, has_aux=True)(params)

    (loss, (state, _)), gradient = oracle(params)
    (ours, (our_state, _)), our_gradient = differentiate(method, TWO)
    np.testing.assert_allclose(ours, loss, rtol=1e-5)
    near(our_state, state, 1e-6)
    # A fresh head has weights of 0.01, whose BatchNorm divides by small numbers: rounding of 1e-7 grows.
    near(our_gradient, gradient, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_in_float64_the_gradient_in_chunks_is_that_of_the_whole_batch_to_twelve_digits(norm):
    """What differs in float32 is rounding alone."""
    with jax.enable_x64(True):
        method = simclr(norm, "float64")
        (loss, _), gradient = differentiate(method)
        (ours, _), our_gradient = differentiate(method, TWO)
        assert loss.dtype == jnp.float64 and jax.tree.leaves(gradient)[0].dtype == jnp.float64
        np.testing.assert_allclose(ours, loss, rtol=1e-12)
        near(our_gradient, gradient, 1e-12)


@pytest.mark.slow
def test_three_steps_in_chunks_end_in_the_state_of_three_whole_steps():
    method, tx = simclr("group"), optax.sgd(0.05, momentum=0.9)
    state = train_step.init_state(method, tx, jax.random.key(0), views_shape=(2, 2, SIZE, SIZE, 3))
    ended = []
    for chunks in (None, TWO):
        step = jax.jit(
            train_step.make_train_step(method, tx, load_views(), schedule=lambda s: jnp.float32(0.05), chunks=chunks)
        )
        current = state
        for _ in range(3):
            current, metrics = step(current, jax.random.key(1), source(), indices())
        ended.append((current, metrics))
    assert int(ended[1][0].step) == 3
    np.testing.assert_allclose(ended[1][1]["loss"], ended[0][1]["loss"], rtol=1e-5)
    # Sums in another order differ by 1e-7, which three updates of a steep fresh head let grow.
    near(ended[1][0], ended[0][0], 1e-5)


# Chunks are spread over all devices: no image may move, neither from a resident source nor from a streamed one.
_BUDGET = """
    import re
    import jax, jax.numpy as jnp
    from simclr_jax import augment, base, methods, models, optim, train_step
    from simclr_jax.distributed import sharding
    from simclr_jax.data import resident

    mesh = sharding.make_mesh()
    encoder = models.make_encoder("resnet10", width_multiplier=0.0625, stem="cifar", bn_parts=mesh.size)
    method = methods.METHODS["simclr"](encoder, num_proj_layers=2, proj_out_dim=32)
    tx = optim.make_optimizer("sgd", learning_rate=0.1, weight_decay=1e-4)
    views = augment.make_simclr_views(image_size=24, blur_probability=0.0)
    key = sharding.make_key(mesh, 0)
    state = jax.eval_shape(lambda k: train_step.init_state(method, tx, k, views_shape=(2, 2, 24, 24, 3)), key)
    layers = sum("bn" in str(p) and "scale" in str(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.params))
    row = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.rows(mesh))
    read = lambda source, indices, positions: base.Batch(
        image=source[0], size=source[1], label=source[2], index=indices, position=positions, mask=indices >= 0)
    for streamed in (False, True):
        load = sharding.map_rows(
            train_step.make_load_views(read if streamed else resident.gather_batch, views), mesh,
            row_args=(False, streamed, True, True))
        step = train_step.make_train_step(
            method, tx, load, schedule=lambda s: 0.1, chunks=train_step.Chunks(4, mesh.size, streamed))
        source = resident.SplitArrays(
            row((16, 24, 24, 3), jnp.uint8), row((16, 2), jnp.int32), row((16,), jnp.int32))
        source = source if streamed else sharding.like_replicated(mesh, source)
        arguments = sharding.like_replicated(mesh, state), key, source, row((16,), jnp.int32)
        hlo = jax.jit(step).lower(*arguments).compile().as_text()
        count = lambda name: len(re.findall(rf" {name}(?:-start)?\\(", hlo))
        moving = r"(?:all-gather|collective-permute)(?:-start)?"
        moved = re.findall(rf"= \\S*?\\[([\\d,]*)\\]\\S* {moving}\\(", hlo)
        assert count("all-to-all") == 0, "all-to-all"
        assert all(len(m.split(",")) < 4 for m in moved), f"images move: {moved}"
        print(count("all-reduce"), layers, len(moved))
"""


@pytest.mark.slow
def test_no_image_moves_between_devices_in_chunks():
    for line in run_on_devices(2, _BUDGET).splitlines():
        all_reduces, layers, moved = map(int, line.split())
        # The network is in the program twice, once with its backward pass.
        assert 0 < all_reduces <= 3 * layers + 4 and moved >= 1
