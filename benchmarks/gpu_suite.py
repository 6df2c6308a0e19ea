"""Everything this project claims of a GPU, measured in one command of at most nine minutes; docs/gpu.md explains it.

    python benchmarks/gpu_suite.py                      on a machine with one GPU
    python benchmarks/gpu_suite.py --go_on=FILE         once more, for the rows that FILE lacks
    python benchmarks/gpu_suite.py --show=FILE --write=after_tuning      into benchmarks/gpu/ and README.md
    python benchmarks/gpu_suite.py --tiny               every row at tiny size on a CPU: a test of the suite
    python benchmarks/gpu_suite.py --predict            what the GPU's compiler says of the programs, on a CPU

It needs JAX, Flax, Optax, Orbax and NumPy; rows beside torch, Kornia and lightly are left out where those are missing.
Every row runs in a fresh process. One that fails, or for which no time is left, is a line of the table, and the rest
goes on. The JSON is written anew after each row, so a call that is killed loses only the row it was in.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import harness, timing
from benchmarks.gpu_rows import rows, settings, table
from benchmarks.gpu_rows.figures import Job

ROUNDS = ROOT / "benchmarks" / "gpu"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision", "lightly", "kornia")
# For tiny programs, which are compiled and hardly run.
_QUICK_COMPILER = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# What is kept back of the time for the table.
_RESERVE = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; the exit status, 1 if a row failed, 2 for a wrong command line."""
    options = _parser().parse_args(arguments)
    if options.row:
        until = time.monotonic() + options.seconds
        return rows.work(options.row.split(","), Job(options.tiny, options.flops, options.bandwidth, until))
    if options.list:
        print("\n".join(f"{name:<16} {row.words}" for name, row in rows.ROWS.items()))
        return 0
    if options.predict:
        return predict()
    if options.settings:
        settings.FILE.write_text(settings.from_configs())
        return 0
    unknown = [name for name in filter(None, options.rows.split(",")) if name not in rows.ROWS]
    if unknown:
        return _refuse(f"--rows takes names of rows; got {unknown[0][:40]!r}. Use some of {', '.join(rows.ROWS)}.")
    for file in filter(None, (options.show, options.go_on)):
        if not pathlib.Path(file).is_file():
            return _refuse(f"--show and --go_on take the JSON file of an earlier call; got {file[-80:]!r}.")
    if options.write and not (options.show and options.write.isidentifier()):
        return _refuse(f"--write=NAME, a word, needs --show=FILE; got {options.write[:40]!r}.")
    if options.show:
        return show(options)
    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for the whole call; 9 by default")
    parser.add_argument("--rows", default="", help="names separated by commas; all by default, the probes always")
    parser.add_argument("--list", action="store_true", help="the names of all rows")
    parser.add_argument(
        "--tiny", action="store_true", help="a test: tiny sizes, on the CPU unless JAX_PLATFORMS is set"
    )
    parser.add_argument("--out", default="", help="where the JSON goes; by default a new folder, $OUT where it is set")
    parser.add_argument("--go_on", default="", metavar="FILE", help="JSON of an earlier call, whose figures stay")
    parser.add_argument("--show", default="", metavar="FILE", help="prints the table of a JSON file, runs nothing")
    parser.add_argument("--write", default="", metavar="NAME", help="keeps what --show names as a round")
    parser.add_argument("--commit", default="", help="of the tree that is measured, where git cannot tell")
    parser.add_argument(
        "--predict", action="store_true", help="compiles for an H200 on a CPU, which says memory and bytes"
    )
    parser.add_argument("--settings", action="store_true", help="makes gpu_settings.json from the configs")
    for name in ("row", "seconds", "flops", "bandwidth"):
        parser.add_argument(f"--{name}", type=str if name == "row" else float, help=argparse.SUPPRESS)
    return parser


def _refuse(message: str) -> int:
    print(f"gpu_suite: {message}", file=sys.stderr)
    return 2


def predict() -> int:
    """Prints what the compiler for the H200 says of the rows' programs, where it is installed."""
    os.environ.update({"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"})  # before JAX is imported
    from simclr_jax.planning import aot

    if not aot.is_installed("h200"):
        return _refuse(
            "--predict needs the GPU's compiler; it is not installed. Use pip install 'simclr-jax[aot-gpu]'."
        )
    from benchmarks.gpu_rows import ahead

    for line in ahead.predict():
        print(line, flush=True)
    return 0


def show(options: argparse.Namespace) -> int:
    """Prints the table of a JSON file and, if asked to, keeps it as a round."""
    result = json.loads(pathlib.Path(options.show).read_text())
    if options.commit:
        result["about"]["commit"] = options.commit
    print(table.text(result))
    if not options.write:
        return 0
    reason = table.why_no_round(result)
    if reason:
        return _refuse(reason)
    write(result, options.write)
    return 0


def write(result: table.Round, name: str) -> None:
    """Keeps a round as benchmarks/gpu/NAME.json and shows all rounds in benchmarks/README.md."""
    ROUNDS.mkdir(exist_ok=True)
    (ROUNDS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    harness.write_part("gpu_suite", table.page(read_rounds(ROUNDS)))


def read_rounds(folder: pathlib.Path) -> dict[str, table.Round]:
    """The rounds that are kept, oldest first."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: item[1]["about"]["time"]))


def run(options: argparse.Namespace) -> int:
    """Measures, printing a line for each row and the table at the end."""
    end = time.monotonic() + 60 * options.minutes - _RESERVE
    file = pathlib.Path(options.out or pathlib.Path(os.environ.get("OUT") or tempfile.mkdtemp()) / "gpu_suite.json")
    result = _begin(options)
    wanted = [
        name for name in rows.ROWS if name in ("probes", *(options.rows.split(",") if options.rows else rows.ROWS))
    ]
    wanted = [name for name in wanted if name not in result["rows"]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        for group in groups(wanted, tiny=options.tiny):
            start = time.monotonic()
            measure(group, result, options, end=end, folder=pathlib.Path(folder))
            result["rows"] = {name: result["rows"][name] for name in rows.ROWS if name in result["rows"]}
            save(result, file)
            for name in group:
                print(f"{name:<16} {_outcome(result['rows'][name])}", flush=True)
            print(f"{'':<16} {time.monotonic() - start:.0f} s, {max(end - time.monotonic(), 0):.0f} s left", flush=True)
            if result["about"].get("device", {}).get("platform") == "cpu" and not options.tiny:
                return _refuse("The suite measures a GPU; JAX sees only the CPU. Use --tiny to try the rows.")
    print(f"\n{table.text(result)}\n\nJSON: {file}")
    return int(any("error" in row for row in result["rows"].values()) or (options.tiny and _has_gaps(result)))


def _begin(options: argparse.Namespace) -> dict[str, Any]:
    """A round without rows, or with those of an earlier call that were measured."""
    facts = timing.describe(PACKAGES)
    if options.commit:
        facts["commit"] = options.commit
    facts |= {"tiny": options.tiny, "time": time.time()}
    result: dict[str, Any] = {"about": facts, "rows": {}}
    if options.go_on:
        earlier = json.loads(pathlib.Path(options.go_on).read_text())
        result["about"]["device"] = earlier["about"].get("device", {})
        kept = {name: row for name, row in earlier["rows"].items() if not {"error", "left_out"} & set(row)}
        result["rows"] = kept
    return result


def groups(names: Sequence[str], *, tiny: bool) -> list[list[str]]:
    """Which rows share a process: at full size none do, tiny ones do where their environment is the same."""
    if not tiny:
        return [[name] for name in names]
    by_environment: dict[str, list[str]] = {}
    for name in names:
        by_environment.setdefault(json.dumps(rows.ROWS[name].environment), []).append(name)
    return list(by_environment.values())


def measure(
    group: Sequence[str],
    result: dict[str, Any],
    options: argparse.Namespace,
    *,
    end: float,
    folder: pathlib.Path,
) -> None:
    """Runs the rows of a group, if they can be run, and puts what they print into `result`."""
    ready = []
    for name in group:
        row, left = rows.ROWS[name], end - time.monotonic()
        missing, needed = rows.missing(row), 1.0 if options.tiny else row.seconds
        if missing:
            result["rows"][name] = {"seconds": 0.0, "figures": [], "left_out": f"{missing} is not installed"}
        elif left < needed:
            words = (
                f"no time: {max(left, 0):.0f} s left of {options.minutes:g} minutes, the row takes about {needed:.0f} s"
            )
            result["rows"][name] = {"seconds": 0.0, "figures": [], "left_out": words}
        else:
            ready.append(name)
    if not ready:
        return
    seconds = end - time.monotonic()
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), f"--row={','.join(ready)}"]
    command += [f"--seconds={seconds:.0f}", *(["--tiny"] if options.tiny else []), *_reached(result)]
    environment = environment_of(ready[0], tiny=options.tiny, folder=folder)
    lines, ending = _child(command, environment, seconds)
    for name in ready:
        result["rows"][name] = collect([line for line in lines if line["row"] == name], ending)
    for line in lines:
        if line.get("name") == "device":
            result["about"]["device"] = _with_peak(line["device"])


def _reached(result: Mapping[str, Any]) -> Iterator[str]:
    """The probes' figures as arguments of a row's process."""
    for name, flag in (("matmul", "flops"), ("copy", "bandwidth")):
        figure = table.measured(result).get(name)
        if figure:
            yield f"--{flag}={1e12 * figure['value']}"


def _with_peak(device: Mapping[str, Any]) -> dict[str, Any]:
    """The device's description and, of a kind that is known, the maker's dense bfloat16 FLOP/s, for MFU."""
    from simclr_jax.planning import hardware

    known = {kind.name: kind.flops for kind in hardware.DEVICES.values()}
    return {**device, "peak_flops": known.get(device["kind"])}


def environment_of(name: str, *, tiny: bool, folder: pathlib.Path) -> dict[str, str]:
    """The environment of a row's process; compilers' caches are shared by the rows of a call."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}
    environment.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # the old name of what the rows set
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "jax")
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")
    if tiny:
        environment.setdefault("JAX_PLATFORMS", "cpu")
    more = dict(rows.ROWS[name].environment)
    quick = _QUICK_COMPILER if tiny and environment["JAX_PLATFORMS"] == "cpu" else ""
    flags = [os.environ.get("XLA_FLAGS", ""), quick, more.pop("XLA_FLAGS", "")]
    environment["XLA_FLAGS"] = " ".join(filter(None, flags))
    return environment | more


def _child(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[list[dict[str, Any]], str]:
    """(the lines of JSON a process printed, how it ended: "" if well); it is killed, with its own, after `seconds`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, cwd=ROOT, start_new_session=True)
        ending = ""
        try:
            process.wait(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            ending = f"not done after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines() if line.startswith("{") and line.endswith("}")]
        errors = err.read().strip()
    if process.returncode and not ending and not any("error" in line for line in lines):
        ending = f"exit {process.returncode}: {rows.one_line((errors.splitlines() or ['no output'])[-1])}"
    if process.returncode and errors:
        print(errors[-4000:], file=sys.stderr)
    return lines, ending


def collect(lines: Sequence[Mapping[str, Any]], ending: str) -> dict[str, Any]:
    """A row of a round from the lines its process printed; without a last one it failed as `ending` says."""
    found: dict[str, Any] = {"seconds": None, "figures": []}
    for line in lines:
        entry = {key: value for key, value in line.items() if key != "row"}
        if "seconds" in entry:
            found["seconds"] = entry["seconds"]
        elif "error" in entry:
            found["error"] = entry["error"]
        elif entry["name"] != "device":
            found["figures"].append(entry)
    if found["seconds"] is None:
        found["error"] = ending or "it ended without a word"
    return found


def save(result: Mapping[str, Any], file: pathlib.Path) -> None:
    """Writes the JSON so that at every moment there is a whole one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(file)


def _outcome(row: Mapping[str, Any]) -> str:
    """One line for the progress."""
    count = sum("value" in figure for figure in row["figures"])
    taken = "" if row["seconds"] is None else f" in {row['seconds']:.0f} s"
    for word in ("left_out", "error"):
        if word in row:
            return f"{word.replace('_', ' ')}: {row[word]}"
    return f"{count} figures{taken}"


def _has_gaps(result: Mapping[str, Any]) -> bool:
    """Whether anything was left out for another reason than a package that is not installed."""
    entries = [*result["rows"].values(), *(figure for row in result["rows"].values() for figure in row["figures"])]
    reasons = [entry["left_out"] for entry in entries if "left_out" in entry]
    return any(not reason.endswith(("is not installed", "is not part of a tiny run")) for reason in reasons)


if __name__ == "__main__":
    sys.exit(main())
