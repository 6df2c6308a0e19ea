"""`simclr-jax train`, held at one place while a test cuts the line to the other process or sends a signal.

Started as `python -m tests.distributed.held_worker PLACE FOLDER FLAG...`: at PLACE the process writes FOLDER/held.I
and waits for FOLDER/go, as Python waits, or for ever in C with SIMCLR_TEST_IN_C. From then on the others may be silent
for SIMCLR_TEST_SILENT_SECONDS: to start and compile takes longer where other programs take the cores.
"""

import ctypes
import functools
import os
import pathlib
import sys
import time
from typing import Any

from simclr_jax import __main__ as program
from simclr_jax import distributed
from simclr_jax.distributed import peers as peers_lib
from simclr_jax.run import checkpoint_step, metrics_reader, setup, training_loop

# Place -> owner and name of the function of which a call waits, and which call.
PLACES: dict[str, tuple[Any, str, int]] = {
    "agree": (distributed.Peers, "agree", 1),
    "data": (setup, "make_run", 1),
    "restore": (checkpoint_step, "read", 1),
    "compile": (training_loop, "_announce", 1),
    "update": (metrics_reader.Reader, "put", 2),
    "save": (checkpoint_step, "start_writing", 2),
    "nowhere": (setup, "make_run", 0),
}


def wait_in_c() -> None:
    """Never returns and lets Python run no handler of signals, as a compiler does: a mutex that is locked twice."""
    mutex = (ctypes.c_char * 64)()
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def hold(place: str, folder: pathlib.Path) -> None:
    """Changes the function of the place so that its call waits."""
    owner, name, which = PLACES[place]
    real, calls = getattr(owner, name), [0]

    @functools.wraps(real)
    def held(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == which:
            (folder / f"held.{os.environ['SLURM_PROCID']}").touch()
            peers_lib._STUCK_SECONDS = float(os.environ.get("SIMCLR_TEST_SILENT_SECONDS", peers_lib._STUCK_SECONDS))
            if os.environ.get("SIMCLR_TEST_IN_C"):
                wait_in_c()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return real(*args, **kwargs)

    setattr(owner, name, held)


if __name__ == "__main__":
    hold(sys.argv[1], pathlib.Path(sys.argv[2]))
    sys.exit(program.main(["train", *sys.argv[3:]]))
