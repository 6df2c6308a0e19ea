"""`simclr-jax convert`: a run of published weights; `convert_weights` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `convert`."""
    parser = flags.Parser(
        "convert",
        description="""\
Makes a run of published weights: to evaluate, to fine-tune
(train --config=finetune:RUN) and to export.""",
        examples=("--input=r50_1x_sk0/model.ckpt-250228 --workdir=runs/r50",),
    )
    parser.add_argument(
        "--input",
        type=flags.path,
        required=True,
        metavar="FILE",
        help="an official SimCLR checkpoint (TF1 or TF2; needs the extra convert), a ResNet of PyTorch under any "
        "names, as .safetensors or .pth (needs torch), or what export wrote",
    )
    flags.add_workdir(parser, "the run; must not exist or be empty")
    parser.add_argument(
        "--weights",
        default="model",
        metavar="WHICH",
        help="%(choices)s (the moving averages in SimCLRv2 checkpoints); default %(default)s",
        **flags.one_of("model", "ema"),
    )
    parser.add_argument(
        "--selector",
        default="auto",
        metavar="LAYER",
        help="layer of the head under the classifier: auto, 0, 1 ...; default %(default)s",
    )
    parser.add_argument(
        "--padding",
        default="auto",
        metavar="KIND",
        help="what the weights were trained with: %(choices)s; default %(default)s",
        **flags.one_of("auto", "reference", "torchvision"),
    )
    parser.add_argument(
        "--ignore",
        default="",
        metavar="NAMES",
        help="variables to leave out, shell patterns with commas between",
    )
    parser.add_argument(
        "--network",
        default="",
        metavar="NAME",
        help="which of several networks in a PyTorch file, such as teacher",
    )
    # The config says which data the weights are evaluated on.
    flags.add_config(parser, default="imagenet_resnet50")
    return parser


def main(**values: Any) -> int:
    """Writes the run; see `convert_weights.convert`."""
    from simclr_jax.cli import convert_weights

    return convert_weights.convert(**values)
