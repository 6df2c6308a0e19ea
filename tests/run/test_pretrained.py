"""Starting from another run: what is taken over, and training that does."""

import json

import jax
import numpy as np
import pytest

from simclr_jax import base, data, probes
from simclr_jax.cli import evaluate_features, preview, train
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, guards, identity, pretrained, setup


def settings(*words: str) -> dict:
    return config_lib.parse(words)[0].to_dict()


@pytest.fixture
def workdir(small_run):
    return small_run


def finetune(workdir, *words: str) -> dict:
    return settings(f"--config=finetune:{workdir}", "--config.train.batch_size=32", *words)


def leaves(tree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_a_config_without_a_run_is_left_as_it_is():
    mine = settings("--config=default")
    assert pretrained.inherit(mine) == mine


def test_encoder_head_data_and_image_size_come_from_the_run(workdir):
    theirs = json.loads((workdir / "config.json").read_text())
    mine = pretrained.inherit(finetune(workdir, "--config.encoder.dtype=bfloat16"))
    assert json.loads(json.dumps(mine["encoder"])) == {**theirs["encoder"], "dtype": "bfloat16"}
    assert mine["encoder"]["mean"] == ()  # a tuple, as in every config: the file has a list
    assert json.loads(json.dumps(mine["data"])) == theirs["data"] and mine["split"]["train"] == theirs["split"]["train"]
    assert mine["augment"]["image_size"] == 8 and mine["augment"]["color_jitter_probability"] == 0.0
    assert (
        mine["method"]["name"] == "supervised"
        and mine["method"]["num_proj_layers"] == theirs["method"]["num_proj_layers"]
    )


def test_norm_and_remat_are_the_configs_where_the_weights_fit_both(workdir):
    mine = pretrained.inherit(finetune(workdir, "--config.encoder.norm=frozen", "--config.encoder.remat=blocks"))
    assert (mine["encoder"]["norm"], mine["encoder"]["remat"]) == ("frozen", "blocks")
    assert pretrained.inherit(finetune(workdir, "--config.encoder.norm=group"))["encoder"]["norm"] == "batch"


def test_data_that_are_named_are_not_replaced(workdir):
    mine = pretrained.inherit(finetune(workdir, "--config.data.name=photo-patches", "--config.augment.image_size=16"))
    assert mine["data"]["name"] == "photo-patches" and mine["augment"]["image_size"] == 16
    assert mine["split"]["test"] == "test"


def test_a_run_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(base.InputError, match="workdir must be the folder of a run"):
        pretrained.inherit(finetune(tmp_path))


def of_half_the_labels(workdir) -> dict:
    return finetune(
        workdir,
        "--config.split.label_fraction=0.5",
        "--config.train.num_epochs=12",
        "--config.optimizer.name=adamw",
        "--config.schedule.learning_rate_scaling=none",
        "--config.schedule.base_learning_rate=0.01",
        "--config.augment.flip_probability=0.0",
        "--config.augment.crop_min_scale=0.5",
        "--config.train.evaluate_every_epochs=0.0",
    )


def test_fine_tuning_starts_from_the_weights_and_half_the_labels(workdir):
    asked = of_half_the_labels(workdir)
    run = setup.make_run(pretrained.inherit(asked))
    whole = config_lib.call(data.load_split, pretrained.inherit(asked), "data", split="train")
    rows = probes.label_subset(whole.labels, 0.5)
    np.testing.assert_array_equal(run.train_set.images, whole.images[rows])
    _, params, method_state = features.load_variables(workdir, which="latest")
    start = pretrained.adopt(sharding.jit_once(run.init, run.mesh)(), workdir=str(workdir), which="latest")
    ours = {**leaves(start.params["encoder"]), **leaves(start.params["projection_head"])}
    theirs = {**leaves(params["encoder"]), **leaves(params["projection_head"])}
    assert ours and all((value == theirs[name]).all() for name, value in ours.items())
    assert set(start.params["projection_head"]) == {"dense1", "bn1"}
    statistics = leaves(start.method_state["batch_stats"]["encoder"])
    expected_statistics = leaves(method_state["batch_stats"]["encoder"])
    assert all((value == expected_statistics[name]).all() for name, value in statistics.items())


@pytest.mark.slow
def test_fine_tuning_learns_the_classes(workdir, tmp_path):
    asked, folder = of_half_the_labels(workdir), tmp_path / "tuned"
    assert train.main(config=asked, workdir=str(folder)) == 0
    _, params, method_state = features.load_variables(folder, which="latest")
    test_set = config_lib.call(data.load_split, pretrained.inherit(asked), "data", split="test")
    scores = evaluate_features.score_classifier(pretrained.inherit(asked), params, method_state, test_set=test_set)
    # Ten digits: chance is 0.1; a run like this one reached 0.95.
    assert scores["top_5"] > scores["top_1"] > 0.8


@pytest.mark.slow
def test_weights_of_another_shape_are_named_in_one_line(workdir):
    run = setup.make_run(pretrained.inherit(finetune(workdir)))
    state = sharding.jit_once(run.init, run.mesh)()
    state.params["encoder"]["stem"]["conv1"]["kernel"] = np.zeros((3, 3, 3, 5), np.float32)
    with pytest.raises(base.InputError, match=r"encoder/stem/conv1/kernel of shape \[3, 3, 3, 5\]; it has shape"):
        pretrained.adopt(state, workdir=str(workdir), which="latest")


def test_a_selector_beyond_the_head_is_refused_before_the_data_are_read(workdir):
    with pytest.raises(base.InputError, match="selector"):
        setup.make_run(pretrained.inherit(finetune(workdir, "--config.method.ft_proj_selector=4")))


def test_preview_draws_the_views_of_a_config_that_starts_from_a_run(workdir, tmp_path):
    output = tmp_path / "views.png"
    assert preview.main(config=finetune(workdir), output=str(output), num_images=2) == 0
    assert output.stat().st_size > 1000


@pytest.mark.slow  # test_frozen holds it for the step
def test_linear_evaluation_leaves_the_encoder_as_it_was(workdir, tmp_path):
    folder = tmp_path / "linear"
    words = ["--config.train.batch_size=64", "--config.train.num_epochs=0.2", "--config.train.checkpoint_every_steps=9"]
    asked = settings(f"--config=linear_eval:{workdir}", *words)
    assert train.main(config=asked, workdir=str(folder)) == 0
    config = identity.read_config(folder)
    (_, theirs), (_, params, method_state) = (
        features.load_encoder_variables(workdir, which="latest"),
        features.load_variables(folder, which="latest"),
    )
    mine = features.encoder_variables(params, method_state)
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert np.abs(params["supervised_head"]["dense"]["kernel"]).max() > 0
    assert guards.encoder_was_frozen(folder, config, params=params, method_state=method_state) is True
    params["encoder"]["stem"]["conv1"]["kernel"] = params["encoder"]["stem"]["conv1"]["kernel"] + np.float32(1e-7)
    assert guards.encoder_was_frozen(folder, config, params=params, method_state=method_state) is False
