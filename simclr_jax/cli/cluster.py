"""`simclr-jax cluster`: groups of like pictures, by k-means; `cluster_features` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `cluster`."""
    parser = flags.Parser(
        "cluster",
        description="""\
Groups pictures by k-means of their features: a table, and a page with a sheet
of every cluster. Where pictures have labels, says how well clusters fit them.""",
        examples=("--features=features.npz --clusters=20",),
    )
    parser.add_argument("--features", type=flags.path, required=True, metavar="FILE", help="what embed wrote")
    number = flags.whole_number(2, such_as=20)
    parser.add_argument("--clusters", type=number, metavar="N", help="how many; default 20, half of fewer pictures")
    parser.add_output("--output", default="clusters.csv", endings=(".csv",), help="default %(default)s")
    parser.add_output("--page", default="clusters.html", endings=(".html", ".htm"), help="default %(default)s")
    return parser


def main(**values: Any) -> int:
    """Groups them; see `cluster_features.cluster`."""
    from simclr_jax.cli import cluster_features

    return cluster_features.cluster(**values)
