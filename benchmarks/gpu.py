"""The programs for a machine with one GPU: docs/gpu.md and docs/gpu_runs.md.

    python benchmarks/gpu.py suite          everything that is claimed of a GPU, row by row
    python benchmarks/gpu.py memory         the largest batches that fit, beside what `simclr-jax plan` predicts
    python benchmarks/gpu.py speedrun       minutes to 90 % kNN on CIFAR-10
    python benchmarks/gpu.py recorded       scores of 100 and 200 epochs on CIFAR-10

A call lasts at most --minutes; what it has measured is kept, and the same command goes on. --tiny proves a program on
a CPU within some minutes; its figures mean nothing.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu_rows import memory, recorded, speedrun, suite
from simclr_jax import base

VERBS = {"suite": suite, "memory": memory, "speedrun": speedrun, "recorded": recorded}


def main(arguments: list[str] | None = None) -> int:
    """Runs a call of a program; 1 if something failed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, module in VERBS.items():
        words = {"description": module.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
        verb = verbs.add_parser(name, help=(module.__doc__ or "").splitlines()[0], **words)
        verb.add_argument("--minutes", type=float, default=9.0, help="of this call; 9 by default")
        verb.add_argument("--tiny", action="store_true", help="a test at tiny size, on the CPU")
        verb.add_argument("--worker", help=argparse.SUPPRESS)
        module.add_arguments(verb)
    options = parser.parse_args(arguments)
    try:
        if options.worker:
            for line in VERBS[options.verb].work(json.loads(options.worker)):
                print(json.dumps(line), flush=True)
            return 0
        return VERBS[options.verb].main(options)
    except (base.InputError, RuntimeError) as error:
        if options.worker:
            raise
        print(f"gpu.py {options.verb}: {error}", file=sys.stderr)
        return 2 if isinstance(error, base.InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
