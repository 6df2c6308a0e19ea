"""SimCLR for JAX users: faithful to the original, fast, practical.

This module imports nothing, so that `import simclr_jax` is free; import the part you need:
`from simclr_jax import augment, losses, optim, probes`.
"""

__version__ = "0.1.0"
