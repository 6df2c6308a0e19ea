"""`simclr-jax probe`: what features tell about labels, and a classifier to keep; `probe_features` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `probe`."""
    parser = flags.Parser(
        "probe",
        description="""\
Scores features by kNN, a linear and a ridge classifier at several shares of
the labels, writes a page (curve, classes, confusions) and keeps the linear
classifier for predict. Labels are class folders or a CSV.""",
        examples=("--features=features.npz",),
    )
    parser.add_argument("--features", type=flags.path, required=True, metavar="FILE", help="what embed wrote")
    parser.add_argument(
        "--labels",
        type=flags.path,
        metavar="FILE",
        help="a CSV with the columns path (or id) and label; default: class folders",
    )
    parser.add_argument(
        "--test",
        type=flags.path,
        metavar="FILE",
        help="features of test pictures; default: a fifth held out, class by class",
    )
    parser.add_output("--output", default="probe.html", endings=(".html", ".htm"), help="default %(default)s")
    parser.add_output("--classifier", default="classifier.npz", endings=(".npz",), help="default %(default)s")
    return parser


def main(**values: Any) -> int:
    """Fits and scores; see `probe_features.probe`."""
    from simclr_jax.cli import probe_features

    return probe_features.probe(**values)
