"""Every key of every shipped config has a rule, and what breaks it is refused by its full name."""

import math

import pytest

from simclr_jax import base
from simclr_jax.run import config as config_lib
from simclr_jax.run import config_rules, shipped_configs

SMOKE = config_lib.load_file("smoke").to_dict()


def changed(key, value):
    """The config with another value."""
    section, _, name = key.rpartition(".")
    return {**SMOKE, section: {**SMOKE[section], name: value}} if section else {**SMOKE, name: value}


def test_every_key_of_the_shipped_configs_has_a_rule():
    for name in shipped_configs.configs():
        keys = base.flat(config_lib.load_file(name).to_dict())
        assert all(config_rules.rule_of(key) is not None for key in keys), name
    assert len(config_rules.RULES) > 100


def test_what_no_key_takes_is_refused_for_each_with_its_name():
    for key in base.flat(SMOKE):
        for value in (math.nan, math.inf, 10**5000, b"x", object(), {}, {"a": 1}, ((1,),), [None], 1j):
            with pytest.raises(base.InputError) as caught:
                config_rules.check(changed(key, value))
            message = str(caught.value)
            assert message.startswith(f"{key} must be ") and "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.batch_size", True, "a whole number from 1 to 16777216; got True"),
        ("train.batch_size", 2.0, "a whole number"),
        ("train.fused_conv_bn", 1, "True or False; got 1"),
        ("augment.small_crop_scale", (0.1,), "a tuple of 2, each a number above 0 and up to 1; got (0.1,)"),
        ("data.canvas_size", 7, "from 8 to 4096, or None; got 7"),
        ("seed", -1, "seed must be a whole number from 0"),
        ("split.train", None, "text; got None"),
    ],
)
def test_the_line_says_rule_and_value(key, value, told):
    with pytest.raises(base.InputError) as caught:
        config_rules.check(changed(key, value), remedies={key: 3})
    assert told in str(caught.value) and "Use for example 3." in str(caught.value)


def test_a_key_that_nobody_reads_is_refused_and_a_method_of_ones_own_is_not():
    with pytest.raises(base.InputError, match=r"train.bach_size is no key of a config; the section train has batch"):
        config_rules.check(changed("train.bach_size", 3))
    with pytest.raises(base.InputError, match="extra is no key of a config"):
        config_rules.check(changed("extra", 3))
    with pytest.raises(base.InputError, match=r"train must be a section of keys; got 3"):
        config_rules.check(changed("train", 3))
    config_rules.check(changed("method.of_my_own", 3))


def test_what_a_run_inherits_may_be_open_where_it_starts_from_another():
    with pytest.raises(base.InputError, match=r"data.name must be text; got None"):
        config_rules.check(changed("data.name", None))
    config_rules.check({**changed("data.name", None), "init": {"workdir": "/a", "checkpoint": "latest"}})
