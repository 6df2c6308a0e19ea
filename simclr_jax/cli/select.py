"""`simclr-jax select`: a few pictures that stand for all, and the odd ones; `select_pictures` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `select`."""
    parser = flags.Parser(
        "select",
        description="""\
Chooses pictures that stand for all of them, to label or to look at first, and
names the most unusual ones.""",
        examples=("--features=features.npz --size=100",),
    )
    parser.add_argument("--features", type=flags.path, required=True, metavar="FILE", help="what embed wrote")
    size = flags.whole_number(1, such_as=100)
    parser.add_argument("--size", type=size, metavar="N", help="how many; default 100, or all of fewer")
    parser.add_argument(
        "--method",
        default="k_center",
        metavar="KIND",
        help="k_center (none is far from the chosen ones; rare ones too) or typical (the middles of N clusters); "
        "default %(default)s",
        **flags.one_of("k_center", "typical"),
    )
    outliers = flags.whole_number(0, such_as=20)
    parser.add_argument("--outliers", type=outliers, default=20, metavar="N", help="unusual ones; default %(default)s")
    parser.add_output("--output", default="selected.csv", endings=(".csv",), help="default %(default)s")
    parser.add_output("--page", default="selected.html", endings=(".html", ".htm"), help="default %(default)s")
    return parser


def main(**values: Any) -> int:
    """Chooses; see `select_pictures.select`."""
    from simclr_jax.cli import select_pictures

    return select_pictures.select(**values)
