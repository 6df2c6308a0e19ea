"""Saves a step beside others and is killed before one of its file operations; for tests/run/test_killed_saves.py.

python saving_worker.py FOLDER SECOND OPERATION...: for every operation a fork of its own works in FOLDER/OPERATION and
is killed there by SIGKILL; operation -1 is never reached, and its fork prints how many there are. The forks are made
before JAX starts any thread.
"""

import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from simclr_jax import base
from simclr_jax.run import checkpoint

CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


def make_state(step):
    """A state whose every array tells its step."""
    rng = np.random.default_rng(step)
    params = {f"w{number}": rng.normal(size=(40, number + 1)).astype(np.float32) for number in range(6)}
    return base.TrainState(np.asarray(step, np.int32), params, {"queue": rng.normal(size=300).astype(np.float32)}, ())


def save(folder, *, steps, kill_at=None):
    """Saves the steps, the older ones being removed; the number of file operations below the folder."""
    counted = [0]

    def look(event, arguments):
        # Python's own list of what is about to be done; what is written from C++ falls between two of these.
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (is_write or event in CHANGES) or not str(arguments[0]).startswith(str(folder)):
            return
        if counted[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        counted[0] += 1

    sys.addaudithook(look)
    with checkpoint.open_checkpoints(folder, keep=2) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, make_state(step), step=step)
    return counted[0]


def main():
    """See the module's docstring."""
    root, *operations = sys.argv[1:]
    before = pathlib.Path(root) / "before"
    for operation in map(int, operations):
        folder = pathlib.Path(root) / f"{operation}" / "checkpoints"
        if not before.exists():
            if os.fork() == 0:
                save(before, steps=(1, 2))
                os._exit(0)
            assert os.wait()[1] == 0
        shutil.copytree(before, folder)
        if os.fork() == 0:
            count = save(folder, steps=(3,), kill_at=None if operation < 0 else operation)
            print(count, flush=True)
            os._exit(0)
        status = os.wait()[1]
        print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)


if __name__ == "__main__":
    main()
