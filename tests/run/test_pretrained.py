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
from simclr_jax.run import workdir as workdir_lib


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


def of_trees(monkeypatch, params: dict, batch_stats: dict) -> None:
    """Lets every run that is read have these weights."""
    found = (0, params, {"batch_stats": batch_stats})
    monkeypatch.setattr(pretrained.features, "load_variables", lambda workdir, *, which: found)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_teacher_has_the_weights_of_its_run_and_the_student_keeps_its_own(monkeypatch):
    theirs = {"encoder": {"w": 2 * ones(2)}, "projection_head": {}, "supervised_head": {"b": 3 * ones(4)}}
    of_trees(monkeypatch, {**theirs, "unused": ones(1)}, {"encoder": {"mean": 4 * ones(2)}, "projection_head": {}})
    empty = {"params": jax.tree.map(np.zeros_like, theirs), "batch_stats": {"encoder": {"mean": 0 * ones(2)}}}
    student = {"encoder": {"w": ones(2)}}
    state = base.TrainState(0, student, {"batch_stats": {}, "teacher": empty}, ())
    adopted = pretrained.adopt_teacher(state, workdir="runs/tuned", which="latest")
    jax.tree.map(np.testing.assert_array_equal, adopted.method_state["teacher"]["params"], theirs)
    np.testing.assert_array_equal(adopted.method_state["teacher"]["batch_stats"]["encoder"]["mean"], 4 * ones(2))
    np.testing.assert_array_equal(adopted.params["encoder"]["w"], ones(2))
    of_trees(monkeypatch, {**theirs, "supervised_head": {"b": ones(5)}}, {"encoder": {"mean": ones(2)}})
    with pytest.raises(base.InputError, match=r"The teacher in runs/tuned must .* supervised_head/b of shape \[4\]"):
        pretrained.adopt_teacher(state, workdir="runs/tuned", which="latest")


def test_a_momentum_network_begins_as_the_network_and_the_remedy_is_one_for_the_method(monkeypatch):
    theirs = {"encoder": {"w": 2 * ones(2)}, "projection_head": {"w": 3 * ones(1)}, "predictor": {"w": 4 * ones(1)}}
    mine = jax.tree.map(np.zeros_like, theirs)
    target = {"params": {name: mine[name] for name in ("encoder", "projection_head")}, "batch_stats": {"encoder": {}}}
    state = base.TrainState(0, mine, {"batch_stats": {"encoder": {}}, "target": target}, ())
    of_trees(monkeypatch, theirs, {"encoder": {}})
    adopted = pretrained.adopt(state, workdir="runs/byol", which="latest")
    jax.tree.map(np.testing.assert_array_equal, adopted.params, theirs)
    moved = adopted.method_state["target"]["params"]
    jax.tree.map(np.testing.assert_array_equal, moved, {name: theirs[name] for name in moved})
    of_trees(monkeypatch, {name: tree for name, tree in theirs.items() if name != "predictor"}, {"encoder": {}})
    with pytest.raises(base.InputError, match=r"predictor/w .* it has nothing. Start from a run of the same method"):
        pretrained.adopt(state, workdir="runs/byol", which="latest")


def test_a_student_is_built_by_what_its_teachers_run_was_built_from(tmp_path):
    theirs = settings("--config=finetune", "--config.encoder.name=resnet34", "--config.augment.image_size=24")
    workdir_lib.write_config(tmp_path, theirs)
    identity.write_data(tmp_path, identity.Data("folder", "print", 40, ("a", "b", "c")))
    mine = pretrained.inherit(settings(f"--config=distill:{tmp_path}"))
    assert mine["teacher"]["encoder"] == theirs["encoder"] and mine["teacher"]["num_classes"] == 3
    assert mine["teacher"]["head"]["ft_proj_selector"] == 1 and mine["encoder"]["name"] == "resnet50"
    assert (mine["data"], mine["augment"]["image_size"]) == (theirs["data"], 24)
    workdir_lib.write_config(tmp_path, settings("--config=default"))
    with pytest.raises(base.InputError, match="A teacher must be a run with a classifier"):
        pretrained.inherit(settings(f"--config=distill:{tmp_path}"))


@pytest.mark.slow
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
