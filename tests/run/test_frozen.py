"""A frozen encoder: no gradient, no update, and digests that tell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from simclr_jax import data, methods, train_step
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, frozen, guards, splits
from simclr_jax.run import workdir as workdir_lib


class Small(nn.Module):
    """A layer and a BatchNorm, which normalises by its moving averages where `norm` is "frozen"."""

    norm: str

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train or self.norm == "frozen", name="bn")(nn.Conv(4, (3, 3))(x))
        return x.mean(axis=(1, 2))


def one_update(norm):
    """(state before, state after) of one update of a classifier, with a weight decay that would move all weights."""
    method = frozen.freeze_encoder(methods.make_supervised(Small(norm), num_classes=3))
    tx = frozen.leave_encoder(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9)))
    state = train_step.init_state(method, tx, jax.random.key(0), views_shape=(2, 1, 8, 8, 3))
    # Zeros of either sign keep theirs.
    params = state.params
    kernel = params["encoder"]["Conv_0"]["kernel"]
    params["encoder"]["Conv_0"]["kernel"] = kernel.at[0, 0].set(-0.0).at[0, 1].set(0.0)
    views = jax.random.uniform(jax.random.key(1), (6, 1, 8, 8, 3))
    update = jax.jit(train_step.make_update(method, tx))
    return state, update(state, views, labels=jnp.arange(6, dtype=jnp.int32) % 3)[0]


@pytest.mark.few(1)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_frozen_encoder_keeps_every_bit_and_its_statistics_move_only_with_batch_norm(norm):
    before, after = one_update(norm)
    digests = [frozen.encoder_digests(state.params, state.method_state) for state in (before, after)]
    assert digests[0]["weights"] == digests[1]["weights"]
    assert (digests[0]["statistics"] == digests[1]["statistics"]) == (norm == "frozen")
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert any(jax.tree.leaves(moved["supervised_head"])) and not any(jax.tree.leaves(moved["encoder"]))
    kept = sorted(leaf.size for leaf in jax.tree.leaves(after.opt_state) if leaf.size > 1)
    assert kept == [3, 12], "momentum of the classifier alone"


def settings(*overrides):
    return config_lib.load_file("linear_eval", *overrides).to_dict()


def test_the_digests_of_before_and_after_tell_whether_it_was_frozen(tmp_path):
    params = {"encoder": {"w": np.ones(3, np.float32)}}
    state = {"batch_stats": {"encoder": {"mean": np.zeros(3, np.float32)}}}
    config, quirk = settings(), settings("--config.encoder.norm=batch")
    assert guards.encoder_was_frozen(tmp_path, config, params=params, method_state=state) is None
    frozen.write_start(tmp_path, frozen.encoder_digests(params, state))
    assert guards.encoder_was_frozen(tmp_path, config, params=params, method_state=state) is True
    moved = {"batch_stats": {"encoder": {"mean": np.full(3, 1e-30, np.float32)}}}
    assert guards.encoder_was_frozen(tmp_path, config, params=params, method_state=moved) is False
    assert guards.encoder_was_frozen(tmp_path, quirk, params=params, method_state=moved) is True
    other = {"encoder": {"w": np.asarray([1, 1, 1.0000001], np.float32)}}
    assert guards.encoder_was_frozen(tmp_path, quirk, params=other, method_state=state) is False
    whole = settings("--config.train.freeze_encoder=False")
    assert guards.encoder_was_frozen(tmp_path, whole, params=other, method_state=state) is None
    (tmp_path / "init.json").write_text("{")
    assert guards.encoder_was_frozen(tmp_path, config, params=params, method_state=state) is None


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["--config.init.workdir=/run"], "linear.sgd.e90.frozen-bn.v1"),
        (["--config.encoder.norm=batch", "--config.train.num_epochs=100.0"], "linear.sgd.e100.batch-bn.v1"),
        (["--config.train.freeze_encoder=False"], "supervised.e90.v1"),
        (
            ["--config.train.freeze_encoder=False", "--config.init.workdir=/run", "--config.method.ft_proj_selector=1"],
            "finetune.e90.s1.v1",
        ),
    ],
)
def test_a_classifier_is_named_by_how_it_was_trained(overrides, name):
    assert guards.protocol_of_classifier(settings(*overrides)) == name
    assert guards.protocol_of_classifier({"method": {"name": "simclr"}}) == "linear.online.v1"


def image_set(count=40):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    ids = tuple(f"{row}.png" for row in range(count))
    return data.ImageSet(images, np.full((count, 2), 8, np.int32), np.zeros(count, np.int32), ("one",), ids, "", ())


@pytest.mark.parametrize("depends", [False, True])
def test_features_that_depend_on_the_images_beside_them_are_noticed(depends):
    def network(variables, images):
        h = images.mean(axis=(1, 2))
        return h - h.mean(axis=0) if depends else h  # as BatchNorm in its training mode

    encode = features.make_predict(network, size=8, resize="tf2", batch_size=16, mesh=sharding.make_mesh())
    h = encode({}, image_set())
    assert guards.encoder_at_rest(encode, {}, image_set(), h=h, batch_size=16) == (not depends)


@functools.wraps(data.load_split)  # so that it has the keys of the config's section
def image_set_of(name, split, **section):
    assert (name, split, section["cache_dir"]) == ("digits", "all", None)
    return image_set(30)


def test_test_images_that_the_pretraining_has_seen_are_counted(tmp_path, monkeypatch):
    theirs = settings("--config.data.name=digits", "--config.split.train=all")
    workdir_lib.write_config(tmp_path, theirs)
    mine = settings("--config.data.name=digits", f"--config.init.workdir={tmp_path}")
    monkeypatch.setattr(data, "load_split", image_set_of)
    assert guards.shared_with_pretraining(mine, image_set(40)) == 30
    assert guards.shared_with_pretraining({**mine, "init": {"workdir": None}}, image_set()) == 0
    same = {**mine, "split": {**mine["split"], "train": "all"}}
    assert guards.shared_with_pretraining(same, image_set()) == 0


def test_the_guards_say_what_they_found_and_nothing_else():
    fine = {
        "batch_norm_at_rest": True,
        "encoder_frozen": None,
        "shared_with_pretraining": 0,
        "near_duplicates": np.zeros((0, 2), int),
        "best_on_test": False,
    }
    both = splits.Splits(image_set(), image_set(20), False, 0)
    assert guards.sentences(fine, both) == []
    for change, words in [
        ({"batch_norm_at_rest": False}, "BatchNorm is not in its evaluation mode"),
        ({"encoder_frozen": False}, "was to be frozen and has changed"),
        ({"shared_with_pretraining": 3}, "3 of these test images were in the training split"),
        ({"near_duplicates": np.asarray([[4, 17], [5, 1]])}, "2 of 20 test images have a near-duplicate"),
        ({"best_on_test": True}, "best-on-test"),
    ]:
        (sentence,) = guards.sentences({**fine, **change}, both)
        assert words in sentence
    assert (
        "4.png, which is like 17.png" in guards.sentences({**fine, "near_duplicates": np.asarray([[4, 17]])}, both)[0]
    )


def test_single_modules_of_the_encoder_rest_while_weight_decay_moves_the_others():
    tx = frozen.leave_encoder(optax.adamw(0.1, weight_decay=0.5), modules=("patch_projection",))
    params = {"encoder": {"patch_projection": {"kernel": jnp.ones(2)}, "norm": jnp.ones(2)}, "head": jnp.ones(2)}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["encoder"]["patch_projection"]["kernel"], 1.0)
    np.testing.assert_allclose((moved["encoder"]["norm"], moved["head"]), 0.95, rtol=1e-6)
