"""Every test runs on the CPU, with strict dtype promotion and warnings as errors."""

import gc
import os
import tempfile

import pytest

from benchmarks import peers
from tests.devices import QUICK_COMPILING
from tests.parity import compare, effect

__all__ = ["compare", "effect"]  # fixtures for all tests

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests leave the user's cache of compiled programs alone: the processes that they start share one that ends with the
# session.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _PROGRAMS = tempfile.TemporaryDirectory(prefix="simclr_jax_programs_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**31)  # with a bound, entries are read and written under a lock

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
# To look for thousands of small programs in the cache takes an eighth of the time of all tests, and few are in it: it
# serves the processes that tests start.
jax.config.update("jax_enable_compilation_cache", False)


def pytest_configure(config):
    """The fast tests compile with little effort, which is most of their time; with the slow ones, all do as users do.

    `XLA_FLAGS= make test` compiles as users do, too.
    """
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", QUICK_COMPILING)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked `few(n)`, n rows that lie evenly among those not slow anyway are fast and the others slow."""
    rows = {}
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            rows.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_test in rows.values():
        (num_fast,) = of_test[0].get_closest_marker("few").args
        fast = {len(of_test) * number // num_fast for number in range(num_fast)}
        for number, item in enumerate(of_test):
            if number not in fast:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Python looks for garbage less often, and not among what was imported: a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a run of some steps on digits; what a test writes there, another one may find.

    One for all workers: the first one trains, and the others wait for it.
    """
    import filelock

    from simclr_jax.cli import train
    from simclr_jax.run import config as config_lib

    short = [
        "--config.augment.image_size=8",
        "--config.augment.color_jitter_probability=0.0",
        "--config.augment.grayscale_probability=0.0",
        "--config.train.num_epochs=0.3",
        "--config.train.evaluate_every_epochs=0.0",
        # Few programs to compile: batches are as long as the smallest sets that tests evaluate.
        "--config.probe.batch_size=60",
        "--config.probe.label_fractions=(0.01,1.0)",
        "--config.probe.more_knn_k=(10,200)",
    ]
    settings = config_lib.load_file("smoke", *short)
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "small_run"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "trained").exists():
            assert train.main(config=settings.to_dict(), workdir=str(folder)) == 0
            (folder / "trained").touch()
    return folder


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
    pytest.importorskip("torch")
    try:
        return peers.load_torchvision()
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
