"""`simclr-jax duplicates`: pictures that are there twice; `duplicates_report` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `duplicates`."""
    parser = flags.Parser(
        "duplicates",
        description="""\
Finds exact and near duplicates within a set, or between two (such as training
and test pictures): a table of groups, and a page that shows them, how scores
are spread, and pairs at several scores to choose the threshold by.""",
        examples=("--features=features.npz",),
    )
    parser.add_argument("--features", type=flags.path, required=True, metavar="FILE", help="what embed wrote")
    parser.add_argument(
        "--others", type=flags.path, metavar="FILE", help="a second set: only pairs between the two are looked for"
    )
    parser.add_argument(
        "--threshold",
        type=flags.positive_number("a similarity", such_as=0.98),
        metavar="X",
        help="pictures of at least this similarity are duplicates; default: a quarter of the median angle",
    )
    parser.add_output("--output", default="duplicates.csv", endings=(".csv",), help="default %(default)s")
    parser.add_output("--page", default="duplicates.html", endings=(".html", ".htm"), help="default %(default)s")
    return parser


def main(**values: Any) -> int:
    """Looks for them; see `duplicates_report.duplicates`."""
    from simclr_jax.cli import duplicates_report

    return duplicates_report.duplicates(**values)
