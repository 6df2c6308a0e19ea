"""One run in several processes: who takes part, what they must have in common, and how they end together.

JAX runs the same program in every process: one per host, or one per GPU. Only this folder knows it.
"""

from simclr_jax.distributed.cluster import Job, find_job
from simclr_jax.distributed.initialize import TIMEOUT_VARIABLE, join
from simclr_jax.distributed.liveness import Words
from simclr_jax.distributed.peers import EXIT_PEER_LOST, Peers

__all__ = ["EXIT_PEER_LOST", "TIMEOUT_VARIABLE", "Job", "Peers", "Words", "find_job", "join"]
