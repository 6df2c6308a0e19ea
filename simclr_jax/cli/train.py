"""`simclr-jax train`: pretrains an encoder from a config; `train_run` does the work."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `train`."""
    parser = flags.Parser(
        "train",
        description="""\
Pretrains an encoder. A workdir that holds a run of the same config goes on
where it stopped. Ctrl-C or SIGTERM saves and stops.""",
        examples=("--config=demo --workdir=runs/demo", "--config=folder:PHOTOS --workdir=runs/photos"),
    )
    flags.add_workdir(parser, "where the run is kept: checkpoints, metrics, TensorBoard events")
    parser.add_argument(
        "--seeds",
        type=flags.whole_number(1, 1000, such_as=3),
        metavar="N",
        help="N runs of seeds config.seed, config.seed + 1 ..., in FOLDER/seed-...",
    )
    flags.add_processes(parser)
    policies = flags.one_of("stop", "skip", "rollback")
    what = "where loss, gradient or state is NaN: %(choices)s (docs/reliability.md); default %(default)s"
    parser.add_argument("--on_nonfinite", default="stop", metavar="WHAT", help=what, **policies)
    flags.add_config(parser)
    return parser


def main(**values: Any) -> int:
    """Trains the run; see `train_run.train`."""
    from simclr_jax.cli import train_run

    return train_run.train(**values)
