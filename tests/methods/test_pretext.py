"""The early pretext tasks: what each shows its network, and its loss beside float64 loops of its own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import base, methods
from simclr_jax.methods import permutations, tiles
from tests.losses import family_oracles
from tests.methods import settings, steps

B, SIZE = 3, 12


def batch() -> base.Batch:
    return base.Batch(
        image=jnp.zeros((B, 1, 1, 3), jnp.uint8),
        size=jnp.ones((B, 2), jnp.int32),
        label=jnp.full((B,), -1, jnp.int32),
        index=jnp.asarray([5, 0, 11], jnp.int32),
        position=jnp.arange(B, dtype=jnp.int32),
        mask=jnp.ones((B,), bool),
    )


def views(num_views: int = 1, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).random((B, num_views, size, size, 3))


class Ran:
    """A method's outputs and loss in float64 on some views, with parameters away from their start."""

    def __init__(self, name, images, *, encoder=None, **options):
        with jax.enable_x64(True):
            given = {**settings.arguments(name, "float64"), **options}
            method = methods.METHODS[name](encoder or steps.TinyEncoder(5), **given)
            images = jnp.asarray(images)
            rng = np.random.default_rng(1)
            start, self.state = jax.jit(method.init)(jax.random.key(0), images)
            self.params = jax.tree.map(lambda x: jnp.asarray(x + rng.normal(0, 0.3, x.shape)), start)

            def run(params, state):
                outputs, state = method.embed(params, state, images, batch(), jax.random.key(1))
                return outputs, method.loss(outputs, state)

            outputs, (loss, (state, metrics)) = jax.jit(run)(self.params, self.state)
            self.loss, self.outputs, self.after, self.metrics = jax.device_get((loss, outputs, state, metrics))
            self.params = jax.device_get(self.params)


class Flat(nn.Module):
    """An encoder that knows places, as the small one of the other tests does not."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        flat = images.reshape(len(images), -1)
        return nn.relu(nn.Dense(5, param_dtype=images.dtype, name="dense")(flat))


def encode(params, images):
    """The small encoder with the statistics of the batch: images [N, h, w, 3] -> h [N, 5]."""
    x = images @ params["dense"]["kernel"]
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * params["bn"]["scale"] + params["bn"]["bias"]
    return np.maximum(x, 0).mean((1, 2))


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0)


def bn_relu(params, x):
    return np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * params["scale"] + params["bias"], 0)


def mlp(params, x):
    """A hidden layer with BatchNorm and an output layer."""
    return dense(params["dense2"], bn_relu(params["bn1"], dense(params["dense1"], x)))


def cross_entropy(logits, label):
    return np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[label]


def test_rotation_tells_four_turns_apart():
    images, ran = views(), Ran("rotation", views(), encoder=Flat())
    turned = np.array([np.rot90(image[0], turns) for image in images for turns in range(4)])
    h = np.maximum(dense(ran.params["encoder"]["dense"], turned.reshape(4 * B, -1)), 0)
    logits = mlp(ran.params["task_head"], h)
    expected = np.mean([cross_entropy(row, number % 4) for number, row in enumerate(logits)])
    assert float(ran.loss) == pytest.approx(expected, rel=1e-9)
    assert float(ran.metrics["task_accuracy"]) == pytest.approx(np.mean(logits.argmax(1) == np.arange(4 * B) % 4))


def test_patch_location_pairs_the_middle_tile_with_its_neighbours():
    ran = Ran("patch_location", views(), tile_share=1.0)
    shown = np.array([image[0, y : y + 4, x : x + 4] for image in views() for y in (0, 4, 8) for x in (0, 4, 8)])
    h = encode(ran.params["encoder"], shown).reshape(B, 9, -1)
    around = [k for k in range(9) if k != 4]
    pairs = np.array([np.concatenate([image[4], image[k]]) for image in h for k in around])
    logits = mlp(ran.params["task_head"], pairs)
    expected = np.mean([cross_entropy(row, number % 8) for number, row in enumerate(logits)])
    assert float(ran.loss) == pytest.approx(expected, rel=1e-9)


def test_jigsaw_reads_nine_even_tiles_in_the_order_it_asks_for():
    ran = Ran("jigsaw", views(), tile_share=1.0)
    shown = np.array([image[0, y : y + 4, x : x + 4] for image in views() for y in (0, 4, 8) for x in (0, 4, 8)])
    even = 0.5 + 0.25 * np.array([(tile - tile.mean()) / np.sqrt(tile.var() + 1e-4) for tile in shown])
    h = encode(ran.params["encoder"], even)
    head = ran.params["tile_head"]
    v = bn_relu(head["bn1"], dense(head["dense1"], h)).reshape(B, 9, -1)
    drawn, orders = ran.outputs["permutation"].astype(int), permutations.make_permutations(8)
    joined = np.array([np.concatenate([v[i, place] for place in orders[drawn[i]]]) for i in range(B)])
    logits = mlp(ran.params["task_head"], joined)
    expected = np.mean([cross_entropy(row, answer) for row, answer in zip(logits, drawn, strict=True)])
    assert float(ran.loss) == pytest.approx(expected, rel=1e-9)
    assert set(drawn) <= set(range(8))


@pytest.mark.slow
def test_an_autoencoder_is_scored_by_the_clean_image():
    images = views(size=8)
    ran = Ran("autoencoder", images, corruption="gray")
    gray = np.repeat((images[:, 0] @ [0.2989, 0.587, 0.114])[..., None], 3, axis=-1)
    made = decode(ran.params["decoder"], encode(ran.params["encoder"], gray), 8)
    np.testing.assert_allclose(ran.outputs["errors"], np.mean((made - images[:, 0]) ** 2, axis=(1, 2, 3)), rtol=1e-6)
    assert float(ran.loss) == pytest.approx(ran.outputs["errors"].mean())


def decode(params, h, size):
    """The decoder of three steps, pixel by pixel."""
    x = np.maximum(dense(params["dense"], h), 0).reshape(len(h), size // 8, size // 8, -1)
    for name in ("conv1", "conv2", "conv3", "colors"):
        x = x.repeat(2, 1).repeat(2, 2) if name != "colors" else x
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = np.zeros((*x.shape[:3], params[name]["bias"].size)) + params[name]["bias"]
        for i, j in itertools.product(range(3), range(3)):
            y += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ params[name]["kernel"][i, j]
        x = np.maximum(y, 0) if name != "colors" else 1 / (1 + np.exp(-y))
    return x


@pytest.mark.parametrize(("kind", "changed"), [("noise", 1.0), ("mask", 0.25), ("gray", 1.0), ("none", 0.0)])
def test_corruption_changes_as_much_of_an_image_as_it_says(kind, changed):
    from simclr_jax.methods import autoencoder

    images = jnp.asarray(np.random.default_rng(0).random((2, 64, 64, 3)), jnp.float32)
    damaged = autoencoder._corrupt(jax.random.split(jax.random.key(0)), images, kind=kind, level=0.25)
    share = np.mean(np.any(np.asarray(damaged) != np.asarray(images), axis=-1))
    assert share == pytest.approx(changed, abs=0.03)
    if kind == "noise":
        assert np.std(damaged - images) == pytest.approx(0.25, rel=0.03)


@pytest.mark.slow
def test_cpc_foretells_patches_below_from_rows_above():
    ran = Ran("cpc", views(size=8))
    told, targets = ran.outputs["predictions"], ran.outputs["targets"]
    assert told.shape == (B, 2, 3, 3, 8) and targets.shape == (B, 3, 3, 8)
    expected = sum(family_oracles.cpc_grid(told[:, step], targets, step=step, scale=0.1) for step in (0, 1))
    assert float(ran.loss) == pytest.approx(expected, rel=1e-9)
    patches = tiles.overlapping(jnp.asarray(views(size=8)[:, 0], jnp.float32), 3)
    np.testing.assert_array_equal(patches[1, 2, 1], views(size=8)[1, 0, 4:8, 2:6].astype(np.float32))


def test_the_context_of_a_row_has_not_seen_the_rows_below():
    from simclr_jax.models import context

    module, x = context.RowContext(6, 2), jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 4)), jnp.float32)
    variables = jax.jit(functools.partial(module.init, train=True))(jax.random.key(0), x)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(module.apply(variables, x, train=True)[0, 2, 2])))(x)
    seen = np.abs(slope[0]).max(axis=-1) > 0
    assert not seen[3:].any() and seen[2, 2] and seen[0].any(), "two blocks see two rows above"


@pytest.mark.few(1)
@pytest.mark.parametrize("objective", ["nce", "cross_entropy"])
def test_pirl_scores_image_and_shuffled_tiles_against_the_memory(objective):
    ran = Ran("pirl", views(num_views=2), objective=objective, tile_share=1.0, temperature=0.3)
    memory = np.asarray(ran.state["memory"]["rows"])
    image, patches, rows = (ran.outputs[name] for name in ("image", "patches", "rows"))
    index = rows.astype(int)
    assert index[:, 0].tolist() == [5, 0, 11] and index.shape == (B, 17) and index.min() >= 0 and index.max() < 12
    h = encode(ran.params["encoder"], views(num_views=2)[:, 0])
    np.testing.assert_allclose(image, dense(ran.params["projection_head"]["dense1"], h), rtol=1e-9)
    units = {name: np.array([family_oracles.unit(x) for x in z]) for name, z in (("i", image), ("p", patches))}
    scores = {name: np.einsum("bd,bkd->bk", u, memory[index]) / 0.3 for name, u in units.items()}
    if objective == "nce":
        z = 12 * np.mean(np.exp(scores["p"]))
        assert float(ran.after["memory"]["partition"]) == pytest.approx(z, rel=1e-9)
        numbers = {"partition": z, "temperature": 0.3}
        expected = np.mean([family_oracles.pirl_nce(x, memory, index, **numbers) for x in (patches, image)])
    else:
        expected = np.mean([cross_entropy(row, 0) for s in scores.values() for row in s])
    assert float(ran.loss) == pytest.approx(expected, rel=1e-9)
    moved = ran.after["memory"]["rows"]
    for place, unit in zip(index[:, 0], units["i"], strict=True):
        np.testing.assert_allclose(moved[place], family_oracles.unit(memory[place] + unit), rtol=1e-9)
    others = [row for row in range(12) if row not in index[:, 0]]
    np.testing.assert_array_equal(moved[others], memory[others])


@pytest.mark.parametrize(("count", "distance"), [(9, 9), (64, 8), (72, 8), (504, 7)])
def test_orders_differ_in_as_many_places_as_so_many_orders_can(count, distance):
    orders = permutations.make_permutations(count)
    assert orders.shape == (count, 9) and (np.sort(orders, axis=1) == np.arange(9)).all()
    apart = (orders[:, None] != orders[None]).sum(-1)
    assert apart[~np.eye(count, dtype=bool)].min() == distance


def test_tiles_are_whole_pixels_of_their_cell_at_places_of_their_own():
    image = np.arange(13 * 13 * 3, dtype=np.float32).reshape(1, 13, 13, 3)
    keys = jax.random.split(jax.random.key(0), 20)
    shown = np.asarray(tiles.cut(keys, jnp.asarray(np.repeat(image, 20, 0)), num_side=3, tile_share=0.5))
    corners = set()
    for number, tile in itertools.product(range(20), range(9)):
        y, x = divmod(int(shown[number, tile, 0, 0, 0]) // 3, 13)
        np.testing.assert_array_equal(shown[number, tile], image[0, y : y + 2, x : x + 2])
        assert (y // 4, x // 4) == divmod(tile, 3) and max(y % 4, x % 4) <= 2
        corners.add((y % 4, x % 4))
    assert len(corners) == 9


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("jigsaw", {"num_permutations": 505}, "num_permutations must be 2 to 504; got 505"),
        ("patch_location", {"tile_share": 0.0}, "tile_share must be above 0"),
        ("autoencoder", {"corruption": "blur"}, "corruption must be one of none, noise, mask, gray"),
        ("cpc", {"rows_ahead": (3,)}, "rows_ahead must be 1 to grid_size - 1 each"),
        ("pirl", {"num_examples": 2**25}, "num_examples must be 1 to 16777216"),
        ("pirl", {"memory_momentum": 1.0}, "memory_momentum must be at least 0 and below 1"),
    ],
)
def test_mistakes_are_told(name, options, match):
    with pytest.raises(base.InputError, match=match):
        methods.METHODS[name](steps.TinyEncoder(5), **{**settings.arguments(name), **options})


def test_images_must_fit_the_grid():
    init = functools.partial(jax.eval_shape, make("cpc").init, jax.random.key(0))
    with pytest.raises(base.InputError, match=r"multiple of grid_size \+ 1"):
        init(jax.ShapeDtypeStruct((2, 1, 10, 10, 3), jnp.float32))
    with pytest.raises(base.InputError, match=r"augment\.num_views must be 1 for the method rotation"):
        methods.check_batch({"name": "rotation"}, batch_size=8, num_views=2)


def make(name):
    return methods.METHODS[name](steps.TinyEncoder(5), **settings.arguments(name))
