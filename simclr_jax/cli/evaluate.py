"""`simclr-jax evaluate`: what a run's frozen features are worth; `evaluate_features` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `evaluate`."""
    parser = flags.Parser(
        "evaluate",
        description="""\
Scores the frozen features of a run by kNN, a linear and a ridge probe at 1 %,
10 % and 100 % of the labels, beside an untrained network and raw pixels, and
without labels. Of a run that reads texts also retrieval and zero-shot classes.
On data without labels does what needs none.
Says what is wrong. Prints a table and writes results.json.""",
        examples=("--workdir=runs/demo", "--workdir=runs/demo --transfer=digits"),
    )
    flags.add_workdir(parser)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--transfer", metavar="NAME", help="score on another data set: tfds:cifar100, folder:PATH, digits ..."
    )
    parser.add_argument(
        "--templates",
        type=flags.path,
        metavar="FILE",
        help="for a run with texts: a sentence a line, {} = class",
    )
    flags.add_data(parser)
    return parser


def main(**values: Any) -> int:
    """Evaluates a run; see `evaluate_features.evaluate`."""
    from simclr_jax.cli import evaluate_features

    return evaluate_features.evaluate(**values)
