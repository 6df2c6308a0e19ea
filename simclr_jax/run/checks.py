"""What is checked beside the scores of a state: guards, scores without labels, and the sentences on what is wrong."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from simclr_jax import base, models, probes
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, guards, health, splits
from simclr_jax.run import workdir as workdir_lib

Rows = Sequence[Mapping[str, Any]]


class Subject(NamedTuple):
    """What is evaluated: a state of a run on two splits.

    transfer: the name of the data set, if it is not the run's own. best_on_test: whether the state was chosen by its
    kNN on the test split.
    """

    folder: pathlib.Path
    config: Mapping[str, Any]
    step: int
    params: base.PyTree
    method_state: base.PyTree
    both: splits.Splits
    transfer: str | None
    best_on_test: bool


class Checks(NamedTuple):
    """guards, label_free: for results.json. diagnosis: the doctor's sentences. sentences: all that there is to say."""

    guards: dict[str, Any]
    label_free: dict[str, float]
    diagnosis: list[str]
    sentences: list[str]


def check(
    subject: Subject, h: np.ndarray, rows: Rows, *, encode: features.EncodeFn, images: Sequence[np.ndarray]
) -> Checks:
    """Checks a state whose features of the training split are `h` and whose scores are `rows`.

    What needs no labels is checked also where there are none, and what needs no test split where there is none.

    Args:
        subject: what is evaluated.
        h: float32 [N, D], of the training split.
        rows: of `probes.probe_rows`; empty where no probe could measure anything.
        encode: gives the features.
        images: what `probes.small_images` keeps of the evaluation views of both splits; empty where the test split is
            missing or the training split itself.
    """
    config, both = subject.config, subject.both
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    how = features.evaluation_settings(config)
    measure = health.make_measure(config, encoder, how["mesh"], train_set=both.train_set, encode=encode)
    state = base.TrainState(jnp.int32(subject.step), subject.params, subject.method_state, ())
    scores, signs = measure(state, h)
    own = subject.transfer is None
    log = [row for row in workdir_lib.read_metrics(subject.folder) if row["step"] <= subject.step] if own else []
    signs = signs._replace(**_knn_signs(rows, config["method"]["name"]))
    num_classes = len(both.train_set.class_names)
    diagnosis = health.diagnose(config, signs, log, num_steps=subject.step, num_classes=num_classes)
    variables = features.encoder_variables(subject.params, subject.method_state)
    pairs = probes.near_duplicates(*images) if images else np.zeros((0, 2), np.int64)
    other = both.test_set if own else None
    found = {
        "batch_norm_at_rest": guards.encoder_at_rest(
            encode, variables, both.train_set, h=h, batch_size=how["batch_size"]
        ),
        "encoder_frozen": guards.encoder_was_frozen(
            subject.folder, config, params=subject.params, method_state=subject.method_state
        ),
        "shared_with_pretraining": 0 if other is None else guards.shared_with_pretraining(config, other),
        "near_duplicates": pairs,
        "best_on_test": subject.best_on_test,
    }
    said = guards.sentences(found, both)
    num_pairs = len(pairs) if images else None
    kept = {**found, "near_duplicates": num_pairs, "shared_by_name": both.num_shared}
    return Checks(kept, scores, diagnosis, [*said, *diagnosis])


def _knn_signs(rows: Rows, name: str) -> dict[str, Any]:
    """kNN of the trained and of the untrained network with all labels, and the error of their difference."""
    of = {row["features"]: row for row in rows if row["probe"] == "knn" and row["labels"] == "100%"}
    if name not in of or "untrained" not in of:
        return {}
    error = np.hypot(of[name]["standard_error"], of["untrained"]["standard_error"])
    return {
        "knn": of[name]["accuracy"],
        "untrained_knn": of["untrained"]["accuracy"],
        "knn_error": float(error),
    }
