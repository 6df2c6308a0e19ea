"""`simclr-jax convert`: a run of published weights; `convert_weights` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `convert`."""
    parser = flags.Parser(
        "convert",
        description="""\
Makes a run of published weights: to evaluate, fine-tune and export. The config
says which data they are evaluated on. docs/weights.md explains the flags.""",
        examples=("--input=r50_1x_sk0/model.ckpt-250228 --workdir=runs/r50",),
    )
    source = (
        "an official SimCLR checkpoint (needs the extra convert), a ResNet of PyTorch (.pth needs torch), or an export"
    )
    parser.add_argument("--input", type=flags.path, required=True, metavar="FILE", help=source)
    what = "the run; must not exist or be empty"
    parser.add_output("--workdir", required=True, metavar="FOLDER", help=what)
    weights = "%(choices)s (averages, of SimCLRv2); default %(default)s"
    parser.add_argument("--weights", default="model", metavar="WHICH", help=weights, **flags.one_of("model", "ema"))
    selector = "layer under the classifier: auto, 0, 1 ..."
    parser.add_argument("--selector", default="auto", metavar="LAYER", help=selector)
    padding = "%(choices)s; default %(default)s"
    paddings = flags.one_of("auto", "reference", "torchvision")
    parser.add_argument("--padding", default="auto", metavar="KIND", help=padding, **paddings)
    normalize = "%(choices)s; default %(default)s"
    normalizations = flags.one_of("auto", "imagenet", "half", "clip", "none")
    parser.add_argument("--normalize", default="auto", metavar="KIND", help=normalize, **normalizations)
    ignore = "variables to leave out, patterns with commas"
    parser.add_argument("--ignore", default="", metavar="NAMES", help=ignore)
    network = "which one in a PyTorch file, such as teacher"
    parser.add_argument("--network", default="", metavar="NAME", help=network)
    activation = "of a CLIP: %(choices)s; default %(default)s"
    activations = flags.one_of("auto", "gelu", "quick_gelu")
    parser.add_argument("--activation", default="auto", metavar="KIND", help=activation, **activations)
    tokenizer = "of a CLIP: its merges or tokenizer.json"
    parser.add_argument("--tokenizer", type=flags.path, metavar="FILE", help=tokenizer)
    flags.add_config(parser, default="imagenet_resnet50")
    return parser


def main(**values: Any) -> int:
    """Writes the run; see `convert_weights.convert`."""
    from simclr_jax.cli import convert_weights

    return convert_weights.convert(**values)
