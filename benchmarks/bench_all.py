"""Runs all programs of timings one after the other and writes their tables into benchmarks/README.md: `make bench`.

    python benchmarks/bench_all.py [--rounds=5] [--minutes=30] [--peers_python=PATH] [--tf_python=PATH]

Every program has its share of the minutes and begins no round that would end beyond it, so on a busy machine there are
fewer rounds; each table says how many there were. A program that fails does not keep the others from running.
"""

import argparse
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Program -> its share of the time, and its own arguments.
PROGRAMS = {
    "bench_nt_xent": (0.2, ["--sizes=256,4096", "--repeats=1"]),
    "bench_augment": (0.27, ["--repeats=3"]),
    "bench_train_step": (0.3, ["--repeats=1"]),
    "bench_input": (0.08, ["--repeats=3"]),
    "bench_startup": (0.15, ["--repeats=1"]),
}


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The command line of every program."""
    shared = [f"--rounds={options.rounds}"]
    for name in ("peers_python", "tf_python"):
        if getattr(options, name):
            shared.append(f"--{name}={getattr(options, name)}")
    return {
        stem: [
            *(sys.executable, str(ROOT / "benchmarks" / f"{stem}.py"), "--write"),
            *(f"--minutes={share * options.minutes:g}", *own, *shared),
        ]
        for stem, (share, own) in PROGRAMS.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs all programs; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30.0, help="for everything; the first rounds always run")
    parser.add_argument("--peers_python", help="interpreter that has the peers; default this one")
    parser.add_argument("--tf_python", help="interpreter that has TensorFlow; default this one")
    failed = []
    for stem, command in commands(parser.parse_args(arguments)).items():
        print(f"== {stem}", flush=True)
        if subprocess.run(command, check=False, cwd=ROOT).returncode:
            failed.append(stem)
    if failed:
        print(f"Failed, at least in part: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
