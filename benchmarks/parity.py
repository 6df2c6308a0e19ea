"""The parity report: runs every comparison with other implementations and writes docs/parity.md.

`python benchmarks/parity.py` runs all of it (some minutes); the exit code is 1 if anything fails. `--only WORD` runs
the lines whose group, component, reference or topic contains WORD, and writes nothing unless `--out` names a file.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from benchmarks import parity_rows
from benchmarks.parity_rows import page, table


def selected(lines: dict[str, list], word: str) -> dict[str, list]:
    """The lines of every group whose words contain `word`, without regard to case; empty groups are left out."""

    def says(group: str, line: table.Row | table.Difference) -> bool:
        texts = [group, *(text for text in line if isinstance(text, str))]
        return word.lower() in " / ".join(texts).lower()

    chosen = {group: [line for line in group_lines if says(group, line)] for group, group_lines in lines.items()}
    return {group: group_lines for group, group_lines in chosen.items() if group_lines}


def run(groups: dict[str, list], differences: dict[str, list]) -> tuple[dict[str, list], dict[str, list]]:
    """(outcomes, measured differences) by group; prints one line per comparison."""
    total = sum(len(lines) for lines in [*groups.values(), *differences.values()])
    progress = iter(range(1, total + 1))
    outcomes = {group: list(_each(table.run_row, rows, (progress, total))) for group, rows in groups.items()}
    measured = {
        group: list(_each(table.run_difference, rows, (progress, total))) for group, rows in differences.items()
    }
    return outcomes, measured


def _each(run_line, lines: Iterable, counter: tuple) -> Iterable:
    progress, total = counter
    for line in lines:
        start = time.perf_counter()
        result = run_line(line)
        name = f"{line.component} / {line.reference}" if isinstance(line, table.Row) else line.topic
        detail = f"{result.max_abs:.1e}" if isinstance(line, table.Row) else result.text
        seconds = time.perf_counter() - start
        print(f"[{next(progress)}/{total}] {name}: {result.verdict} {detail} ({seconds:.1f} s)", flush=True)
        yield result


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen lines; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="run only the lines that contain WORD")
    parser.add_argument("--out", type=pathlib.Path, help="file to write; docs/parity.md unless --only is given")
    options = parser.parse_args(arguments)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    groups, differences = (selected(lines, options.only) for lines in (parity_rows.GROUPS, parity_rows.DIFFERENCES))
    if not groups and not differences:
        print(f"no line contains {options.only!r}")
        return 2
    outcomes, measured = run(groups, differences)
    out = options.out or (None if options.only else ROOT / "docs" / "parity.md")
    if out:
        out.write_text(page.render(outcomes, measured), encoding="utf-8")
        print(f"wrote {out}")
    verdicts = [line.verdict for lines in [*outcomes.values(), *measured.values()] for line in lines]
    failures = sum(table.failed(verdict) for verdict in verdicts)
    print(f"{len(verdicts)} lines, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
