"""Starting: importing, --help, and the way to the first update; see `PROGRAM.words`."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import harness, timing

IMPORT, TRAINER, HELP, VERB_HELP, STEP = "import", "import of the trainer", "--help", "train --help", "first step"
COMMANDS = {
    IMPORT: ["-c", "import simclr_jax; print(simclr_jax.__version__)"],
    TRAINER: ["-c", "import simclr_jax.cli.train_run"],
    HELP: ["-m", "simclr_jax", "--help"],
    VERB_HELP: ["-m", "simclr_jax", "train", "--help"],
    STEP: ["-c", "from benchmarks import bench_startup; bench_startup.first_step()"],
}
CONFIG = "SIMCLR_BENCH_CONFIG"
OURS, CACHED = "simclr_jax", "simclr_jax (compiled before)"
# Targets: CPU seconds, and for the first step of a program that was compiled before seconds on the clock.
TARGETS = {IMPORT: 1.0, HELP: 1.5}
TARGET_CACHED = 5.0


def first_step() -> None:
    """What `train` does until the first update of the config is made; prints seconds and the loss."""
    import jax
    import jax.numpy as jnp

    from simclr_jax.distributed import sharding
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import setup

    seconds: dict[str, float] = {}

    def listen(event: str, duration: float, **_: Any) -> None:
        seconds[event] = seconds.get(event, 0.0) + duration

    jax.monitoring.register_event_duration_secs_listener(listen)
    run = setup.make_run(config_lib.load_file(os.environ[CONFIG]).to_dict())
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    source, indices = run.feed.draw(0)
    key = sharding.make_key(run.mesh, run.config["seed"])
    _, metrics = run.train_steps(state, key, source, indices, jnp.asarray(1, jnp.int32))
    compiling = seconds.get("/jax/core/compile/backend_compile_duration", 0.0)
    print(json.dumps({"loss": float(metrics["loss"][0]), "compile_s": compiling}))


def _start(command: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    """Runs a process to its end: the JSON it printed last, if any; CPU and wall milliseconds; peak memory in MB."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment, cwd=timing.ROOT
    )
    assert child.stdout is not None
    output = child.stdout.read()
    # Not child.wait(): only this call tells what this one process has used.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)[:60]} ended with {child.returncode}")
    wall = 1e3 * (time.perf_counter() - begin)
    cpu = 1e3 * (usage.ru_utime + usage.ru_stime)
    told = json.loads(output.splitlines()[-1]) if output.endswith("}\n") else {}
    return {"told": told, "cpu_ms": cpu, "wall_ms": wall, "peak_mb": usage.ru_maxrss / 1024}


def _work(words: Sequence[str], folders: Callable[[], Any], *, uncounted: int = 0) -> harness.Work:
    """Starts a process every time with the cache of compiled programs in one of `folders`; after `uncounted` starts."""
    made: list[dict[str, Any]] = []

    def start() -> dict[str, Any]:
        with folders() as folder:
            more = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_COMPILATION_CACHE_DIR": folder}
            made.append(_start(words, {**os.environ, **more}))
        return made[-1]

    def measure(repeats: int) -> dict[str, Any]:
        found = [start() for _ in range(uncounted + repeats)][uncounted:]
        numbers: dict[str, Any] = {key: [one[key] for one in found] for key in ("cpu_ms", "wall_ms")}
        compiling = [one["told"]["compile_s"] for one in found if one["told"]]
        peak = max(one["peak_mb"] for one in found)
        return {**numbers, "peak_mb": peak, **({"compile_s": compiling} if compiling else {})}

    return harness.Work(lambda: made[-1]["told"], lambda: None, measure=measure)


def _ours(case: str, *, cached: bool = False) -> harness.Work:
    """Starts the program; for the first step with a cache of compiled programs that is empty every time, or full."""
    if not cached:
        return _work(COMMANDS[case], tempfile.TemporaryDirectory)
    keep = tempfile.TemporaryDirectory()  # as long as the function that hands it out
    return _work(
        COMMANDS[case], lambda: contextlib.nullcontext(keep.name), uncounted=1
    )  # what fills the cache does not count


def _peer(statement: str, case: str) -> harness.Work:
    del case
    return _work(["-c", statement], tempfile.TemporaryDirectory)


def compare(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """The loss of the first step, the same program being run: to float32's last digits."""
    if theirs and not abs(theirs["loss"] - ours["loss"]) <= 1e-6 * abs(ours["loss"]):
        return f"the first loss is {theirs['loss']}, ours {ours['loss']}"
    return ""


def note(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Seconds on the clock, and in the compiler where there was compiling."""
    text = f", {timing.summary(rounds, 'wall_ms')[0] / 1e3:.2f} s on the clock"
    if "compile_s" not in rounds[-1]:
        return text
    return text + f", {timing.summary(rounds, 'compile_s')[0]:.2f} s of them in the compiler or its cache"


_LIGHTLY = "from benchmarks import peers; peers.load_torchvision(); import lightly.transforms, lightly.loss"


def _import(statement: str, module: str, python: str = "peers") -> harness.Implementation:
    return harness.Implementation(functools.partial(_peer, statement), (module,), python)


PROGRAM = harness.Program(
    cases=tuple(COMMANDS),
    quick=[IMPORT, HELP, STEP],
    implementations={
        OURS: harness.Implementation(_ours),
        CACHED: harness.Implementation(functools.partial(_ours, cached=True)),
        "jax": _import("import jax, jax.numpy", "jax"),
        "torch": _import("import torch", "torch"),
        "lightly": _import(_LIGHTLY, "lightly"),
        "tensorflow": _import("import tensorflow", "tensorflow", "tf"),
    },
    compare=compare,
    packages=("jax", "flax", "optax", "ml-collections", "torch", "lightly", "tensorflow-cpu", "tensorflow"),
    number="s",
    unit="CPU seconds of a whole process",
    words=f"""A process from its start to its end. "import" is import simclr_jax, which imports nothing else, beside the
    import of what others need; {TRAINER} is import simclr_jax.cli.train_run: JAX, Flax, Optax and Orbax. "First step":
    the config demo is read, the data loaded, the program compiled and one update made; once with an empty cache of
    compiled programs, once with JAX_COMPILATION_CACHE_DIR naming one that has them; both losses must be the same.
    Targets: import {TARGETS[IMPORT]:g} and --help {TARGETS[HELP]:g} CPU seconds, first step with the cache
    {TARGET_CACHED:g} s on the clock.""",
    repeats=1,
    setup=lambda quick, folder: {CONFIG: "smoke" if quick else "demo"},
    applies=lambda case, name: name == OURS or (case == STEP if name == CACHED else case == IMPORT),
    note=note,
)
