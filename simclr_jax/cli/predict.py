"""`simclr-jax predict`: the classes of pictures by a classifier that `probe` has kept."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `predict`."""
    parser = flags.Parser(
        "predict",
        description="""\
Writes the class of every picture and its probability to a CSV, by the
classifier that probe has kept and the encoder of its features.""",
        examples=("--classifier=classifier.npz --images=PHOTOS",),
    )
    parser.add_argument("--classifier", type=flags.path, required=True, metavar="FILE", help="what probe wrote")
    parser.add_argument("--images", metavar="FOLDER", help="a folder, a picture, or a data set")
    parser.add_argument("--features", type=flags.path, metavar="FILE", help="or what embed wrote of them")
    parser.add_output("--output", default="predictions.csv", endings=(".csv",), help="default %(default)s")
    return parser


def main(**values: Any) -> int:
    """Predicts; see `predict_classes.predict`."""
    from simclr_jax.cli import predict_classes

    return predict_classes.predict(**values)
