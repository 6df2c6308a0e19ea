"""`simclr-jax search`: the pictures most like a given one; `search_features` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `search`."""
    parser = flags.Parser(
        "search",
        description="""\
Finds the pictures most like others, or like words: prints query, place,
similarity and path, and writes a page that shows them.""",
        examples=("--features=features.npz --query=photo.jpg", "--features=z.npz --text=snow"),
    )
    parser.add_argument("--features", type=flags.path, required=True, metavar="FILE", help="what embed wrote")
    parser.add_argument("--query", metavar="PICTURE", help="a picture, a folder of pictures, or the id of one in FILE")
    parser.add_argument("--text", metavar="WORDS", help="or what they show; FILE has layer z of a run with texts")
    parser.add_argument(
        "--k", type=flags.whole_number(1, 1000, such_as=10), default=10, metavar="N", help="how many; default 10"
    )
    parser.add_output("--output", default="search.html", endings=(".html", ".htm"), help="default %(default)s")
    parser.add_argument(
        "--index",
        default="auto",
        metavar="KIND",
        help="exact, approximate (usearch; kept beside FILE), or auto: the latter above a million pictures",
        **flags.one_of("auto", "exact", "approximate"),
    )
    return parser


def main(**values: Any) -> int:
    """Searches; see `search_features.search`."""
    from simclr_jax.cli import search_features

    return search_features.search(**values)
