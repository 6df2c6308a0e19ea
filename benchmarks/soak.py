"""A long run that is killed again and again: what it costs, and whether it ends with the bits of one that was not.

    python benchmarks/soak.py --kills=200 --method=moco
    python benchmarks/soak.py --steps=50000 --kills=3 --save_every=1000 --method=moco

trains a tiny run on digits with a checkpoint every few updates and an evaluation now and then, kills it by SIGKILL at
random moments, spread over its steps, and starts it again, and compares the end with a run that nobody disturbed: the
state, bit for bit, with optimizer, BatchNorm and MoCo's momentum network and queue; the losses in metrics.jsonl and in
TensorBoard's events. Prints for every start how far it came and the most memory, file handles and threads it used.

At the end: memory, handles and threads, as medians of the first and the last quarter of the undisturbed run, and of the
most of every killed start; and the goodput: of the undisturbed run as it says itself (its own start counts), of its
whole process (Python's start counts, too), and the same seconds of updates as a share of the whole time that the
killed run took, from the first start to the last end. What a kill costs is the median time from a start until its
first updates are logged, and half of the updates between two saves; "kills_an_hour_at_95" is how many an hour of such
a cost leave 95 %.
"""

import argparse
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = (
    *("--config.train.batch_size=32", "--config.augment.image_size=8", "--config.encoder.stem=cifar"),
    *("--config.augment.color_jitter_probability=0.0", "--config.augment.grayscale_probability=0.0"),  # compiles sooner
    *("--config.train.log_every_steps=10", "--config.probe.knn_k=5"),
    *("--config.probe.batch_size=64", "--config.probe.label_free_rows=64"),
)
BATCH_SIZE, NUM_IMAGES = 32, 1348
# The queue is filled twice over between two checkpoints, so that every one of them has another.
METHODS = {
    "simclr": ("--config=smoke",),
    "moco": (
        *("--config=cifar10_moco", "--config.data.name=digits", "--config.encoder.name=resnet10"),
        *(
            "--config.encoder.width_multiplier=0.0625",
            "--config.method.queue_length=320",
            "--config.method.bn_splits=2",
        ),
    ),
}


class Usage(NamedTuple):
    """Of a process: megabytes of memory, file handles, threads."""

    megabytes: float
    handles: int
    threads: int


class Plan(NamedTuple):
    """A run: its method, its updates, and after how many of them it saves and is evaluated."""

    method: str
    steps: int
    save_every: int
    evaluate_every: int

    def flags(self) -> list[str]:
        """What `train` is given; half an update less, as a started one counts."""
        epochs = {"num_epochs": self.steps - 0.5, "evaluate_every_epochs": self.evaluate_every}
        own = [f"--config.train.{name}={count * BATCH_SIZE / NUM_IMAGES}" for name, count in epochs.items()]
        return [*METHODS[self.method], *SETTINGS, *own, f"--config.train.checkpoint_every_steps={self.save_every}"]


def start(folder: pathlib.Path, plan: Plan) -> subprocess.Popen[bytes]:
    """A process that trains in the folder, or goes on there."""
    words = [sys.executable, "-m", "simclr_jax", "train", *plan.flags()]
    log = open(f"{folder}.log", "ab")  # noqa: SIM115  (the process has it)
    return subprocess.Popen([*words, f"--workdir={folder}"], cwd=ROOT, stdout=log, stderr=log)


def usage(process: int) -> Usage | None:
    """What a process uses now; None once it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        number = {name: int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmRSS", "Threads")}
        return Usage(number["VmRSS"] / 1024, len(os.listdir(f"/proc/{process}/fd")), number["Threads"])
    except (OSError, IndexError, ValueError):
        return None


def saved(folder: pathlib.Path) -> int:
    """The newest step that is saved."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.name.isdigit()), default=0)


def metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: pathlib.Path) -> dict[int, float]:
    """step -> loss of metrics.jsonl."""
    return {int(row["step"]): row["loss"] for row in metrics(folder) if "loss" in row}


def shown_losses(folder: pathlib.Path) -> dict[int, float]:
    """step -> loss as TensorBoard shows it: a start at a step hides what earlier files say of it and of later ones."""
    from tensorboardX.proto import event_pb2

    shown: dict[int, float] = {}
    for path in sorted(folder.glob("events*"), key=lambda path: (path.stat().st_mtime, path.name)):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            if at + 16 + length > len(content):
                break  # torn by a kill
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):
                shown = {step: loss for step, loss in shown.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == "loss":
                    shown[event.step] = value.simple_value
    return shown


def final_digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every array of the newest checkpoint."""
    path = folder / "checkpoints" / str(saved(folder)) / "digests" / "metadata"
    return {name: digest for name, (_, digest) in json.loads(path.read_text())["arrays"].items()}


def finish(folder: pathlib.Path, plan: Plan) -> tuple[list[Usage], float]:
    """(what the process used, looked at twice a second; its seconds) of a start that nobody disturbs."""
    begin, process, seen = time.monotonic(), start(folder, plan), list[Usage]()
    while process.poll() is None:
        now = usage(process.pid) if saved(folder) else None  # until then it grows by what it compiles
        seen += [now] if now else []
        time.sleep(0.5)
    assert process.returncode == 0, pathlib.Path(f"{folder}.log").read_text()[-2000:]
    return seen, time.monotonic() - begin


class Start(NamedTuple):
    """A start that was killed: the most that it used, and the seconds until it had logged an update."""

    most: Usage
    seconds: float


def disturb(folder: pathlib.Path, plan: Plan, *, kills: int, rng: random.Random) -> list[Start]:
    """Kills the run at random moments, each in a part of its own of the run."""
    starts, begin, part = list[Start](), time.monotonic(), plan.steps / (kills + 1)
    for number in range(kills):
        logged, started, ready = log_size(folder), time.monotonic(), math.nan
        before, process, seen = saved(folder), start(folder, plan), Usage(0.0, 0, 0)
        # Not the same step again, and not in the last part, where the run might end before.
        wanted, patience = max(before + 1, int(part * (number + rng.random()))), time.monotonic() + 3600
        while process.poll() is None and saved(folder) < wanted and time.monotonic() < patience:
            now = usage(process.pid)
            seen = Usage(*map(max, seen, now)) if now else seen
            if math.isnan(ready) and log_size(folder) > logged:
                ready = time.monotonic() - started
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
        starts.append(Start(seen, ready))
        used = f"{seen.megabytes:.0f} MB, {seen.handles} handles, {seen.threads} threads"
        print(f"kill {number + 1}, {time.monotonic() - begin:.0f} s, saved {saved(folder)}: {used}", flush=True)
        assert saved(folder) >= before, "a saved step is lost"
    return starts


def log_size(folder: pathlib.Path) -> int:
    """Bytes of metrics.jsonl; it grows once the first updates are made."""
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def quarters(seen: list[Usage]) -> dict[str, list[float]]:
    """The medians of the first and the last quarter."""
    count = max(1, len(seen) // 4)
    parts = (seen[:count], seen[-count:])
    return {name: [statistics.median(getattr(now, name) for now in part) for part in parts] for name in Usage._fields}


def compare(whole: pathlib.Path, broken: pathlib.Path) -> dict[str, bool | int]:
    """Whether the killed run has ended as the other one, and has logged the same."""
    # The first row of every start is left out of the log, as its rate would include compiling.
    same: dict[str, bool | int] = {
        f"same_losses_in_{where}": len(read(broken)) > 0 and read(broken).items() <= read(whole).items()
        for where, read in {"metrics": losses, "tensorboard": shown_losses}.items()
    }
    same_state = final_digests(whole) == final_digests(broken)
    return {"same_state": same_state, **same, "losses_compared": len(losses(broken))}


def times(
    told: Mapping[str, float], plan: Plan, *, undisturbed: float, disturbed: float, starts: list[Start]
) -> dict[str, float]:
    """The goodputs and what a kill costs, of the row that a run logs at its end and the seconds of both runs."""
    useful = told["goodput"] * told["wall_seconds"]
    known = [one.seconds for one in starts if math.isfinite(one.seconds)]
    # Half of what is made between two saves is made again.
    cost = statistics.median(known) + 0.5 * plan.save_every * useful / plan.steps if known else math.nan
    return {
        "goodput_undisturbed": told["goodput"],
        "goodput_of_the_process": useful / undisturbed,
        "goodput_disturbed": useful / disturbed,
        "updating_seconds": useful,
        "seconds_undisturbed": undisturbed,
        "seconds_disturbed": disturbed,
        "seconds_a_kill": cost,
        "kills_an_hour_at_95": 0.05 * 3600 / cost,
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--method", choices=METHODS, default="simclr")
    parser.add_argument("--steps", type=int, default=0, help="0 = two checkpoints a kill")
    parser.add_argument("--save_every", type=int, default=20)
    parser.add_argument("--evaluate_every", type=int, default=0, help="updates; 0 = ten checkpoints")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    steps = options.steps or options.save_every * max(20, 2 * options.kills)
    plan = Plan(options.method, steps, options.save_every, options.evaluate_every or 10 * options.save_every)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        whole, broken = pathlib.Path(name) / "whole", pathlib.Path(name) / "broken"
        seen, undisturbed = finish(whole, plan)
        told = [row for row in metrics(whole) if "goodput" in row][-1]
        print(f"undisturbed: {undisturbed:.0f} s, goodput {told['goodput']:.3f}", flush=True)
        begin = time.monotonic()
        starts = disturb(broken, plan, kills=options.kills, rng=rng)
        finish(broken, plan)
        disturbed = time.monotonic() - begin
        spent = times(told, plan, undisturbed=undisturbed, disturbed=disturbed, starts=starts)
        report: dict[str, Any] = {**vars(options), "steps": saved(whole), **compare(whole, broken)}
        report |= {name: round(value, 3) for name, value in spent.items()}
        report |= {"undisturbed": quarters(seen), "starts": quarters([one.most for one in starts]) if starts else {}}
        print(json.dumps(report, indent=1))
        assert saved(whole) == steps, f"{steps} steps were asked"
        assert all(same for name, same in report.items() if name.startswith("same_")), "not the same"


if __name__ == "__main__":
    main()
