"""Files of classifiers: all that the probe fits can be kept and read again."""

import numpy as np
import pytest

from simclr_jax import base, probes
from simclr_jax.run import classifier_file

# As the probe gives it where a feature is always the same, and no class has two labels.
MADE = probes.LinearClassifier(
    np.ones((3, 2), np.float32), np.zeros(2, np.float32), np.ones(3, np.float32), np.float32([1, np.inf, 2]), 1e-2, None
)


@pytest.mark.parametrize("accuracy", [None, 1.0])
def test_what_is_fitted_is_read_again(tmp_path, accuracy):
    made = MADE._replace(validation_accuracy=accuracy)
    classifier_file.save(tmp_path / "kept.npz", made, class_names=["a", "b"], meta={"layer": "h"})
    read = classifier_file.load(tmp_path / "kept.npz")
    assert read.class_names == ("a", "b") and read.meta["layer"] == "h"
    for mine, theirs in zip(read.classifier, made, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "value"), [("scale", np.nan), ("scale", 0.0), ("scale", -1.0), ("mean", np.inf), ("weights", np.nan)]
)
def test_numbers_that_no_probe_gives_are_refused(tmp_path, name, value):
    array = getattr(MADE, name).copy()
    array.flat[0] = value
    classifier_file.save(tmp_path / "kept.npz", MADE._replace(**{name: array}), class_names=["a", "b"], meta={})
    with pytest.raises(base.InputError, match=f"its {name} is not made of finite numbers"):
        classifier_file.load(tmp_path / "kept.npz")
