"""Mistakes in a config that are said before the data are read."""

import functools

import pytest

from simclr_jax import base, data
from simclr_jax.run import config as config_lib
from simclr_jax.run import setup
from tests.data.prepare import makers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("split.label_fraction=0.1", "split.label_list=few.txt"), "both choose the labelled images; got both"),
        (("split.label_list=missing.txt",), "must be a text file with a file name a line; .*missing.txt: No such file"),
        (("feed.kind=streamed",), "feed.kind streamed is for pictures on disk; got the built-in digits"),
    ],
)
def test_what_no_data_can_mend_is_refused_before_they_are_read(tmp_path, monkeypatch, words, said):
    @functools.wraps(data.load_split)  # so that it has the keys of the config's section
    def unread(*names, **settings):
        raise AssertionError("the data are read")

    monkeypatch.setattr(data, "load_split", unread)
    monkeypatch.chdir(tmp_path)
    config = config_lib.load_file("smoke", *(f"--config.{word}" for word in words)).to_dict()
    with pytest.raises(base.InputError, match=said):
        setup.make_run(config)


def test_the_steps_of_a_run_on_a_mix_are_counted_from_how_often_its_images_come(tmp_path):
    makers.class_folders(tmp_path / "a", num_each=6)
    makers.class_folders(tmp_path / "b", num_each=12)
    name = f"mix:folder:{tmp_path}/a*5,folder:{tmp_path}/b*0.5"
    words = [f"data.name={name}", "data.cache_dir=", "train.batch_size=8", "train.num_epochs=2.0"]
    config = config_lib.load_file("smoke", *(f"--config.{word}" for word in words)).to_dict()
    run = setup.make_run(config)
    assert len(run.train_set.images) == 12 + 24 and run.num_steps == 2 * (5 * 12 + 12) // 8 + 1
    assert run.source.weights == (5.0, 0.5) and run.test_set is not None and len(run.test_set.images) == 36
    config["train"]["batch_size"] = 40
    with pytest.raises(base.InputError, match="the number of training images; got 40 and 36"):
        setup.make_run(config)
