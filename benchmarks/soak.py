"""A long run that is killed again and again: what it costs, and whether it ends with the bits of one that was not.

    python benchmarks/soak.py --kills=200 --method=moco

trains a tiny run on digits with a checkpoint every few updates and an evaluation now and then, kills it by SIGKILL at
random moments and starts it again, and compares the end with a run that nobody disturbed: the state, bit for bit, with
optimizer, BatchNorm and MoCo's momentum network and queue; the losses in metrics.jsonl and in TensorBoard's events.
Prints for every start how far it came and the most memory, file handles and threads it used, and at the end their
medians in the first and the last quarter of the starts, and the goodput: of the undisturbed run as it says itself, and
the same seconds of updates as a share of the whole time that the killed run took.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = (
    *("--config.train.batch_size=32", "--config.augment.image_size=8", "--config.encoder.stem=cifar"),
    *("--config.augment.color_jitter_probability=0.0", "--config.augment.grayscale_probability=0.0"),  # compiles sooner
    *("--config.train.checkpoint_every_steps=20", "--config.train.log_every_steps=10", "--config.probe.knn_k=5"),
    *("--config.train.evaluate_every_epochs=5.0", "--config.probe.batch_size=64", "--config.probe.label_free_rows=64"),
)
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


def start(folder: pathlib.Path, epochs: float, method: str) -> subprocess.Popen[bytes]:
    """A process that trains in the folder, or goes on there."""
    words = [sys.executable, "-m", "simclr_jax", "train", *METHODS[method], *SETTINGS]
    words.append(f"--config.train.num_epochs={epochs}")
    log = open(f"{folder}.log", "ab")  # noqa: SIM115  (the process has it)
    return subprocess.Popen([*words, f"--workdir={folder}"], cwd=ROOT, stdout=log, stderr=log)


def usage(process: int) -> tuple[float, int, int] | None:
    """(MB of memory, file handles, threads) of a process; None once it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        number = {name: int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmRSS", "Threads")}
        return number["VmRSS"] / 1024, len(os.listdir(f"/proc/{process}/fd")), number["Threads"]
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


def disturb(
    folder: pathlib.Path, *, kills: int, epochs: float, method: str, rng: random.Random
) -> list[tuple[float, int, int]]:
    """Kills the run at random moments after it has saved something new; the most that each start used."""
    most, begin = [], time.monotonic()
    for number in range(kills):
        before, process, seen = saved(folder), start(folder, epochs, method), (0.0, 0, 0)
        wanted, patience = before + 20 * rng.randint(1, 3), time.monotonic() + 300
        while process.poll() is None and saved(folder) < wanted and time.monotonic() < patience:
            now = usage(process.pid)
            seen = tuple(map(max, seen, now)) if now else seen
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
        most.append(seen)
        passed, after = time.monotonic() - begin, saved(folder)
        used = f"{seen[0]:.0f} MB, {seen[1]} handles, {seen[2]} threads"
        print(f"kill {number + 1}, {passed:.0f} s, saved {after}: {used}", flush=True)
        assert saved(folder) >= before, "a saved step is lost"
    return most


def compare(whole: pathlib.Path, broken: pathlib.Path) -> dict[str, bool | int]:
    """Whether the killed run has ended as the other one, and has logged the same."""
    # The first row of every start is left out of the log, as its rate would include compiling.
    same: dict[str, bool | int] = {
        f"same_losses_in_{where}": len(read(broken)) > 0 and read(broken).items() <= read(whole).items()
        for where, read in {"metrics": losses, "tensorboard": shown_losses}.items()
    }
    same_state = final_digests(whole) == final_digests(broken)
    return {"same_state": same_state, **same, "losses_compared": len(losses(broken))}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--method", choices=METHODS, default="simclr")
    parser.add_argument("--epochs", type=float, default=0.0, help="0 = two checkpoints a kill")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    epochs = options.epochs or max(10.0, options.kills * 1.2)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        whole, broken = pathlib.Path(name) / "whole", pathlib.Path(name) / "broken"
        begin = time.monotonic()
        assert start(whole, epochs, options.method).wait() == 0, pathlib.Path(f"{whole}.log").read_text()[-2000:]
        undisturbed = time.monotonic() - begin
        begin = time.monotonic()
        most = disturb(broken, kills=options.kills, epochs=epochs, method=options.method, rng=rng)
        assert start(broken, epochs, options.method).wait() == 0, pathlib.Path(f"{broken}.log").read_text()[-2000:]
        disturbed = time.monotonic() - begin
        told = [row for row in metrics(whole) if "goodput" in row][-1]
        useful = told["goodput"] * told["wall_seconds"]
        report: dict[str, Any] = {
            "method": options.method,
            "kills": options.kills,
            "seed": options.seed,
            "updates": saved(whole),
            **compare(whole, broken),
            "goodput_undisturbed": round(told["goodput"], 3),
            "goodput_disturbed": round(useful / disturbed, 3),
            "seconds_undisturbed": round(undisturbed, 1),
            "seconds_disturbed": round(disturbed, 1),
        }
        part_of = max(1, len(most) // 4)
        for at, what in enumerate(("megabytes", "handles", "threads")):
            report[what] = [statistics.median(seen[at] for seen in part) for part in (most[:part_of], most[-part_of:])]
        print(json.dumps(report, indent=1))
        assert all(same for name, same in report.items() if name.startswith("same_")), "not the same"


if __name__ == "__main__":
    main()
