"""What the demo promises, on the demo itself."""

import json

import pytest

from simclr_jax.cli import evaluate, train
from simclr_jax.run import config as config_lib


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_beats_its_baselines_by_the_promised_margins(tmp_path):
    assert train.main(config=config_lib.load_file("demo").to_dict(), workdir=str(tmp_path)) == 0
    assert evaluate.main(workdir=str(tmp_path), checkpoint="latest") == 0
    rows = json.loads((tmp_path / "results.json").read_text())["probes"]
    linear = {row["features"]: row["accuracy"] for row in rows if (row["labels"], row["probe"]) == ("10%", "linear")}
    assert linear["simclr"] >= linear["pixels"] + 0.20
    assert linear["simclr"] >= linear["untrained"] + 0.10
    assert linear["simclr"] >= linear["histogram"] + 0.03
