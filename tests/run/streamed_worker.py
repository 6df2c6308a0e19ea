"""What one process of `test_streamed_runs` does: trains on a streamed set and writes down every row that it was fed.

Started as `python -m tests.run.streamed_worker LOG KILL_AT WORKDIR [OVERRIDE...]`; it ends itself by SIGKILL where it
would make update KILL_AT + 1 (-1 = never).
"""

import hashlib
import json
import os
import pathlib
import signal
import sys

import numpy as np

from simclr_jax.cli import train
from simclr_jax.data import streaming
from simclr_jax.run import config as config_lib


def settings(*overrides: str) -> dict:
    """A small net; checkpoints every 8 updates, an evaluation every 16 (of 19 training images)."""
    own = [
        "--config.feed.kind=streamed",
        "--config.train.batch_size=16",
        "--config.train.steps_per_dispatch=1",
        "--config.train.checkpoint_every_steps=8",
        "--config.train.evaluate_every_epochs=13.5",
        "--config.train.log_every_steps=1",
    ]
    return config_lib.load_file("smoke", *own, *overrides).to_dict()


def watch(log: pathlib.Path, kill_at: int) -> None:
    """Has streams for training write a line for each batch: the step and a digest of each row by its position."""
    open_stream = streaming.open_stream

    def watched(image_set, cuts, *, positions, **how):
        stream = open_stream(image_set, cuts, positions=positions, **how)
        if not cuts.num_views:  # of an evaluation
            return stream

        def read(step):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rows = stream.read(step)
            digests = {
                int(position): hashlib.sha256(crops.tobytes() + np.int32(label).tobytes()).hexdigest()
                for position, crops, label in zip(positions, rows.crops, rows.labels, strict=True)
            }
            with open(log, "a") as lines:
                lines.write(json.dumps([step, digests]) + "\n")
            return rows

        return stream._replace(read=read)

    streaming.open_stream = watched


if __name__ == "__main__":
    watch(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
    sys.exit(train.main(config=settings(*sys.argv[4:]), workdir=sys.argv[3]))
