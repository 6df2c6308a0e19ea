"""What the programs of timings share: ours and its peers on the same inputs, checked, timed in turns, put in a table.

A program names its cases, its implementations and how their work is checked, and hands them to `run`. Every
implementation works in a fresh process (see `timing`). Ours comes first in a case and leaves facts about what it
computed; a peer compares its own facts with them before any of its calls is timed, and gets no time if they differ.
A peer that is not installed is a row that says so.
"""

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import timing

README = timing.ROOT / "benchmarks" / "README.md"
Results = dict[str, dict[str, list[dict[str, Any]]]]


class Work(NamedTuple):
    """One implementation, ready to be timed in its process.

    facts: about what it computes, from calls already made; JSON. call: the work. ready: waits for a result of it.
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
    """prepare: (case, quick) -> its work. needs: modules that must be installed. python: "", "peers" or "tf"."""

    prepare: Callable[[str, bool], Work]
    needs: tuple[str, ...] = ()
    python: str = ""


class Program(NamedTuple):
    """One program of timings.

    file: the script. cases: names. quick: the cases of a test run.
    implementations: by name; the first is ours, and the ratio's denominator.
    compare: (facts, facts of ours) -> "" or how they differ. packages: whose versions are told.
    number: (CPU ms, amount) -> the number of the table. unit: what that is.
    words: the paragraph above the table. setup: (quick, an empty folder) -> environment of all workers.
    applies: (case, name) -> whether the implementation takes part. note: what else its results say, for its cell.
    """

    file: str
    cases: Sequence[str]
    quick: Sequence[str]
    implementations: Mapping[str, Implementation]
    compare: Callable[[Any, Any], str]
    packages: Sequence[str]
    number: Callable[[float, float], float]
    unit: str
    words: str
    setup: Callable[[bool, pathlib.Path], dict[str, str]] = lambda quick, folder: {}
    applies: Callable[[str, str], bool] = lambda case, name: True
    note: Callable[[Sequence[Mapping[str, Any]]], str] = lambda results: ""

    @property
    def stem(self) -> str:
        """The script's name without folder and ending."""
        return pathlib.Path(self.file).stem


def per_second(cpu_ms: float, amount: float) -> float:
    """Things per CPU second."""
    return 1e3 * amount / cpu_ms


def run(program: Program, arguments: list[str] | None = None) -> int:
    """The whole of a script: its command line, its workers, its table. Returns the exit code."""
    options = _parser(program).parse_args(arguments)
    if options.worker:
        _work(program, options)
        return 0
    if options.quick:
        options.rounds, options.repeats = 1, 1
    cases = [case for case in (program.quick if options.quick else program.cases) if options.case in ("", case)]
    with tempfile.TemporaryDirectory() as folder:
        environment = program.setup(options.quick, pathlib.Path(folder))
        results = _race(program, options, cases, environment=environment, folder=folder)
    text = part(program, results, timing.describe(program.packages), command=shown_command(program, options))
    print(text)
    if options.write:
        write_part(program.stem, text)
    ours = next(iter(program.implementations))
    failed = [name for rounds in results.values() for name, of in rounds.items() if not _passed(of, name == ours)]
    return int(bool(failed))


def _passed(rounds: Sequence[Mapping[str, Any]], ours: bool) -> bool:
    return all("error" not in result or ("absent" in result and not ours) for result in rounds)


def _parser(program: Program) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program.stem, description=program.words)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of every implementation, in turns")
    parser.add_argument("--repeats", type=int, default=3, help="counted calls of one process")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round that would end later")
    known = ("", *dict.fromkeys((*program.cases, *program.quick)))
    parser.add_argument("--case", default="", choices=known, metavar="NAME", help="one of the table's columns only")
    parser.add_argument("--only", default="", help="implementations, separated by commas; ours is always run")
    parser.add_argument("--peers_python", help="interpreter that has the peers; default this one")
    parser.add_argument("--tf_python", help="interpreter that has TensorFlow; default this one")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one process")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--quick", action="store_true", help="a test: the smallest case, one round, one call")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--facts", help=argparse.SUPPRESS)
    return parser


def _race(
    program: Program,
    options: argparse.Namespace,
    cases: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: str,
) -> Results:
    ours = next(iter(program.implementations))
    names = [name for name in program.implementations if not options.only or name in (ours, *options.only.split(","))]
    end = time.monotonic() + 60 * options.minutes
    results: Results = {}
    for left, case in zip(range(len(cases), 0, -1), cases, strict=True):
        jobs, absent = [], {}
        for name in names:
            if not program.applies(case, name):
                continue
            job = _job(program, options, case, name=name, folder=folder)
            missing = _missing(program.implementations[name]) if job.command[0] == sys.executable else ""
            if missing:
                absent[name] = [{"name": name, "error": missing, "absent": missing}]
            else:
                jobs.append(job)
        raced = timing.alternate(
            jobs,
            rounds=options.rounds,
            timeout=options.timeout,
            seconds=(end - time.monotonic()) / left,
            environment=environment,
        )
        results[case] = {**raced, **absent}
    return results


def _missing(implementation: Implementation) -> str:
    """The first module that is not installed here, as a sentence; "" if none is missing."""
    for module in implementation.needs:
        if importlib.util.find_spec(module) is None:
            return f"ModuleNotFoundError: {module} is not installed"
    return ""


def _job(program: Program, options: argparse.Namespace, case: str, *, name: str, folder: str) -> timing.Job:
    python = {"": None, "peers": options.peers_python, "tf": options.tf_python}[program.implementations[name].python]
    facts = pathlib.Path(folder) / f"facts {case}.json"
    command = [timing.python_or_this(python), program.file, f"--worker={name}", f"--case={case}", f"--facts={facts}"]
    return timing.Job(name, [*command, f"--repeats={options.repeats}", *(["--quick"] if options.quick else [])])


def _work(program: Program, options: argparse.Namespace) -> None:
    """One process: checks one implementation, times it and prints its line."""
    implementation, path = program.implementations[options.worker], pathlib.Path(options.facts)
    missing = _missing(implementation)
    if missing:
        raise SystemExit(missing)
    work = implementation.prepare(options.case, options.quick)
    if options.worker == next(iter(program.implementations)):
        path.write_text(json.dumps(work.facts))
    elif not path.exists():
        raise SystemExit("ours left no facts to compare with")
    different = program.compare(work.facts, json.loads(path.read_text()))
    if different:
        raise SystemExit(f"computes something else: {different}")
    if work.measure:
        numbers = work.measure(options.repeats)
    else:
        numbers = timing.measure(work.call, repeats=options.repeats, ready=work.ready, uncounted=int(not work.calls))
    shown = work.facts if len(json.dumps(work.facts)) < 500 else "long; compared"
    told = {"case": options.case, "amount": work.amount, "facts": shown}
    print(json.dumps({**told, **numbers, **timing.describe(program.packages)}))


def shown_command(program: Program, options: argparse.Namespace) -> str:
    """The command line as a reader would repeat it, without the paths of this machine."""
    words = ["python", f"benchmarks/{program.stem}.py", f"--rounds={options.rounds}", f"--repeats={options.repeats}"]
    words += [f"--case={shlex.quote(options.case)}"] if options.case else []
    words += ["--peers_python=PYTHON_WITH_THE_PEERS"] if options.peers_python else []
    words += ["--tf_python=PYTHON_WITH_TENSORFLOW"] if options.tf_python else []
    return " ".join(words + (["--quick"] if options.quick else []))


def part(program: Program, results: Results, about: Mapping[str, Any], *, command: str) -> str:
    """The words, the command, versions, hardware and date, and the table of one program, as Markdown."""
    meaning = (
        f"{program.unit}, median (smallest to largest); x = their CPU time over ours; MB = peak resident "
        "memory of the process, in brackets what came while it worked"
    )
    return page_part(program.words, results, about, command=command, meaning=meaning, table=table(program, results))


def page_part(
    words: str, results: Mapping[Any, Any], about: Mapping[str, Any], *, command: str, meaning: str, table: str
) -> str:
    """A table with what has to stand above it; `results` as of `timing.alternate`, by case."""
    counts = {len(of) for case in results.values() for of in case.values() if _passed(of, True)} or {0}
    rounds = f"{min(counts)} to {max(counts)} rounds" if len(counts) > 1 else f"Rounds: {counts.pop()}"
    lines = [
        re.sub(r"\s+", " ", words).strip(),
        "",
        f"```\n{command}\n```",
        "",
        f"{_date(about['date'])}, commit {about['commit']}, {about['hardware']}, shared with other programs, one "
        f"thread; Python {about['python']}, {_versions(about, results)}. {rounds}. {meaning[:1].upper()}{meaning[1:]}.",
        "",
        table,
    ]
    return "\n".join(lines)


def _versions(about: Mapping[str, Any], results: Mapping[Any, Any]) -> str:
    """Versions here, and those that other interpreters told."""
    versions = dict(about["versions"])
    for case in results.values():
        for rounds in case.values():
            for result in rounds:
                versions = {**result.get("versions", {}), **versions}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _date(iso: str) -> str:
    day = datetime.date.fromisoformat(iso)
    return f"{day.day} {day:%B %Y}"


def table(program: Program, results: Results) -> str:
    """A row an implementation, a column a case."""
    lines = ["| implementation | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]
    ours = next(iter(program.implementations))
    for name in program.implementations:
        if not any(name in of_case for of_case in results.values()):
            continue
        cells = [_cell(program, of_case.get(name, []), of_case.get(ours, [])) for of_case in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(program: Program, rounds: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    if not rounds:
        return "-"
    if "absent" in rounds[-1]:
        return "not installed"
    if "error" in rounds[-1]:
        return "failed: " + rounds[-1]["error"].removeprefix("exit 1: ").replace("|", "/")[:80]
    amount = rounds[-1]["amount"]
    median, *ends = (program.number(value, amount) for value in timing.summary(rounds, "cpu_ms"))
    ratio = ""
    if base and base is not rounds and "error" not in base[-1]:
        theirs, ours = (timing.summary(of, "cpu_ms")[0] / of[-1]["amount"] for of in (rounds, base))
        ratio = f", x{theirs / ours:.2f}"
    memory = f", {max(result['peak_mb'] for result in rounds):.0f} MB"
    if "extra_mb" in rounds[-1]:
        memory += f" (+{max(result['extra_mb'] for result in rounds):.0f})"
    return f"{short(median)} ({short(min(ends))} to {short(max(ends))}){ratio}{memory}{program.note(rounds)}"


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def replace_part(page: str, stem: str, text: str, *, by: str = "make bench") -> str:
    """`page` with what stands between the marks of `stem`, which say `by` what it is written, replaced by `text`.

    Raises:
        ValueError: the page does not have both marks, once each.
    """
    begin, end = f"<!-- {stem}: from here on written by {by} -->", f"<!-- end of {stem} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must hold {begin} and behind it {end}, once each")
    return page.partition(begin)[0] + f"{begin}\n\n{text}\n\n{end}" + page.partition(end)[2]


def write_part(stem: str, text: str) -> None:
    """Puts the text of one program into benchmarks/README.md."""
    README.write_text(replace_part(README.read_text(), stem, text))


def folder_from_environment(name: str, file: str) -> str:
    """The folder that the environment variable names; the peer counts as not installed without it."""
    folder = os.environ.get(name, "")
    if not (folder and (pathlib.Path(folder) / file).exists()):
        raise ModuleNotFoundError(f"{name} does not name the folder of the official {file}")
    return folder
