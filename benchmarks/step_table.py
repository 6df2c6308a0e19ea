"""CPU milliseconds a view of the training step over networks, stems and sizes, beside torch: docs/performance.md.

    python benchmarks/step_table.py [--rounds=2] [--peers_python=PATH] [--networks=resnet18,resnet50]
        [--stems=cifar,imagenet] [--sizes=32,48,...] [--only_ours] [--write]

The workers are those of `bench_train_step`, one thread each; a view is one of the two of every image.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import bench_train_step, harness, timing

PAGE = ROOT / "docs" / "performance.md"
BY = "python benchmarks/step_table.py --write"
OURS, THEIRS = bench_train_step.PROGRAM.implementations


def measure(case: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The results of both implementations, or of ours alone."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--case={case}", f"--facts={folder}/facts", "--repeats=1"]
        jobs = [
            timing.Job(name, [timing.python_or_this(python), bench_train_step.__file__, f"--worker={name}", *words])
            for name, python in ((OURS, None), (THEIRS, options.peers_python))
        ]
        return timing.alternate(jobs[:1] if options.only_ours else jobs, rounds=options.rounds, timeout=900)


def cell(case: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Milliseconds of CPU a view, ours and torch's."""
    views = 2 * bench_train_step.GRID[case].batch_size
    numbers = [
        "failed" if "error" in of[-1] else harness.short(timing.summary(of, "cpu_ms")[0] / views)
        for of in results.values()
    ]
    return " / ".join(numbers)


def table(cells: dict[str, str], sizes: Sequence[int]) -> str:
    """A row a network and stem, a column a size; "-" for what was not measured."""
    rows = dict.fromkeys(case.rsplit(", ", 1)[0] for case in cells)
    lines = ["| network | " + " | ".join(f"{size} px" for size in sizes) + " |", "| --- |" + " --- |" * len(sizes)]
    return "\n".join(
        lines
        + [f"| {row} | " + " | ".join(cells.get(f"{row}, {size} px", "-") for size in sizes) + " |" for row in rows]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints the table; returns 1 if one of our own workers failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers_python", help="interpreter that has torch and torchvision; default this one")
    parser.add_argument("--networks", default=",".join(bench_train_step.NETWORKS))
    parser.add_argument("--stems", default=",".join(bench_train_step.STEMS))
    parser.add_argument("--sizes", default=",".join(map(str, bench_train_step.SIZES)))
    parser.add_argument("--only_ours", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    cells, failed = {}, False
    for case, shape in bench_train_step.GRID.items():
        if shape.name in options.networks and shape.stem in options.stems and shape.size in sizes:
            results = measure(case, options)
            failed = failed or "error" in results[OURS][-1]
            cells[case] = cell(case, results)
            print(f"{case}: {cells[case]}", flush=True)
    about = timing.describe(("jax", "torch"))
    text = f"{about['date']}, commit {about['commit']}, {about['hardware']}; ours / torch.\n\n{table(cells, sizes)}"
    print(text)
    if options.write:
        PAGE.write_text(harness.replace_part(PAGE.read_text(), "step_table", text, by=BY))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
