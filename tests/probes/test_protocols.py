"""The names of protocols: every name that is written is found again, and no other."""

import pathlib
import re

import numpy as np
import pytest

from simclr_jax import base, probes

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = {
    "k": 20,
    "temperature": "0.07",
    "features": "standardized",
    "epochs": "90",
    "batch_norm": "frozen-bn",
    "selector": 1,
    "way": "image-to-text",
    "templates": "4-1a2b3c4d",
}


@pytest.mark.parametrize("kind", probes.PROTOCOLS)
def test_a_name_is_found_again_whatever_its_settings(kind):
    row = probes.PROTOCOLS[kind]
    name = probes.protocol_name(kind, **SETTINGS)
    assert "{" not in name and name.endswith(f".v{row.version}")
    assert probes.find_protocol(name) is row
    assert probes.find_protocol(probes.best_on_test(name)) is row
    assert row.what and row.source
    label = probes.protocol_label(name)
    assert label and "{" not in label and probes.protocol_label(probes.best_on_test(name)) == f"{label}, best on test"
    for other in (name.replace(f".v{row.version}", f".v{row.version + 1}"), f"x{name}", name + ".x", ""):
        with pytest.raises(base.InputError, match="A protocol must be one of knn"):
            probes.find_protocol(other)


@pytest.mark.slow
def test_all_names_that_probe_rows_write_are_of_the_table():
    rng = np.random.default_rng(0)
    h, labels = rng.normal(size=(60, 120)).astype(np.float32), np.arange(60) % 2
    rows = probes.probe_rows({"pixels": (h, h)}, labels, labels, num_classes=2, fractions=(1.0,), more_k=(3,))
    uniform = probes.knn_protocol(5, 0.1, 60, weights="uniform")
    names = [*(row["protocol"] for row in rows), uniform, probes.knn_protocol(5, 0.07, 60)]
    assert {probes.find_protocol(name) for name in names} == {
        probes.PROTOCOLS[kind] for kind in ("knn", "knn_uniform", "linear", "ridge")
    }


def test_the_page_on_numbers_tells_every_protocol():
    text = (ROOT / "docs" / "numbers.md").read_text()
    for row in probes.PROTOCOLS.values():
        shown = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), row.pattern)
        assert f"`{shown}.v{row.version}`" in text
