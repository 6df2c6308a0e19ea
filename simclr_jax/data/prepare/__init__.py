"""Data sets prepared once as array_record in TFDS's layout, without TensorFlow: `prepare` and `verify`.

A builder makes a `plan` (every example by name, place and label, nothing read yet), `shard` makes one file of it, `run`
all of them, in parallel and so that a stopped run goes on; `tfds_layout` is what TFDS wants beside them.
"""

from simclr_jax.data.prepare.result import Prepared, verify
from simclr_jax.data.prepare.run import BUILDERS, prepare

__all__ = ["BUILDERS", "Prepared", "prepare", "verify"]
