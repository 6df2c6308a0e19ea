"""`simclr-jax demo`: from training to a map, on pictures that come with the program; `demo_tour` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `demo`."""
    parser = flags.Parser(
        "demo",
        description="""\
Trains on photographs that come with the program, then evaluates, reports,
embeds, searches, groups and maps them: one command, one page of links. Each
step is a verb of its own and is printed, to be used on your own pictures. A
demo that was stopped goes on with the same command.""",
        examples=("--workdir=tour",),
    )
    flags.add_workdir(parser, "where everything goes; a run that is there already is shown", default="runs/demo")
    return parser


def main(**values: Any) -> int:
    """Goes the way; see `demo_tour.tour`."""
    from simclr_jax.cli import demo_tour

    return demo_tour.tour(**values)
