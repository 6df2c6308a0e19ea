"""`simclr-jax embed` as one process of `test_shared_embedding`, which may end in the middle.

Started as `python -m tests.distributed.embed_worker SIGNAL INDEX FLAG...`: process INDEX of the job gets the signal of
that number after its second batch; 0 for none.
"""

import os
import sys
from typing import Any

import jax
import numpy as np

from simclr_jax import __main__ as program
from simclr_jax.run import embedding


def main() -> int:
    """The verb's status."""
    number, index, seen = int(sys.argv[1]), int(sys.argv[2]), list[int]()
    encode = embedding._encode

    def encode_or_end(job: embedding.Job, prepared: list[Any]) -> Any:
        if number and len(seen) == 2 and jax.process_index() == index:
            os.kill(os.getpid(), number)
        seen.append(len(prepared))
        return np.asarray(encode(job, prepared))  # as if the device were done with it

    embedding._encode, embedding._SAVE_SECONDS = encode_or_end, 0.0  # type: ignore[assignment]
    return program.main(["embed", *sys.argv[3:]])


if __name__ == "__main__":
    sys.exit(main())
