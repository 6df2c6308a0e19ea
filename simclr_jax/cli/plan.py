"""`simclr-jax plan`: what a run would need and take on given hardware, before it is started and without running it."""

import json
from collections.abc import Mapping
from typing import Any

from simclr_jax import atomic_files
from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `plan`."""
    parser = flags.Parser(
        "plan",
        description="""\
Says what a run would need and take on given hardware, without running it:
parameters, FLOPs, memory, the largest batch that fits, communication, learning
rate, steps, time. The hardware's own compiler answers where it is installed
(extras aot-gpu, aot-tpu); the rest is counted or modelled.""",
        examples=("--config=imagenet_resnet50 --device_kind=h200 --devices=64",),
    )
    flags.add_devices(parser, "how many: GPUs, or chips of a TPU slice")
    parser.add_argument(
        "--memory",
        type=flags.positive_number("GB of one device", such_as=80),
        metavar="GB",
        help="of one device that may be used; default: what is usual",
    )
    parser.add_argument(
        "--compiler",
        default="auto",
        metavar="WHICH",
        help="%(choices)s: auto asks the hardware's compiler where it is installed; default %(default)s",
        **flags.one_of("auto", "none"),
    )
    cores = "of all hosts together: whether they can feed the devices"
    parser.add_argument("--host_cores", type=flags.whole_number(1, such_as=16), metavar="N", help=cores)
    rate = "images a second that one core reads, decodes and crops; simclr-jax data measures it"
    number = flags.positive_number("images a second of one core", such_as=500)
    parser.add_argument("--host_rate", type=number, metavar="N", help=rate)
    parser.add_output("--output", endings=(".json",), help="the same as JSON")
    flags.add_config(parser)
    return parser


def main(
    *,
    config: Mapping[str, Any],
    devices: int = 8,
    device_kind: str = "h200",
    memory: float | None = None,
    compiler: str = "auto",
    host_cores: int | None = None,
    host_rate: float | None = None,
    output: str | None = None,
) -> int:
    """Prints the plan of the run that `config` describes; returns the exit status.

    Args:
        config: of a run.
        devices: how many, at least 1.
        device_kind: a key of `hardware.DEVICES`.
        memory: GB of one device that the program may use; None for the usual share of the kind's.
        compiler: "auto" asks the hardware's compiler where it is installed, "none" never does.
        host_cores: of all hosts together.
        host_rate: images a second that one core reads, decodes and crops.
        output: a file for the same as JSON.

    Raises:
        base.InputError: a value of the config is not valid, or `output` cannot be written.
    """
    from simclr_jax.planning import plan as plan_lib
    from simclr_jax.planning import text as plan_text
    from simclr_jax.run import pretrained

    if output is not None:
        atomic_files.check_target(output)
    plan = plan_lib.make_plan(
        pretrained.inherit(config),
        kind=device_kind,
        devices=devices,
        memory=None if memory is None else memory * 1e9,
        compiler=compiler,
        host_cores=host_cores,
        host_rate=host_rate,
    )
    print(plan_text.as_text(plan))
    if output is not None:
        atomic_files.write_text(output, json.dumps(plan, indent=1) + "\n")
    return 0
