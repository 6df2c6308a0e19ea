"""`simclr-jax export`: the encoder of a run for other programs; `export_files` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `export`."""
    parser = flags.Parser(
        "export",
        description="""\
Writes the encoder of a run for use elsewhere, with a card (JSON) of what it is
and how good.""",
        examples=("--workdir=runs/demo --output=exported",),
    )
    flags.add_workdir(parser, "the folder of a run made by train or convert")
    parser.add_output("--output", required=True, metavar="FOLDER", help="where the files go")
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--format",
        default="all",
        metavar="NAMES",
        help="all (torch, flax, stablehlo, onnx), or some of these, hub (a folder for the Hugging Face hub), "
        "detection (backbones for torchvision and Detectron2) and open_clip (both towers of a CLIP) with commas "
        "between; default %(default)s",
    )
    parser.add_argument(
        "--head",
        default="none",
        metavar="WHICH",
        help="what goes with the encoder: %(choices)s; default %(default)s",
        **flags.one_of("none", "projection", "classifier", "all"),
    )
    return parser


def main(**values: Any) -> int:
    """Writes the files; see `export_files.export`."""
    from simclr_jax.cli import export_files

    return export_files.export(**values)
