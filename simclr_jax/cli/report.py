"""`simclr-jax report`: one HTML page about a run; `report_page` collects what is on it."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `report`."""
    parser = flags.Parser(
        "report",
        description="""\
Writes one self-contained HTML page about a run: curves, probes beside their
baselines, augmented views, nearest neighbours, a map of the test set, the
confusion matrix, the config.""",
        examples=("--workdir=runs/demo",),
    )
    flags.add_workdir(parser, "the folder of a run made by train; evaluate it first for the probe table")
    parser.add_output("--output", endings=(".html", ".htm"), help="default: report.html in the workdir")
    flags.add_data(parser)
    return parser


def main(**values: Any) -> int:
    """Writes the page; see `report_page.report`."""
    from simclr_jax.cli import report_page

    return report_page.report(**values)
