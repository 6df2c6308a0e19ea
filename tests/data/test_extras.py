"""A missing optional package is a one-line message."""

import subprocess
import sys

import pytest

from simclr_jax import base
from simclr_jax.data import extras


def test_a_missing_package_is_named_with_its_remedy():
    for call in (extras.require, extras.package_folder):
        with pytest.raises(base.InputError, match=r"package no_such_package; .*pip install 'simclr-jax\[data\]'"):
            call("no_such_package")
    with pytest.raises(base.InputError, match="package no_such_package;"):
        extras.require("no_such_package.part")


def test_importing_data_loads_no_heavy_package():
    heavy = "{'PIL', 'cv2', 'skimage', 'sklearn', 'tensorflow', 'tensorflow_datasets', 'torch', 'matplotlib'}"
    code = f"import sys, simclr_jax.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
