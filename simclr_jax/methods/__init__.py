"""Self-supervised methods, each a NamedTuple of four pure functions (`base.Method`).

METHODS maps a name to `make_method(encoder, **section_of_the_config) -> base.Method`.
"""

from collections.abc import Callable

from simclr_jax import base
from simclr_jax.methods import simclr

METHODS: dict[str, Callable[..., base.Method]] = {"simclr": simclr.make_simclr}
