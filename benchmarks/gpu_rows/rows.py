"""The list of rows: in which order, with which environment and at what cost each runs; and the process that runs some.

A row runs in a process of its own, which prints each figure as a line of JSON as soon as it has it, so that one that is
ended for lack of time loses only what it had not measured.
"""

import importlib
import importlib.util
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.gpu_rows.figures import Figure, Job

# JAX keeps three quarters of a GPU by default; the rows may have what a careful user would give them.
_JAX = {"XLA_CLIENT_MEM_FRACTION": "0.92"}
_EXCLUDED = {**_JAX, "XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops=true"}
# JAX traces the network there to count its FLOPs, and must leave the GPU alone.
_TORCH = {"JAX_PLATFORMS": "cpu", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


class Row(NamedTuple):
    """One row of the suite.

    module, function: of `benchmarks.gpu_rows`; (job) -> figures. words: what it measures, for `--list`.
    seconds: what it may take on an H200, compilers included, a guess until one was used; with less time than this left
    it is left out. needs: modules without which it is left out. environment: of its process.
    """

    module: str
    function: str
    words: str
    seconds: float
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = _JAX


ROWS: dict[str, Row] = {
    "probes": Row("parts", "probes", "what large bfloat16 products and copies reach", 25),
    "resnet50": Row("steps", "resnet50", "the whole ResNet-50 step at 224 pixels, batch 512", 75),
    "torch_resnet50": Row(
        "torch_steps", "resnet50", "torch: ResNet-50 supervised and SimCLR", 110, ("torch", "torchvision"), _TORCH
    ),
    "cifar": Row("steps", "cifar", "the CIFAR-10 recipe, ResNet-18, batch 512, 1024, 4096", 80),
    "views": Row("parts", "views", "the augmentation alone, 224 and 32 pixels", 30),
    "torch_views": Row("torch_parts", "views", "torch: batched views of ours in torch, Kornia", 25, ("torch",), _TORCH),
    "loss": Row("parts", "loss", "NT-Xent, 8192 to 65,536 rows, blockwise and dense", 35),
    "folded": Row("steps", "folded", "the step with BatchNorm not folded into convolutions", 55),
    "shares": Row("steps", "shares", "the step without views, with frozen BatchNorm; the loss alone", 90),
    "deterministic": Row("steps", "deterministic", "both steps with train.deterministic, two runs compared", 80),
    "chunked": Row("steps", "chunked", "ResNet-50, batch 4096 in chunks on one device", 70),
    "torch_cifar": Row(
        "torch_steps", "cifar", "torch: CIFAR ResNet-18 supervised and SimCLR", 70, ("torch", "torchvision"), _TORCH
    ),
    "torch_loss": Row("torch_parts", "loss", "torch: NT-Xent in a few lines, lightly's", 20, ("torch",), _TORCH),
    "lars": Row("parts", "lars", "LARS ours, optax's with masks, plain SGD", 25),
    "pool": Row("parts", "pool", "the stem's max-pool, ours and Flax's", 20),
    "excluded": Row("steps", "excluded", "the same by a flag that lets XLA time kernels", 60, (), _EXCLUDED),
    "large_loss": Row("parts", "large_loss", "NT-Xent, 262,144 and 1,048,576 rows, blockwise", 40),
}


def missing(row: Row) -> str:
    """The first module that the row needs and that is not installed; "" if none is missing."""
    return next((name for name in row.needs if importlib.util.find_spec(name) is None), "")


def work(names: Sequence[str], job: Job) -> int:
    """Runs rows in this process and prints their figures; the exit status, 1 if one failed.

    After a failed row, of which an "error" is printed, the next one runs. What the probes reach serves the rows behind.
    """
    failed = False
    for name in names:
        start = time.monotonic()
        try:
            for figure in _figures(name, job):
                if not math.isfinite(figure.get("value", 0.0)):
                    raise ValueError(f"{figure['name']} is {figure['value']}")
                _print(name, figure)
                if figure["name"] in ("matmul", "copy"):
                    reached = {"matmul": "flops", "copy": "bandwidth"}[figure["name"]]
                    job = job._replace(**{reached: 1e12 * figure["value"]})
        except Exception as error:
            traceback.print_exc()
            _print(name, {"name": name, "error": one_line(f"{type(error).__name__}: {error}")})
            failed = True
        _print(name, {"seconds": round(time.monotonic() - start, 1)})
    return int(failed)


def _figures(name: str, job: Job) -> Iterator[Figure]:
    row = ROWS[name]
    function: Callable[[Job], Iterator[Figure]] = getattr(
        importlib.import_module(f"benchmarks.gpu_rows.{row.module}"), row.function
    )
    return function(job)


def _print(name: str, line: Figure) -> None:
    sys.stdout.write(json.dumps({"row": name, **line}) + "\n")
    sys.stdout.flush()


def one_line(text: str) -> str:
    """What a library said, short enough for a table."""
    return " ".join(text.replace("|", "/").split())[:200]
