"""`simclr-jax explore`: a map of embedded pictures to click through; `explore_map` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `explore`."""
    parser = flags.Parser(
        "explore",
        description="""\
Makes a map of embedded pictures for a browser: click, search, select by box or
lasso, nearest neighbours, matching places, selections as CSV. Captions of a
pairs: set stand beside its pictures and are searched. Up to 5,000 pictures are
one HTML file to send, more a folder. Nothing is fetched from a network.""",
        examples=(
            "--features=features.npz",
            "--features=features.npz --output=site --serve",
            "--output=site --serve",
            '--features=z.npz --text="a dog" --text="a cat"',
        ),
    )
    parser.add_argument("--features", type=flags.path, metavar="FILE", help="what embed wrote")
    parser.add_output(
        "--output",
        endings=(".html", ".htm"),
        or_folder=True,
        metavar="PLACE",
        help="a file .html, or a folder; default explore.html, above 5,000 pictures the folder explore",
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        const=0,
        type=flags.whole_number(1, 65535, such_as=8000),
        metavar="PORT",
        help="open it at 127.0.0.1; without --features what is there already",
    )
    _add_details(parser)
    return parser


def _add_details(parser: flags.Parser) -> None:
    """What the map is made of."""
    methods = flags.one_of("auto", "umap", "tsne", "pca")
    parser.add_argument(
        "--projection",
        default="auto",
        metavar="KIND",
        help="%(choices)s; auto: umap if installed, else tsne",
        **methods,
    )
    number = flags.whole_number(0, such_as=20)
    parser.add_argument("--clusters", type=number, default=20, metavar="N", help="0 for none; default %(default)s")
    near = flags.whole_number(0, 64, such_as=8)
    parser.add_argument("--neighbors", type=near, default=8, metavar="N", help="of a picture; default %(default)s")
    parser.add_argument(
        "--table", type=flags.path, metavar="FILE", help="a CSV of more to colour by: path or id, and columns"
    )
    parser.add_argument(
        "--text",
        action="append",
        metavar="WORDS",
        help="colour by likeness to words, also several times; FILE has layer z of a run with texts",
    )
    places = flags.one_of("auto", "yes", "no")
    parser.add_argument(
        "--places",
        default="auto",
        metavar="WHEN",
        help="matching places of two pictures, by the encoder: %(choices)s; auto: up to 5,000 pictures",
        **places,
    )
    side = flags.whole_number(16, 160, such_as=64)
    parser.add_argument("--thumbnail", type=side, metavar="PIXELS", help="default 128, of many pictures 96 or 64")
    parser.add_argument("--title", metavar="TEXT", help="heading of the page; default the name of the pictures")


def main(**values: Any) -> int:
    """Makes the map; see `explore_map.explore`."""
    from simclr_jax.cli import explore_map

    return explore_map.explore(**values)
