"""Every way of scoring a representation by its name and version: what it does and where it comes from.

A score is only comparable with scores of the same protocol. The name that stands beside a score holds the settings
that change it, and ends in a version that is raised when the same settings would give another number.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from simclr_jax import base


class Protocol(NamedTuple):
    """One row of PROTOCOLS.

    pattern: of the name, with its settings in braces. version: see the module. what: what is done. source: whence.
    label: what people read in place of the name, with those settings that tell rows of one table apart.
    """

    pattern: str
    version: int
    what: str
    source: str
    label: str


PROTOCOLS = {
    "knn": Protocol(
        "knn.k{k}.t{temperature}",
        1,
        "the K training rows of largest cosine s vote with weight exp(s / T); K at most the number of labels",
        "Wu et al. 2018 (InstDisc), section 3.4",
        "kNN, {k} neighbours",
    ),
    "knn_uniform": Protocol(
        "knn.k{k}.uniform",
        1,
        "the K training rows of largest cosine vote with equal weights; of equal counts the lower class wins",
        "scikit-learn's KNeighborsClassifier with the cosine metric",
        "kNN, {k} neighbours, equal votes",
    ),
    "linear": Protocol(
        "linear.lbfgs.{features}",
        1,
        "multinomial logistic regression on stored features of centre crops by L-BFGS; L2 of 8 strengths chosen on a "
        "fifth of the training labels",
        "SimCLR appendix B.8, with standardised features",
        "linear probe",
    ),
    "ridge": Protocol(
        "ridge.{features}",
        1,
        "least squares on one-hot classes with L2, in closed form; of 9 strengths, chosen on a fifth of the training "
        "labels",
        "scikit-learn's RidgeClassifier, with targets 0 and 1 and standardised features",
        "ridge regression",
    ),
    "linear_sgd": Protocol(
        "linear.sgd.e{epochs}.{batch_norm}",
        1,
        "a linear classifier trained on the frozen encoder for so many epochs on random crops and flips, scored on "
        "centre crops; BatchNorm with moving averages (frozen-bn) or, as the TF2 code does, the batch's own (batch-bn)",
        "SimCLR appendix B.6; tf2/run.py with fine_tune_after_block=4",
        "linear probe, {epochs} epochs",
    ),
    "finetune": Protocol(
        "finetune.e{epochs}.s{selector}",
        1,
        "the whole network trained for so many epochs on random crops and flips from a pretrained one, with a "
        "classifier on layer s of its projection head, scored on centre crops",
        "SimCLR appendix B.5; SimCLRv2 section 2",
        "fine-tuned, {epochs} epochs",
    ),
    "supervised": Protocol(
        "supervised.e{epochs}",
        1,
        "the whole network trained with labels from random weights",
        "SimCLR appendix B.3",
        "supervised, {epochs} epochs",
    ),
    "online": Protocol(
        "linear.online",
        1,
        "a linear classifier trained beside the method on its own views behind a stopped gradient, scored on centre "
        "crops",
        "SimCLR appendix B.6; tf2/run.py with lineareval_while_pretraining",
        "linear, beside the method",
    ),
    "retrieval": Protocol(
        "retrieval.{way}.r{k}",
        1,
        "recall at k by cosine of projections, of all images and texts of the test split: for an image any of its "
        "texts counts, for a text its image",
        "Karpathy and Li 2015, section 4.1",
        "retrieval {way}, recall at {k}",
    ),
    "zero_shot": Protocol(
        "zero-shot.top{k}.t{templates}",
        1,
        "images beside the names of the classes in sentences: the unit vectors of a class's templates, their mean, a "
        "unit vector again; the digest tells which templates",
        "Radford et al. 2021 (CLIP), section 3.1.4",
        "zero-shot, top {k}, templates {templates}",
    ),
}

_BEST = ".best-on-test"


def protocol_name(kind: str, **settings: Any) -> str:
    """The name to write beside a score: that of PROTOCOLS[kind] with its settings and version.

    Example:
        >>> probes.protocol_name("ridge", features="standardized")
        'ridge.standardized.v1'
    """
    row = PROTOCOLS[kind]
    return f"{row.pattern.format(**settings)}.v{row.version}"


def templates_name(templates: Sequence[str]) -> str:
    """What stands for templates in the name of the protocol zero_shot: how many, and a digest, whatever their order.

    Example:
        >>> probes.templates_name(["a photo of a {}.", "a {}."])
        '2-44e9a3c3'
    """
    digest = hashlib.sha256("\n".join(sorted(templates)).encode()).hexdigest()
    return f"{len(templates)}-{digest[:8]}"


def find_protocol(name: str) -> Protocol:
    """The row of PROTOCOLS that a name belongs to, whatever its settings.

    Raises:
        InputError: no protocol has such a name and version.

    Example:
        >>> probes.find_protocol("knn.k20.t0.07.v1").source
        'Wu et al. 2018 (InstDisc), section 3.4'
    """
    return _parse(name)[0]


def protocol_label(name: str) -> str:
    """What people read in place of the name of a protocol; what else it says stays with the name.

    Raises:
        InputError: no protocol has such a name and version.

    Example:
        >>> probes.protocol_label("knn.k20.t0.07.v1")
        'kNN, 20 neighbours'
    """
    row, settings = _parse(name)
    return row.label.format(**settings) + ", best on test" * (_BEST in name)


def _parse(name: str) -> tuple[Protocol, dict[str, str]]:
    """The row of a name and the settings in it."""
    for row in sorted(PROTOCOLS.values(), key=lambda row: row.pattern.count("{")):
        pattern = re.escape(f"{row.pattern}.v{row.version}").replace(r"\{", "{").replace(r"\}", "}")
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[\\w-]+(?:\\.\\d+)?)", pattern), name.replace(_BEST, ""))
        if found:
            return row, found.groupdict()
    known = ", ".join(f"{row.pattern}.v{row.version}" for row in PROTOCOLS.values())
    raise base.InputError(f"A protocol must be one of {known}; got {base.one_line(name, 60)!r}.")


def best_on_test(name: str) -> str:
    """The name of a protocol whose checkpoint was chosen by its score on the test split, which flatters it.

    Example:
        >>> probes.best_on_test("ridge.standardized.v1")
        'ridge.standardized.best-on-test.v1'
    """
    head, _, version = name.rpartition(".")
    return f"{head}{_BEST}.{version}"
