"""Every test runs on the CPU, with strict dtype promotion and warnings as errors."""

import gc
import importlib
import os
import sys

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests leave the user's cache of compiled programs alone; those of it name a folder of their own.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")

_STUBS = []


def pytest_configure(config):
    """The fast tests compile with little effort, which is most of their time; with the slow ones, all do as users do.

    What is computed is the same but for rounding. `XLA_FLAGS= make test` compiles as users do, too.
    """
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


_MOST_BYTES = 2.5e9  # the lower, the more is compiled again


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Lets go of compiled programs once they take a lot: in one process all tests together would hold 5 GB."""
    yield
    if _resident_bytes() > _MOST_BYTES:
        jax.clear_caches()
        gc.collect()


def _resident_bytes() -> float:
    """Memory of this process now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, also where its compiled operators do not fit this build of torch: ResNets use none of them."""
    torch = pytest.importorskip("torch")
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _STUBS.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in ("nms", "qnms"):
            _STUBS[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")
