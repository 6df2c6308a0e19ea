"""From words on the command line to a config, and from a config to built parts: every mistake is one line."""

import re

import pytest

from simclr_jax import base
from simclr_jax.run import config as config_lib
from simclr_jax.run import setup, shipped_configs


def parse(*words):
    return config_lib.parse(words)


def message_of(*words):
    """The message for a command line that must be refused: one line, short enough to read."""
    with pytest.raises(base.InputError) as caught:
        parse(*words)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    assert 10 <= len(message) <= 400, message
    return message


@pytest.mark.parametrize(
    "words", [("--config=smoke",), ("--config", "smoke"), ("-config=smoke",), ("-config", "smoke")], ids=" ".join
)
def test_a_shipped_config_is_found_by_its_bare_name(words):
    settings, rest = parse(*words, "--workdir=a b")
    assert settings.data.name == "digits"
    assert settings.is_locked
    assert rest == ["--workdir=a b"]


def test_what_is_not_about_the_config_is_left_as_it_is_wherever_it_stands():
    settings, rest = parse("--workdir", "w", "--config.seed", "3", "-q=1", "--config=smoke", "x", "--config.seed=4")
    assert settings.seed == 4 and rest == ["--workdir", "w", "-q=1", "x"]
    assert config_lib.parse(["--workdir=w"], default="demo")[0].data.name == config_lib.load_file("demo").data.name
    assert config_lib.parse(["--config=smoke"], default="demo")[0].data.name == "digits"
    assert config_lib.load_file("smoke", "--config.seed=4").seed == 4
    with pytest.raises(base.InputError, match="An override must be"):
        config_lib.load_file("smoke", "--seed=4")


def test_an_argument_behind_the_colon_reaches_get_config():
    assert config_lib.load_file("cifar10:epochs=7").train.num_epochs == 7.0
    assert config_lib.load_file("folder:/data/a:b").data.name == "folder:/data/a:b"


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.batch_size=128", "train", "batch_size", 128),
        ("augment.color_jitter_strength=0.25", "augment", "color_jitter_strength", 0.25),
        ("train.num_epochs=3", "train", "num_epochs", 3.0),
        ("schedule.base_learning_rate=1e-2", "schedule", "base_learning_rate", 1e-2),
        ("encoder.name=resnet50", "encoder", "name", "resnet50"),
        ("data.cache_dir=", "data", "cache_dir", ""),
        ("data.canvas_size=96", "data", "canvas_size", 96),
        ("data.data_dir=/a=b", "data", "data_dir", "/a=b"),
        ("probe.label_fractions=(0.5,1.0)", "probe", "label_fractions", (0.5, 1.0)),
    ],
)
def test_an_override_keeps_the_type_of_the_key(override, section, key, value):
    for words in ([f"--config.{override}"], [f"-config.{override}"], f"--config.{override}".split("=", 1)):
        got = parse("--config=smoke", *words)[0][section][key]
        assert got == value and type(got) is type(value)


def test_a_config_of_ones_own_may_start_from_the_default(tmp_path):
    file = tmp_path / "mine.py"
    source = "from configs import smoke\ndef get_config():\n    c = smoke.get_config()\n    c.seed = 7\n    return c\n"
    file.write_text(source)
    assert parse(f"--config={file}", "--config.train.batch_size=8")[0].seed == 7


@pytest.mark.parametrize(
    "source",
    [
        "def get_config():\n    return 1 / 0\n",
        "def get_config():\n    return 3\n",
        "def get_config(:\n",
        "import nothing_like_this\n",
        "x = 1\n",
        "raise SystemExit('no')\n",
    ],
)
def test_a_broken_config_file_is_named_in_one_line(tmp_path, source):
    (tmp_path / "mine.py").write_text(source)
    assert "mine.py" in message_of(f"--config={tmp_path / 'mine.py'}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config=smok"], ["smoke", "demo", "Did you mean smoke?"]),
        (["--workdir=a"], ["--config", "demo"]),
        (["--config"], ["--config", "demo"]),
        (["--config="], ["--config", "demo"]),
        (["--config=smoke", "--config.trian.batch_size=3"], ["trian", "train", "augment"]),
        (["--config=smoke", "--config.train.batch=3"], ["train.batch", "batch_size", "num_epochs"]),
        (["--config=smoke", "--config.seed.x=3"], ["seed.x"]),
        (["--config=smoke", "--config.train=3"], ["train", "batch_size"]),
        (["--config=smoke", "--config.train.batch_size=many"], ["batch_size", "many"]),
        (["--config=smoke", "--config.train.batch_size=1.5"], ["batch_size", "1.5"]),
        (["--config=smoke", "--config.train.batch_size"], ["batch_size"]),
        (["--config=smoke", "--noconfig.train.batch_size"], ["batch_size"]),
        (["--config=smoke", "--config.seed=1", "--config.=1"], ["seed", "train"]),
        (["--config=smoke", "--config=demo"], ["--config"]),
        (["--config=cifar10:epochs=many"], ["epochs=N", "many"]),
        (["--config=cifar10:steps=4"], ["epochs=N", "steps"]),
        (["--config=smoke:epochs=4"], ["smoke"]),
    ],
)
def test_a_mistake_is_answered_with_what_is_valid(words, told):
    message = message_of(*words)
    for part in told:
        assert part in message, message


REFUSED = """
train.batch_size=0 train.batch_size=-5 train.num_epochs=-3 train.num_epochs=0 train.num_epochs=nan train.num_epochs=inf
train.steps_per_dispatch=0 train.log_every_steps=0 train.checkpoint_every_steps=-1 train.keep_checkpoints=0
train.evaluate_every_epochs=-1 train.evaluate_every_epochs=nan train.batch_size=99999999999999999999
encoder.name=foo encoder.stem=foo encoder.dtype=int8 encoder.width_multiplier=-1 encoder.width_multiplier=nan
encoder.width_multiplier=inf encoder.dtype=float64
augment.image_size=0 augment.image_size=-3 augment.image_size=99999999999
augment.color_jitter_strength=9 augment.color_jitter_strength=nan augment.resize=foo
augment.brightness=foo augment.flip_probability=2 augment.blur_probability=nan augment.blur_sigma_per=foo
augment.crop_min_scale=0 augment.crop_min_scale=nan
method.name=foo method.temperature=-1 method.temperature=0 method.temperature=nan method.temperature=inf
method.num_proj_layers=9 method.num_proj_layers=-1 method.proj_out_dim=0 method.proj_out_dim=-4 method.loss_scale=nan
method.loss_scale=0
optimizer.name=foo optimizer.weight_decay=nan optimizer.weight_decay=-1 optimizer.momentum=nan optimizer.momentum=2
schedule.learning_rate_scaling=foo schedule.warmup_epochs=-1 schedule.warmup_epochs=nan schedule.warmup_epochs=50
schedule.base_learning_rate=nan schedule.base_learning_rate=-1 schedule.base_learning_rate=inf
data.name=foo data.name= data.name=folder: data.name=tfds: data.name=folder:/no/such/folder
data.canvas_size=0 data.max_corrupt_fraction=2 data.max_corrupt_fraction=nan split.train=foo split.test=foo
seed=-1 seed=99999999999999999999
probe.batch_size=0 probe.knn_k=0 probe.knn_temperature=0 probe.knn_temperature=nan probe.label_fractions=(0.0,)
probe.label_fractions=(2.0,) probe.knn_weights=foo method.proj_hidden_dim=0 probe.label_fractions=()
""".split()  # noqa: SIM905


@pytest.mark.few(40)
@pytest.mark.parametrize("override", REFUSED)
def test_a_value_that_no_run_can_have_is_refused_before_training(override):
    with pytest.raises(base.InputError) as caught:
        setup.make_run(parse("--config=smoke", f"--config.{override}")[0].to_dict())
    message = str(caught.value)
    assert "\n" not in message and len(message) <= 400
    key = override.partition("=")[0]
    said = {"data.name": "the data set must|folder:PATH|tfds:NAME", "split.train": "split of", "split.test": "split of"}
    assert re.search(said.get(key, rf"(^|\W){key}\W"), message), message


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (
            "cifar10_simsiam",
            ["schedule.warmup_epochs=10"],
            "constant_rate_for .* got predictor and schedule.w",
        ),
        ("cifar10_moco", ["train.num_chunks=128"], "bn_splits must divide .* got 8 and 512 in 128 chunks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_the_data_are_read(config, overrides, message):
    settings, _ = parse(f"--config={config}", *(f"--config.{override}" for override in overrides))
    with pytest.raises(base.InputError, match=message) as caught:
        setup.make_run(settings.to_dict())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["encoder", "augment", "method", "optimizer", "schedule", "train", "data"])
def test_a_section_with_another_or_a_missing_key_lists_the_keys_it_takes(section):
    good = config_lib.load_file("smoke").to_dict()
    with pytest.raises(base.InputError, match=rf"section {section} takes .*got unknown colour"):
        setup.make_run({**good, section: {**good[section], "colour": 1}})
    with pytest.raises(base.InputError, match=section):
        setup.make_run({key: value for key, value in good.items() if key != section})


def test_call_hands_a_section_to_its_function():
    def function(first, *, second=2, third):
        return first, second, third

    assert config_lib.call(function, {"part": {"first": 1}}, "part", third=3) == (1, 2, 3)
    with pytest.raises(base.InputError, match="section part takes first, second; got missing first"):
        config_lib.call(function, {"part": {}}, "part", third=3)
    with pytest.raises(base.InputError, match="section part with first, second, third; it is missing"):
        config_lib.call(function, {}, "part")


def test_a_config_that_lacks_keys_is_refused_with_their_names(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import default\ndef get_config():\n"
        "    config = default.get_config()\n    del config.augment.resize\n    return config\n"
    )
    with pytest.raises(base.InputError, match=r"own.py lacks augment.resize. Start from default.get_config"):
        config_lib.load_file(str(own))


@pytest.mark.few(5)
@pytest.mark.parametrize("none", ["None", "none"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("folder", "data.canvas_size"),
        ("folder", "data.cache_dir"),
        ("smoke", "data.data_dir"),
        ("smoke", "init.workdir"),
        ("smoke", "split.label_fraction"),
        ("smoke", "method.proj_hidden_dim"),
        ("smoke", "train.max_resident_gigabytes"),
        ("finetune:/run", "augment.image_size"),
    ],
)
def test_none_opens_a_key_that_may_be_open_and_the_last_word_counts(name, key, none):
    section, _, leaf = key.partition(".")
    value = (
        "8"
        if leaf in ("canvas_size", "proj_hidden_dim", "max_resident_gigabytes", "image_size")
        else "0.5"
        if leaf == "label_fraction"
        else "/x"
    )
    for words in ([f"--config.{key}={none}"], [f"--config.{key}", none], [f"--config.{key}={value}"] * 2):
        words = [f"--config={name}", f"--config.{key}={value}", *words]
        got = parse(*words)[0][section][leaf]
        assert got is None if none in words[-1] else str(got).removesuffix(".0") == value
    assert parse(f"--config={name}", f"--config.{key}=None", f"--config.{key}={value}")[0][section][leaf] is not None


@pytest.mark.parametrize(
    "key", ["train.batch_size", "augment.color_jitter_strength", "train.fused_conv_bn", "probe.label_fractions", "seed"]
)
def test_none_for_a_key_that_needs_a_value_lists_the_keys_that_do_not(key):
    message = message_of("--config=smoke", f"--config.{key}=None")
    assert (
        f"--config.{key} must be" in message and "data.canvas_size" in message and "method.proj_hidden_dim" in message
    )


def test_a_word_that_is_none_stays_a_word_where_it_is_a_choice():
    assert (
        parse("--config=smoke", "--config.schedule.learning_rate_scaling=none")[0].schedule.learning_rate_scaling
        == "none"
    )


def test_paths_are_absolute_whatever_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--config.data.cache_dir=~/c", "--config.init.workdir=runs/../a/", "--config.data.data_dir=d/"]
    settings = parse("--config=folder:photos/x y", *words[:2])[0]
    assert settings.data.name == f"folder:{tmp_path}/photos/x y"
    assert (settings.data.cache_dir, settings.init.workdir) == ("/home/me/c", f"{tmp_path}/a")
    assert parse("--config=folder:~/photos")[0].data.name == "folder:/home/me/photos"
    assert parse("--config=finetune:~/run")[0].init.workdir == "/home/me/run"
    below = parse("--config=folder:photos", words[2])[0].data
    assert (below.name, below.data_dir) == ("folder:photos", f"{tmp_path}/d")  # a relative name begins in data_dir


@pytest.mark.parametrize(
    "word",
    [
        "--config=folder:gs://b/x",
        "--config=finetune:s3://b/x",
        "--config.data.data_dir=gs:/b",
        "--config.data.name=folder:a\0b",
        "--config.data.cache_dir=hdfs://h/x",
        "--config.init.workdir=http://h/x",
        "--config.init.workdir=",
        "--config=gs://b/c.py",
    ],
)
def test_a_url_or_what_is_no_path_is_refused_for_every_key(word):
    message = message_of(*([word] if word.startswith("--config=") else ["--config=smoke", word]))
    assert "must be a path" in message


def test_a_config_file_may_have_colons_in_its_path(tmp_path, monkeypatch):
    own = tmp_path / "c:d" / "tiny.py"
    own.parent.mkdir()
    own.write_text("from configs import folder\ndef get_config(arg='p'):\n    return folder.get_config(arg)\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in (f"{own}:/a:b", "~/c:d/tiny.py:/a:b"):
        assert config_lib.load_file(spec).data.name == "folder:/a:b"
    assert config_lib.load_file(str(own)).data.name.endswith("/p")
    assert "c:d/none.py" in message_of(f"--config={tmp_path}/c:d/none.py:x")


def test_a_message_names_the_section_of_what_it_asks_for():
    settings = parse("--config=smoke", "--config.schedule.warmup_epochs=2", "--config.train.num_epochs=1")[0].to_dict()
    with pytest.raises(base.InputError) as caught:
        setup.make_run(settings)
    assert "--config.schedule.warmup_epochs=0.1 with --config.train.num_epochs=1" in str(caught.value)


def test_the_data_of_a_run_are_found_where_they_are_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new" / "photos").mkdir(parents=True)
    run = {"data": {"name": "folder:/gone/photos", "data_dir": None, "cache_dir": None}, "seed": 1}
    moved = config_lib.with_data(run, data="folder:new/photos", cache_dir="")
    assert moved == {"data": {"name": f"folder:{tmp_path}/new/photos", "data_dir": None, "cache_dir": ""}, "seed": 1}
    relative = {"data": {**run["data"], "name": "folder:photos", "data_dir": "/gone"}}
    assert config_lib.with_data(relative, data_dir="new")["data"]["data_dir"] == f"{tmp_path}/new"
    mixed = config_lib.with_data(run, data="mix:folder:new/photos*2,tfds:a")["data"]["name"]
    assert mixed == f"mix:folder:{tmp_path}/new/photos*2,tfds:a*1"
    digits = {"data": {**run["data"], "name": "digits"}}
    assert config_lib.with_data(digits) == digits
    for told, arguments in {
        "got /gone/photos. Say where they are now: --data=folder:PATH": {},
        f"got {tmp_path}/no": {"data": "folder:no"},
        f"got {tmp_path}/gone": {"data": "mix:folder:new/photos,folder:gone*3"},
        "--data_dir is where": {"data_dir": "new"},
        "not a URL": {"data": "folder:gs://b/x"},
    }.items():
        with pytest.raises(base.InputError, match=re.escape(told)):
            config_lib.with_data(run, **arguments)


def test_the_listing_of_the_shipped_configs_has_every_name_once():
    text = shipped_configs.listing()
    alone = re.sub(r"\w+_\{.*?\}", "", text)
    families = [f"{first}_{rest}" for first, many in re.findall(r"(\w+)_\{(.*?)\}", text) for rest in many.split(", ")]
    assert sorted([*re.findall(r"\w+", alone), *families]) == sorted(shipped_configs.configs())
