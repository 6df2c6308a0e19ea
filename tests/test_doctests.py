"""Every public function of the library has an example in its docstring, and every example gives what it says."""

import doctest
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOMS = ("augment", "losses", "methods", "models", "optim", "probes", "retrieval", "data", "train_step")
# What only programs of this package call, with arguments of several lines.
WITHOUT = {
    "differentiate_in_chunks",
    "differentiate_whole",
    "make_load_views",
    "make_train_step",
    "repeat_steps",
    "single_step",
}


def functions():
    for room in ROOMS:
        module = importlib.import_module(f"simclr_jax.{room}")
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", own):
            function = getattr(module, name)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield pytest.param(room, name, id=f"{room}.{name}")


def examples_of(room, name, given):
    function = getattr(importlib.import_module(f"simclr_jax.{room}"), name)
    return doctest.DocTestFinder(recurse=False).find(function, name, globs=given)


def test_a_function_shows_an_example():
    for room, name in (row.values for row in functions()):
        examples = [example for test in examples_of(room, name, {}) for example in test.examples]
        assert bool(examples) != (name in WITHOUT), f"{room}.{name} shows no example"


@pytest.mark.few(16)
@pytest.mark.parametrize(("room", "name"), [*functions()])
def test_an_example_gives_what_it_says(room, name):
    rooms = {other: importlib.import_module(f"simclr_jax.{other}") for other in ROOMS}
    given = {"jax": jax, "jnp": jnp, "np": np, "key": jax.random.key(0)}
    given |= {"image": jnp.full((8, 10, 3), 0.5), "images": jnp.full((4, 8, 10, 3), 100, jnp.uint8)}
    for test in examples_of(room, name, {**rooms, **given}):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0
