"""A long run that is killed again and again: what it costs, and whether it ends with the bits of one that was not.

    python benchmarks/soak.py --kills=200

trains a tiny run on digits with a checkpoint every few updates and an evaluation now and then, kills it by SIGKILL at
random moments and starts it again, and compares the end with a run that nobody disturbed: the state, bit for bit, the
losses in metrics.jsonl. Prints goodput (the share of updates done that were not lost, and the share of the time that
went into updates), and the most memory, file handles and threads of the first and the last tenth of the starts.
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
    *("--config=smoke", "--config.train.batch_size=32", "--config.augment.image_size=8", "--config.encoder.stem=cifar"),
    *("--config.train.checkpoint_every_steps=20", "--config.train.log_every_steps=10", "--config.probe.knn_k=5"),
    *("--config.train.evaluate_every_epochs=20.0", "--config.probe.batch_size=64", "--config.probe.label_free_rows=64"),
)


def start(folder: pathlib.Path, epochs: float) -> subprocess.Popen[bytes]:
    """A process that trains in the folder, or goes on there."""
    words = [sys.executable, "-m", "simclr_jax", "train", *SETTINGS, f"--config.train.num_epochs={epochs}"]
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


def losses(folder: pathlib.Path) -> dict[int, float]:
    """step -> loss of metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {int(row["step"]): row["loss"] for row in rows if "loss" in row}


def final_digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every array of the newest checkpoint."""
    path = folder / "checkpoints" / str(saved(folder)) / "digests" / "metadata"
    return {name: digest for name, (_, digest) in json.loads(path.read_text())["arrays"].items()}


def disturb(folder: pathlib.Path, *, kills: int, epochs: float, rng: random.Random) -> list[tuple[float, int, int]]:
    """Kills the run at random moments after it has saved something new; the most that each start used."""
    most = []
    for _ in range(kills):
        before, process, seen = saved(folder), start(folder, epochs), (0.0, 0, 0)
        wanted, patience = before + 20 * rng.randint(1, 3), time.monotonic() + 300
        while process.poll() is None and saved(folder) < wanted and time.monotonic() < patience:
            now = usage(process.pid)
            seen = tuple(map(max, seen, now)) if now else seen
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
        most.append(seen)
        assert saved(folder) >= before, "a saved step is lost"
    return most


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=0.0, help="0 = two checkpoints a kill")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    epochs = options.epochs or max(10.0, options.kills * 1.2)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        whole, broken = pathlib.Path(name) / "whole", pathlib.Path(name) / "broken"
        begin = time.monotonic()
        assert start(whole, epochs).wait() == 0, pathlib.Path(f"{whole}.log").read_text()[-2000:]
        undisturbed = time.monotonic() - begin
        begin = time.monotonic()
        most = disturb(broken, kills=options.kills, epochs=epochs, rng=rng)
        assert start(broken, epochs).wait() == 0, pathlib.Path(f"{broken}.log").read_text()[-2000:]
        disturbed = time.monotonic() - begin
        equal = final_digests(whole) == final_digests(broken)
        one, other = losses(whole), losses(broken)
        report: dict[str, Any] = {
            "kills": options.kills,
            "seed": options.seed,
            "updates": saved(whole),
            "same_state": equal,
            "same_losses": set(other.items()) <= set(one.items()),
            "seconds_undisturbed": round(undisturbed, 1),
            "seconds_disturbed": round(disturbed, 1),
        }
        tenth = max(1, len(most) // 10)
        for at, what in enumerate(("megabytes", "handles", "threads")):
            report[what] = [statistics.median(seen[at] for seen in part) for part in (most[:tenth], most[-tenth:])]
        print(json.dumps(report, indent=1))
        assert equal and report["same_losses"]


if __name__ == "__main__":
    main()
