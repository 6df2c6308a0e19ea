"""The timings, ours beside the peers that are installed; they stand in benchmarks/README.md and docs/performance.md.

    python benchmarks/bench.py NAME [--rounds=5] [--peers_python=PATH] [--tf_python=PATH] [--write]
    python benchmarks/bench.py all [--minutes=30]           `make bench`: the tables of benchmarks/README.md

Every program of `all` has its share of the minutes and begins no round that would end beyond it, so on a busy machine
there are fewer rounds; each table says how many there were. One that fails does not keep the others from running. The
official code takes part where SIMCLR_TF2_FOLDER names its folder and TensorFlow is installed.
"""

import argparse
import importlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import harness

# Name -> the module that has it as PROGRAM, or "module.NAME"; and of those in `all` the share of the time, and words.
PROGRAMS = {
    "nt_xent": ("bench_nt_xent.PROGRAM", 0.2, ["--case=B=256", "--case=B=4096", "--repeats=1"]),
    "augment": ("bench_augment.PROGRAM", 0.27, []),
    "train_step": ("bench_train_step.PROGRAM", 0.2, []),
    "input": ("bench_input.PROGRAM", 0.08, []),
    "stream": ("bench_stream.PROGRAM", 0.1, []),
    "startup": ("bench_startup.PROGRAM", 0.15, []),
    "embed": ("bench_embed.PROGRAM", 0.0, []),
    "search": ("bench_search.PROGRAM", 0.0, []),
    "step_table": ("bench_train_step.GRID_PROGRAM", 0.0, []),
}


def load(name: str) -> harness.Program:
    """A program; its module is imported only now, for some do work then."""
    module, _, attribute = PROGRAMS[name][0].partition(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), attribute)


def main(arguments: list[str] | None = None) -> int:
    """Runs a program, one of its workers, or all programs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*PROGRAMS, "all"))
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of every implementation, in turns")
    parser.add_argument("--repeats", type=int, help="counted calls of one process; the program's own by default")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round that would end later")
    parser.add_argument("--case", action="append", default=[], help="a column, or all that have this in their name")
    parser.add_argument("--only", default="", help="implementations, separated by commas; ours is always run")
    parser.add_argument("--peers_python", help="interpreter that has the peers; default this one")
    parser.add_argument("--tf_python", help="interpreter that has TensorFlow; default this one")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one process")
    parser.add_argument("--write", action="store_true", help="put the table into its page")
    parser.add_argument("--quick", action="store_true", help="a test: the smallest case, one round, one call")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--facts", help=argparse.SUPPRESS)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words, argparse.Namespace(words=words))
    if options.worker:
        print(json.dumps(harness.work(load(options.name), options)))
        return 0
    if options.name != "all":
        return harness.run(options.name, load(options.name), options)
    minutes, failed = min(options.minutes, 30.0), []
    for name, (_, share, own) in PROGRAMS.items():
        if share:
            print(f"== {name}", flush=True)
            mine = [name if word == "all" else word for word in words]
            if main([*own, *mine, "--write", f"--minutes={share * minutes:g}"]):
                failed.append(name)
    if failed:
        print(f"Failed, at least in part: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
