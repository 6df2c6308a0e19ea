"""docs/methods.md holds what the code has: a section for every method, in one form, and configs that exist."""

import pathlib
import re

import pytest

from simclr_jax.methods import METHODS
from simclr_jax.run import config as config_lib
from simclr_jax.run import shipped_configs

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "methods.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_method_has_its_section_and_no_other_has_one():
    assert set(SECTIONS) == {"Which methods learn", *METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_a_section_has_its_parts_in_their_order(name):
    parts = (
        "```",
        "\nLoss: ",
        "\nDiffers: ",
        "\nConfigs: ",
        "Command:",
        "\nMeasured: ",
        "| data | protocol | published | here |",
    )
    places = [SECTIONS[name].find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    columns = [line.count("|") for line in SECTIONS[name].splitlines() if line.startswith("| ")]
    assert len(columns) >= 3 and set(columns) == {5}


@pytest.mark.parametrize("name", METHODS)
def test_the_configs_of_a_section_exist_and_are_of_its_method(name):
    told = SECTIONS[name].partition("\nConfigs: ")[2].partition("Command:")[0]
    overrides = re.findall(r"`(--config\.[^`]+)`", told)
    named = [word for word in re.findall(r"`(\w+)`", told) if word in shipped_configs.configs()]
    assert named and len(named) == len(re.findall(r"`(\w+)`", told)), told
    for config in named:
        # Data sets of TFDS and folders are not read here: a config only names them.
        assert config_lib.load_file(config, *overrides).method.name == name
    commands = re.findall(r"--config=(\w+)", SECTIONS[name])
    assert commands and set(commands) <= set(named)
