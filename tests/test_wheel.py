"""The built wheel, used with no checkout beside it."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_shipped_configs_and_the_page_template_travel_in_the_wheel(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=250)
    (wheel,) = tmp_path.glob("simclr_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import importlib.resources, simclr_jax; from simclr_jax.run import config, shipped_configs;"
        "print(simclr_jax.__file__, config.load_file('cifar10:epochs=7').train.num_epochs,"
        "(importlib.resources.files('simclr_jax') / 'html_report' / 'page.html.j2').is_file(),"
        "(importlib.resources.files('simclr_jax') / 'html_report' / 'explorer_app.js').is_file(),"
        "sorted(shipped_configs.configs()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site")) and " 7.0 True True " in done.stdout
    assert "imagenet_v2" in done.stdout
