"""`simclr-jax plan`: what a run would need and take on given hardware, before it is started and without running it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from simclr_jax import atomic_files, base
from simclr_jax.planning import plan as plan_lib
from simclr_jax.planning import text as plan_text
from simclr_jax.run import pretrained


def main(
    *, config: Mapping[str, Any], devices: str, device_kind: str, memory: str | None, compiler: str, output: str | None
) -> int:
    """Prints the plan of the run that `config` describes; returns the exit status.

    Args:
        config: of a run.
        devices: a number.
        device_kind: a key of `hardware.DEVICES`.
        memory: GB of one device that the program may use; None for the usual share of the kind's.
        compiler: "auto" asks the hardware's compiler where it is installed, "none" never does.
        output: a file for the same as JSON.

    Raises:
        base.InputError: a flag or a value of the config is not valid.
    """
    if compiler not in ("auto", "none"):
        raise base.InputError(f"--compiler must be auto or none; got {compiler[:40]!r}. Use auto.")
    if output is not None:
        atomic_files.check_target(output)
    plan = plan_lib.make_plan(
        pretrained.inherit(config),
        kind=device_kind,
        devices=_whole_number("--devices", devices),
        memory=None if memory is None else _gigabytes(memory),
        compiler=compiler,
    )
    print(plan_text.as_text(plan))
    if output is not None:
        atomic_files.write_text(output, json.dumps(plan, indent=1) + "\n")
    return 0


def _whole_number(flag: str, value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 65536:
        raise base.InputError(f"{flag} must be a whole number from 1 to 65536; got {value[:40]!r}. Use for example 8.")
    return int(value)


def _gigabytes(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e6:
        raise base.InputError(f"--memory must be GB of one device, above 0; got {value[:40]!r}. Use for example 80.")
    return number * 1e9
