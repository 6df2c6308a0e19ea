"""`simclr-jax convert`: a run of published weights; `convert_weights` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `convert`."""
    parser = flags.Parser(
        "convert",
        description="""\
Makes a run of published weights: to evaluate, to fine-tune
(train --config=finetune:RUN) and to export. The config says which data the
weights are evaluated on.""",
        examples=("--input=r50_1x_sk0/model.ckpt-250228 --workdir=runs/r50",),
    )
    source = (
        "an official SimCLR checkpoint (TF1 or TF2; needs the extra convert), a ResNet of PyTorch under any names, as "
        ".safetensors or .pth (needs torch), or what export wrote"
    )
    parser.add_argument("--input", type=flags.path, required=True, metavar="FILE", help=source)
    flags.add_workdir(parser, "the run; must not exist or be empty")
    weights = "%(choices)s (the moving averages in SimCLRv2 checkpoints); default %(default)s"
    parser.add_argument("--weights", default="model", metavar="WHICH", help=weights, **flags.one_of("model", "ema"))
    selector = "layer of the head under the classifier: auto, 0, 1 ...; default %(default)s"
    parser.add_argument("--selector", default="auto", metavar="LAYER", help=selector)
    padding = "what the weights were trained with: %(choices)s; default %(default)s"
    paddings = flags.one_of("auto", "reference", "torchvision")
    parser.add_argument("--padding", default="auto", metavar="KIND", help=padding, **paddings)
    normalize = "what images are normalised by: %(choices)s; default %(default)s, by the layout"
    normalizations = flags.one_of("auto", "imagenet", "none")
    parser.add_argument("--normalize", default="auto", metavar="KIND", help=normalize, **normalizations)
    ignore = "variables to leave out, shell patterns with commas between"
    parser.add_argument("--ignore", default="", metavar="NAMES", help=ignore)
    network = "which of several networks in a PyTorch file, such as teacher"
    parser.add_argument("--network", default="", metavar="NAME", help=network)
    flags.add_config(parser, default="imagenet_resnet50")
    return parser


def main(**values: Any) -> int:
    """Writes the run; see `convert_weights.convert`."""
    from simclr_jax.cli import convert_weights

    return convert_weights.convert(**values)
