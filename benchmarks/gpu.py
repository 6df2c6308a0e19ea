"""The programs for a machine with one GPU: docs/gpu.md and docs/gpu_runs.md.

    python benchmarks/gpu.py suite          everything that is claimed of a GPU, row by row
    python benchmarks/gpu.py memory         the largest batches that fit, beside what `simclr-jax plan` predicts
    python benchmarks/gpu.py speedrun       minutes to 90 % kNN on CIFAR-10
    python benchmarks/gpu.py recorded       scores of 100 and 200 epochs on CIFAR-10

A call lasts at most --minutes; what it has measured is kept, and the same command goes on. --tiny proves a program on
a CPU within some minutes; its figures mean nothing.
"""

import argparse
import importlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from simclr_jax import base

VERBS = ("suite", "memory", "speedrun", "recorded")


def main(arguments: list[str] | None = None) -> int:
    """Runs a call of a program; 1 if something failed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    name = parser.parse_args((sys.argv[1:] if arguments is None else arguments)[:1]).verb
    # Only this one is imported: a row must not load what another needs.
    module = importlib.import_module(f"benchmarks.gpu_rows.{name}")
    parser.description = module.__doc__
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call; 9 by default")
    parser.add_argument("--tiny", action="store_true", help="a test at tiny size, on the CPU")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    module.add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.worker:
        for line in module.work(json.loads(options.worker)):
            print(json.dumps(line), flush=True)
        return 0
    try:
        return module.main(options)
    except (base.InputError, RuntimeError) as error:
        print(f"gpu.py {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, base.InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
