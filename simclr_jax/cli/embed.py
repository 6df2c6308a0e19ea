"""`simclr-jax embed`: the features of any number of pictures, in a file."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `embed`."""
    parser = flags.Parser(
        "embed",
        description="""\
Writes the features of all pictures in a folder or data set to a file, which
explore, search, duplicates, select, cluster and probe read. A job that was
stopped goes on where it was.""",
        examples=("--workdir=runs/demo --images=PHOTOS --output=features.npz",),
    )
    parser.add_argument("--images", required=True, metavar="FOLDER", help="a folder, or a data set: tfds:NAME, digits")
    parser.add_output("--output", required=True, endings=(".npz", ".parquet"), help=".npz, or .parquet (pyarrow)")
    parser.add_argument("--workdir", type=flags.path, metavar="FOLDER", help="the folder of a run, whose encoder it is")
    parser.add_argument(
        "--weights",
        type=flags.weights,
        metavar="FILE",
        help="or an export, hf://user/model, an official checkpoint, or a ResNet of torchvision, timm and others",
    )
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--layer", default="h", metavar="WHICH", help="h, or a layer of the projection head: 1, 2 ... z; default h"
    )
    parser.add_argument(
        "--views",
        type=flags.whole_number(1, 10, such_as=2),
        default=1,
        metavar="N",
        help="average over N views: centre, mirrored, corners; default 1",
    )
    dtypes = flags.one_of("float32", "float16")
    parser.add_argument("--dtype", default="float32", metavar="TYPE", help="%(choices)s; default %(default)s", **dtypes)
    _add_details(parser)
    return parser


def _add_details(parser: flags.Parser) -> None:
    """Flags that few need."""
    size = flags.whole_number(1, such_as=64)
    parser.add_argument("--batch_size", type=size, default=64, metavar="N", help="in one pass; default %(default)s")
    side = flags.whole_number(8, 4096, such_as=224)
    parser.add_argument("--image_size", type=side, metavar="PIXELS", help="default: that of the run; for files 224")
    parser.add_argument(
        "--canvas_size", type=side, metavar="PIXELS", help="pictures are shrunk to this before the crop"
    )
    kinds = flags.one_of("tf2", "tf1", "bilinear", "bicubic")
    parser.add_argument("--resize", metavar="KIND", help="%(choices)s; the last two are Pillow's", **kinds)
    share = flags.positive_number("a share of the shorter side", such_as=0.875, high=1)
    parser.add_argument("--crop_fraction", type=share, metavar="X", help="with Pillow's; default 0.875")
    normalizations = flags.one_of("auto", "imagenet", "half", "clip", "none")
    parser.add_argument(
        "--normalize", default="auto", metavar="KIND", help="%(choices)s; default auto", **normalizations
    )
    parser.add_argument("--network", default="", metavar="NAME", help="which one in a file of PyTorch with several")
    parser.add_argument("--split", metavar="NAME", help="of a data set; default test")
    parser.add_argument("--data_dir", type=flags.path, metavar="FOLDER", help="where tfds sets are")
    flags.add_processes(parser)


def main(**values: Any) -> int:
    """Writes the features; see `embed_pictures.embed`."""
    from simclr_jax.cli import embed_pictures

    flag = "--workdir" if values.get("workdir") else "--weights"
    return embed_pictures.embed(**values, flag=flag)
