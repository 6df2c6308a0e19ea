"""Which settings and data a run must keep, and which it need not."""

import json

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.data import imageset
from simclr_jax.run import config as config_lib
from simclr_jax.run import identity
from simclr_jax.run import workdir as workdir_lib
from tests.data import test_streaming


def settings(*overrides, name="smoke"):
    return config_lib.load_file(name, *(f"--config.{override}" for override in overrides)).to_dict()


@pytest.fixture
def run(tmp_path):
    """A run that has saved a state; every test may spoil it."""
    workdir_lib.write_config(tmp_path, settings())
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    return tmp_path


FREE = [
    "train.keep_checkpoints=7",
    "train.log_every_steps=3",
    "train.checkpoint_every_steps=1",
    "train.evaluate_every_epochs=0.0",
    "train.steps_per_dispatch=5",
    "train.max_resident_gigabytes=0.5",
    "train.parameter_sharding=fsdp",
    "train.deterministic=True",
    "train.fused_conv_bn=False",
    "data.cache_dir=elsewhere",
    "data.data_dir=elsewhere",
    "data.max_corrupt_fraction=0.5",
    "data.name=folder:moved",
    "split.test=all",
    "feed.kind=streamed",
    "feed.workers=processes",
    "feed.num_workers=3",
    "encoder.remat=blocks",
    "method.loss_form=blockwise",
    "probe.batch_size=8",
    "probe.knn_k=3",
]
FIXED = [
    "seed=1",
    "augment.image_size=8",
    "augment.color_jitter_strength=0.1",
    "encoder.width_multiplier=0.125",
    "encoder.dtype=bfloat16",
    "encoder.norm=group",
    "method.temperature=0.3",
    "method.proj_out_dim=8",
    "optimizer.name=lars",
    "optimizer.weight_decay=0.5",
    "schedule.base_learning_rate=0.5",
    "schedule.warmup_epochs=0.1",
    "train.batch_size=32",
    "train.freeze_encoder=True",
    "split.label_list=few.txt",
    "train.num_chunks=2",
    "train.bn_group=device",
    "feed.crop_method=opencv",
    "split.train=all",
    "split.label_fraction=0.5",
    "init.workdir=other",
]


def test_a_run_goes_on_with_the_config_it_was_started_with(run):
    before = (run / "config.json").read_bytes()
    assert identity.check_config(run, settings()) == ""  # tuples have become lists on disk: still the same config
    assert (run / "config.json").read_bytes() == before


@pytest.mark.few(8)
@pytest.mark.parametrize("override", FREE)
def test_what_changes_no_result_may_change_and_is_said(run, override):
    key, _, value = override.partition("=")
    said = identity.check_config(run, settings(override))
    assert said.startswith("Going on with settings that differ") and key in said and value.split(":")[-1] in said


@pytest.mark.few(8)
@pytest.mark.parametrize("override", FIXED)
def test_what_makes_a_run_another_one_is_refused_by_name(run, override):
    with pytest.raises(base.InputError) as caught:
        identity.check_config(run, settings(override))
    message, key = str(caught.value), override.partition("=")[0]
    assert f"{key}: " in message and message.count(" there, ") == 1 and "\n" not in message


def test_every_key_is_either_free_or_fixed():
    """A new key that nobody has thought about makes a run another one, which is the safe side; here it is noticed."""
    thought_of = {override.partition("=")[0] for override in FREE + FIXED}
    sections = (
        "augment.",
        "method.",
        "optimizer.",
        "encoder.",
        "probe.",
        "data.",
        "init.",
        "schedule.",
        "teacher.",
        "text.",
    )
    config = settings()
    keys = set(base.flat(config))
    length = {"train.num_epochs", "train.stretch_schedule"}
    assert {key for key in keys if not key.startswith(sections)} - thought_of - length == set()
    is_free = {key: identity._is_free(key, config) for key in keys}
    assert all(free for key, free in is_free.items() if key.startswith(("probe.", "data."))), "for evaluation only"
    of_training = {key for key in keys if key.startswith(sections) and not key.startswith(("probe.", "data."))}
    assert {key for key in of_training if is_free[key]} == {"encoder.remat", "method.loss_form"}


def test_what_the_feed_auto_came_to_is_kept_wherever_the_run_goes_on(tmp_path):
    asked = settings("feed.kind=auto", "feed.num_workers=1", f"data.name=folder:{tmp_path / 'set'}")
    test_streaming.write_pictures(tmp_path / "set")
    how = {"cache_dir": "", "canvas_size": 64, "progress": False}
    for above, kind in ((-1, "streamed"), (np.inf, "canvas")):
        split = data.load_split(asked["data"]["name"], "all", stream_above=above, **how)
        kept = identity.with_resolved_feed(asked, split)
        assert kept["feed"] == {**asked["feed"], "kind": kind}
        workdir = tmp_path / kind
        workdir.mkdir()
        workdir_lib.write_config(workdir, kept)
        assert identity.with_kept_feed(workdir, asked) == asked  # nothing was saved
        (workdir / "checkpoints" / "5").mkdir(parents=True)
        assert identity.check_config(workdir, asked) == ""
        assert identity.with_kept_feed(workdir, asked)["feed"]["kind"] == kind
        other = settings("feed.kind=resident")
        assert identity.with_kept_feed(workdir, other) == other == identity.with_resolved_feed(other, split)


def test_before_the_first_checkpoint_everything_may_change(tmp_path):
    assert identity.check_config(tmp_path, settings("seed=1")) == ""
    workdir_lib.write_config(tmp_path, settings())
    said = identity.check_config(tmp_path, settings("train.batch_size=32", "seed=1"))
    assert "had saved nothing yet" in said and "train.batch_size 32 (was 64)" in said and "seed 1 (was 0)" in said


@pytest.mark.parametrize("name", ["smoke", "finetune"])
def test_keys_that_an_older_run_lacks_mean_their_default(tmp_path, name):
    older = json.loads(json.dumps(settings(name=name)))
    for key in (
        "train.deterministic",
        "train.fused_conv_bn",
        "probe.knn_weights",
        "schedule.restart_epochs",
        "encoder.remat",
    ):
        section, _, name_in_it = key.partition(".")
        del older[section][name_in_it]
    older["method"].pop("proj_hidden_dim", None)
    older["method"].pop("label_smoothing", None)
    workdir_lib.write_config(tmp_path, older)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert identity.check_config(tmp_path, settings(name=name)) == ""
    assert identity.read_config(tmp_path)["probe"]["knn_weights"] == "similarity"
    with pytest.raises(base.InputError, match=r"encoder\.norm: 'batch' there, 'group' asked"):
        identity.check_config(tmp_path, settings("encoder.norm=group", name=name))


def test_a_run_with_the_names_of_before_is_the_same_run(tmp_path):
    older = json.loads(json.dumps(settings()))
    for old, new in identity.OLD_NAMES.items():
        (section, before), (_, now) = old.split("."), new.split(".")
        older[section][before] = older[section].pop(now)
    assert "strength" in older["augment"] and "num_proj_layers" not in older["method"]
    older["probe"]["knn_votes"] = "weighted"
    workdir_lib.write_config(tmp_path, older)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert identity.check_config(tmp_path, settings()) == ""
    assert identity.read_config(tmp_path) == json.loads(json.dumps(settings()))


def test_chunks_are_free_where_they_are_exact(tmp_path):
    workdir_lib.write_config(tmp_path, settings("encoder.norm=group"))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert "train.num_chunks 4" in identity.check_config(tmp_path, settings("encoder.norm=group", "train.num_chunks=4"))


def test_a_longer_run_asks_how_the_learning_rate_goes_on(run):
    with pytest.raises(base.InputError) as caught:
        identity.check_config(run, settings("train.num_epochs=2.0"))
    message = str(caught.value)
    assert 'restart_epochs="(1.0,)"' in message and "stretch_schedule=True" in message
    longer = settings("train.num_epochs=2.0", "schedule.restart_epochs=(1.0,)")
    assert "train.num_epochs 2.0 (was 1.0)" in identity.check_config(run, longer)
    assert "num_epochs" in identity.check_config(run, settings("train.num_epochs=2.0", "train.stretch_schedule=True"))
    workdir_lib.write_config(run, longer)
    assert identity.check_config(run, longer) == ""
    again = settings("train.num_epochs=3.5", "schedule.restart_epochs=(1.0, 2.0)")
    assert "train.num_epochs 3.5" in identity.check_config(run, again)
    with pytest.raises(base.InputError, match="with restarts at 1; got 3"):
        identity.check_config(run, settings("train.num_epochs=3.0", "schedule.restart_epochs=(1.5,)"))


def described(class_names=("ant", "bee"), *, num_images=4, pixel=0, name="folder:photos"):
    images = np.full((num_images, 8, 8, 3), pixel, np.uint8)
    ids = tuple(map(str, range(num_images)))
    train_set = imageset.make_image_set(images, np.zeros(num_images, int), class_names=class_names, ids=ids)
    return identity.describe(name, train_set)


def test_the_data_of_a_run_stay_wherever_they_lie(run):
    identity.check_data(run, described())  # nothing is known about a run of before
    identity.write_data(run, described())
    assert identity.read_data(run) == described()
    identity.check_data(run, described(name="folder:/moved"))
    assert identity.note_data(run, described(name="folder:/moved")) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (described(("ant", "bee", "cat")), "started with 2 classes, folder:photos has 3 (new: cat)"),
        (described(("ant",)), "(gone: bee)"),
        (described(num_images=5), "started with 4 images, folder:photos has 5"),
        (described(pixel=1), "as many images as before, but other pixels"),
    ],
)
def test_other_data_are_refused_with_what_differs_until_the_user_says_so(run, now, said):
    identity.write_data(run, described())
    with pytest.raises(base.InputError) as caught:
        identity.check_data(run, now)
    message = str(caught.value)
    assert said in message and f"remove {run / 'data.json'}" in message and "\n" not in message
    assert said in identity.note_data(run, now)
    (run / "data.json").unlink()
    identity.check_data(run, now)


def test_the_weights_of_a_mix_belong_to_the_run(run):
    mixed = described(name="mix:folder:a*2,folder:b*0.5")._replace(weights=(2.0, 0.5))
    identity.write_data(run, mixed)
    assert identity.read_data(run) == mixed
    identity.check_data(run, mixed._replace(name="mix:folder:/moved/a*2,folder:/moved/b*0.5"))
    with pytest.raises(base.InputError, match=r"with a mix of the weights 2, 0\.5, .* has 2, 1\. Put the data back"):
        identity.check_data(run, mixed._replace(name="mix:folder:a*2,folder:b", weights=(2.0, 1.0)))


def test_data_may_change_while_nothing_is_saved(tmp_path):
    identity.write_data(tmp_path, described())
    identity.check_data(tmp_path, described(num_images=5))
