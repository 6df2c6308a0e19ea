"""What the programs of timings share: ours and its peers on the same inputs, checked, timed in turns, put in a table.

A program names its cases, its implementations and how their work is checked. Every implementation works in a fresh
process (see `timing`). Ours comes first in a case and leaves facts about what it computed; a peer compares its own
facts with them and gets no time if they differ. A peer that is not installed is a row that says so.
"""

import argparse
import json
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import children, page, timing

# Case -> implementation -> rounds.
Results = Mapping[str, timing.Results]
# Number of a table: from CPU milliseconds and the amount that was done in them.
NUMBERS: dict[str, Callable[[float, float], float]] = {
    "per second": lambda cpu_ms, amount: 1e3 * amount / cpu_ms,
    "ms": lambda cpu_ms, amount: cpu_ms / amount,
    "s": lambda cpu_ms, amount: cpu_ms / 1e3 / amount,
}


class Work(NamedTuple):
    """One implementation, ready to be timed in its process.

    facts: about what it computes, as JSON, from calls already made; or a function, called behind the timing, where a
    call before would leave the allocator's pages behind. call: the work. ready: waits for a result of it.
    calls: how often it has been called already, so that `timing.measure` need not warm it up.
    amount: of what is counted in one call, for `Program.number`. measure: repeats -> what `timing.measure` returns and
    whatever else the table wants, for work that is not a call in this process.
    """

    facts: Any
    call: Callable[[], Any]
    ready: Callable[[Any], Any] = lambda result: result
    calls: int = 0
    amount: float = 1.0
    measure: Callable[[int], dict[str, Any]] | None = None


class Implementation(NamedTuple):
    """prepare: case -> its work. needs: modules that must be installed. python: "", "peers" or "tf"."""

    prepare: Callable[[str], Work]
    needs: tuple[str, ...] = ()
    python: str = ""


class Program(NamedTuple):
    """One program of timings.

    cases: names; those of `quick` and `more` run when they are asked for: a test run's, and costly ones.
    implementations: by name; the first is ours, and the ratio's denominator.
    compare: (facts, facts of ours) -> "" or how they differ. packages: whose versions are told.
    number: of the table, of NUMBERS. unit: what that is, in words.
    words: the paragraph above the table. repeats: counted calls of one process.
    setup: (quick, an empty folder) -> environment of all workers.
    applies: (case, name) -> whether the implementation takes part. note: what else its results say, for its cell.
    table: results -> the table, where it is not one of a column a case. page: where it goes.
    """

    cases: Sequence[str]
    quick: Sequence[str]
    implementations: Mapping[str, Implementation]
    compare: Callable[[Any, Any], str]
    packages: Sequence[str]
    number: str
    unit: str
    words: str
    more: Sequence[str] = ()
    repeats: int = 3
    setup: Callable[[bool, pathlib.Path], dict[str, str]] = lambda quick, folder: {}
    applies: Callable[[str, str], bool] = lambda case, name: True
    note: Callable[[Sequence[Mapping[str, Any]]], str] = lambda results: ""
    table: Callable[[Results], str] | None = None
    page: pathlib.Path = page.README

    @property
    def ours(self) -> str:
        """The first implementation."""
        return next(iter(self.implementations))


def run(name: str, program: Program, options: argparse.Namespace) -> int:
    """A program's workers and its table. Returns the exit code: 1 if a peer that is installed failed, or ours."""
    if options.quick:
        options.rounds, options.repeats = 1, 1
    options.repeats = options.repeats or program.repeats
    cases = list(program.quick if options.quick else program.cases)
    if options.case:
        named = dict.fromkeys((*program.cases, *program.quick, *program.more))
        cases = [case for case in named if any(case == word for word in options.case)]
        cases = cases or [case for case in named if any(word in case for word in options.case)]
    with tempfile.TemporaryDirectory() as folder:
        environment = program.setup(options.quick, pathlib.Path(folder))
        results = _race(name, program, options, cases=cases, environment=environment, folder=folder)
    text = part(program, results, timing.describe(program.packages), command=shown_command(options.words))
    print(text)
    if options.write:
        page.write_part(f"bench_{name}", text, page=program.page)
    return int(any(not _passed(of, who == program.ours) for case in results.values() for who, of in case.items()))


def _passed(rounds: Sequence[Mapping[str, Any]], ours: bool) -> bool:
    return all("error" not in result or ("absent" in result and not ours) for result in rounds)


def _race(
    program_name: str,
    program: Program,
    options: argparse.Namespace,
    *,
    cases: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
) -> Results:
    asked = (program.ours, *options.only.split(",")) if options.only else program.implementations
    pythons = {"": None, "peers": options.peers_python, "tf": options.tf_python}
    end, results = time.monotonic() + 60 * options.minutes, {}
    for left, case in zip(range(len(cases), 0, -1), cases, strict=True):
        jobs, absent = {}, {}
        for name in (name for name in program.implementations if name in asked and program.applies(case, name)):
            python = pythons[program.implementations[name].python] or sys.executable
            missing = children.missing(program.implementations[name].needs) if python == sys.executable else ""
            if missing:
                absent[name] = [{"name": name, "error": missing, "absent": missing}]
                continue
            command = [python, str(timing.ROOT / "benchmarks" / "bench.py"), program_name, f"--worker={name}"]
            jobs[name] = [*command, f"--case={case}", f"--facts={folder}/facts {case}.json"]
            jobs[name].append(f"--repeats={options.repeats}")
        seconds = (end - time.monotonic()) / left
        raced = timing.alternate(
            jobs, rounds=options.rounds, timeout=options.timeout, seconds=seconds, environment=environment
        )
        results[case] = {**raced, **absent}
    return results


def work(program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """One process: checks one implementation, times it, and tells both as one line."""
    (case,), path = options.case, pathlib.Path(options.facts)
    implementation = program.implementations[options.worker]
    if missing := children.missing(implementation.needs):
        raise SystemExit(f"ModuleNotFoundError: {missing}")
    ready = implementation.prepare(case)
    late = callable(ready.facts)
    facts = None if late else checked(program, options.worker, ready.facts, path=path)
    if ready.measure:
        numbers = ready.measure(options.repeats)
    else:
        numbers = timing.measure(ready.call, repeats=options.repeats, ready=ready.ready, uncounted=int(not ready.calls))
    facts = checked(program, options.worker, ready.facts(), path=path) if late else facts
    shown = facts if len(json.dumps(facts)) < 500 else "long; compared"
    told = {"case": case, "amount": ready.amount, "facts": shown}
    return {**told, **numbers, **timing.describe(program.packages)}


def checked(program: Program, name: str, facts: Any, *, path: pathlib.Path) -> Any:
    """The facts, which ours leaves behind and a peer compares with them: it ends where they differ."""
    if name == program.ours:
        path.write_text(json.dumps(facts))
    elif not path.exists():
        raise SystemExit("ours left no facts to compare with")
    if different := program.compare(facts, json.loads(path.read_text())):
        raise SystemExit(f"computes something else: {different}")
    return facts


def shown_command(words: Sequence[str]) -> str:
    """The command line as a reader would repeat it, without the paths of this machine."""
    plain = (re.sub(r"^(--\w+_python)=.*", r"\1=PYTHON", word) for word in words)
    return shlex.join(["python", "benchmarks/bench.py", *(word for word in plain if word != "--write")])


def part(program: Program, results: Results, facts: Mapping[str, Any], *, command: str) -> str:
    """The words, the command, versions, hardware and date, and the table of one program, as Markdown."""
    rounds = [of for case in results.values() for of in case.values() if _passed(of, True)]
    counts = {len(of) for of in rounds} or {0}
    told = f"{min(counts)} to {max(counts)} rounds" if len(counts) > 1 else f"Rounds: {counts.pop()}"
    hardware = f"{facts['hardware']}, shared with other programs, one thread"
    about = page.about(facts, hardware=hardware, more=[one.get("versions", {}) for of in rounds for one in of])
    unit = program.unit[:1].upper() + program.unit[1:]
    meaning = (
        f"{told}. {unit}, median (smallest to largest); x = their CPU time over ours; MB = peak resident "
        "memory of the process, in brackets what came while it worked."
    )
    words = re.sub(r"\s+", " ", program.words).strip()
    shown = program.table(results) if program.table else table(program, results)
    return f"{words}\n\n```\n{command}\n```\n\n{about} {meaning}\n\n{shown}"


def table(program: Program, results: Results) -> str:
    """A row an implementation, a column a case."""
    names = [name for name in program.implementations if any(name in of_case for of_case in results.values())]
    rows = [[name, *(cell(program, of_case, name) for of_case in results.values())] for name in names]
    return page.table(("implementation", *results), rows)


def cell(program: Program, of_case: timing.Results, name: str) -> str:
    """What one implementation reached in a case, beside ours."""
    rounds, ours = of_case.get(name, []), of_case.get(program.ours, [])
    if not rounds:
        return "-"
    if "absent" in rounds[-1]:
        return "not installed"
    if "error" in rounds[-1]:
        return "failed: " + rounds[-1]["error"].removeprefix("exit 1: ").replace("|", "/")[:80]
    median, *ends = (NUMBERS[program.number](value, rounds[-1]["amount"]) for value in timing.summary(rounds, "cpu_ms"))
    median, low, high = map(page.short, (median, *sorted(ends)))
    ratio = ""
    if name != program.ours and ours and "error" not in ours[-1]:
        theirs, own = (timing.summary(of, "cpu_ms")[0] / of[-1]["amount"] for of in (rounds, ours))
        ratio = f", x{theirs / own:.2f}"
    memory = f", {max(result['peak_mb'] for result in rounds):.0f} MB"
    if "extra_mb" in rounds[-1]:
        memory += f" (+{max(result['extra_mb'] for result in rounds):.0f})"
    return f"{median} ({low} to {high}){ratio}{memory}{program.note(rounds)}"
