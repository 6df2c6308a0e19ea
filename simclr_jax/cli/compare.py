"""`simclr-jax compare`: runs side by side; `compare_runs` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `compare`."""
    parser = flags.Parser(
        "compare",
        description="""\
Shows runs side by side: time, images seen, memory and every score by its
protocol. Only scores of one protocol on the same data are ranked. A folder of
seeds, made by train --seeds, is one column of means.""",
        examples=("runs/a runs/b", "--output=page.html --picture=picture.png runs/a runs/b"),
    )
    parser.add_argument("runs", nargs="+", type=flags.path, metavar="RUN", help="folders of runs")
    parser.add_output("--output", endings=(".html", ".htm"), help="an HTML page of the same")
    drawn = (".png", ".svg", ".pdf")
    parser.add_output("--picture", endings=drawn, help="scores and curves: .png, .svg, .pdf")
    parser.add_argument(
        "--rank_by", metavar="PROTOCOL", help="order the runs by this score, which all must have on the same data"
    )
    return parser


def main(**values: Any) -> int:
    """Compares runs; see `compare_runs.compare`."""
    from simclr_jax.cli import compare_runs

    return compare_runs.compare(**values)
