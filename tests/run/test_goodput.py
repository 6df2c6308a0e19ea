"""Where the time of a run went, by hand: when the device had nothing to do, and how near its peak it came."""

import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import xla_bridge

from simclr_jax.planning import hardware
from simclr_jax.run import goodput, training_loop


class Result:
    """What a device is at work on until it is told that it is done."""

    def __init__(self):
        self.done = threading.Event()

    def block_until_ready(self):
        assert self.done.wait(10)
        return self


def test_a_device_is_busy_from_when_it_has_work_and_is_done_with_the_work_before():
    times = iter([4.0, 6.0, 10.0])
    busy, results = goodput.Busy(now=lambda: next(times)), [Result() for _ in range(3)]
    busy.add(1.0, results[0])  # done at 4
    busy.add(2.0, results[1])  # waits for it, and is done at 6
    busy.add(9.0, results[2])  # came late: 3 s with nothing to do
    for result in results:
        result.done.set()
    busy.close()
    assert busy.seconds == 3.0 + 2.0 + 1.0
    busy.close()  # nothing is left of the thread
    assert "busy" not in {thread.name for thread in threading.enumerate()}


def test_work_that_failed_ends_neither_the_measure_nor_the_run():
    class Failed:
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    times = iter([2.0, 5.0])
    busy, good = goodput.Busy(now=lambda: next(times)), Result()
    good.done.set()
    busy.add(1.0, Failed())
    busy.add(4.0, good)
    busy.close()
    assert busy.seconds == 1.0 + 1.0


def test_the_shares_are_those_worked_out_by_hand():
    # 100 s of loop, 80 of them busy; 500 updates of 40 GFLOP in 80 s are 250 GFLOP/s, a quarter of 1 TFLOP/s.
    shares = goodput.shares_of(loop=100.0, busy=80.0, flops=500 * 40e9, peak=1e12)
    assert shares == {"idle_share": pytest.approx(0.2), "roofline_share": pytest.approx(0.25)}
    assert goodput.shares_of(loop=100.0, busy=80.0, flops=None, peak=1e12) == {"idle_share": pytest.approx(0.2)}
    assert goodput.shares_of(loop=100.0, busy=80.0, flops=1e12, peak=None) == {"idle_share": pytest.approx(0.2)}
    assert goodput.shares_of(loop=100.0, busy=0.0, flops=1e12, peak=1e12) == {}  # nothing was sent
    assert goodput.shares_of(loop=1.0, busy=1.01, flops=None, peak=None) == {"idle_share": 0.0}


def test_a_clock_leaves_evaluations_out_of_the_loop(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = goodput.Clock()
    now[0] = 10.0
    clock.started()
    for part, seconds in (("compiling", 20.0), ("evaluating", 30.0), ("saving", 5.0), ("waiting for data", 15.0)):
        with clock.spending(part):
            now[0] += seconds
    now[0] = 160.0
    clock.busy.seconds, clock.flops_of_update, clock.peak_flops = 75.0, 3e12, 1e12
    row = clock.read(num_updates=10)
    # 160 s, of which 10, 20 and 30 are beside the loop; of its 100 s the updates have 80.
    assert row["goodput"] == pytest.approx(80 / 160) and row["idle_share"] == pytest.approx(0.25)
    assert row["roofline_share"] == pytest.approx(10 * 3 / 75)
    said = goodput.line(row, num_updates=10)
    assert said.startswith("Goodput 50 %: of 2 min 40 s, 10 updates took 1 min 20 s; starting 10 s")
    assert said.endswith("nothing to do in 25 % of the loop, and reached 40 % of its bfloat16 peak in the rest.")
    clock.flops_of_update = None
    assert "peak" not in goodput.line(clock.read(num_updates=10), num_updates=10)


def test_the_work_of_an_update_is_that_of_its_products_on_one_device(monkeypatch):
    def steps(x, count):
        return jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)

    def flops(num_chunks):
        settings, mesh = types.SimpleNamespace(num_chunks=num_chunks), types.SimpleNamespace(size=4)
        run = types.SimpleNamespace(settings=settings, mesh=mesh, train_steps=jax.jit(steps))
        return training_loop._flops_of_update(run, (jnp.zeros((64, 64)), jnp.asarray(7, jnp.int32)))

    assert flops(1) == pytest.approx(2 * 64**3 / 4, rel=0.01)
    assert flops(2) is None
    # As on GPUs and TPUs, where JAX's own count is None.
    monkeypatch.setattr(xla_bridge, "using_pjrt_c_api", lambda backend=None: True)
    assert jax.jit(lambda x: x @ x).lower(jnp.zeros((64, 64))).cost_analysis() is None
    assert flops(1) == pytest.approx(2 * 64**3 / 4, rel=0.01)
    # As with JAX_PLATFORMS=cuda.
    monkeypatch.setattr(jax, "local_devices", lambda backend: jax.devices("none"))
    assert flops(1) is None


def test_the_peak_is_known_by_the_names_that_jax_gives():
    known = {"NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12, "TPU v4": 275e12, "TPU v5 lite": 197e12}
    known |= {"TPU v5": 459e12, "TPU v6 lite": 918e12}
    assert {name: hardware.peak_flops(name) for name in known} == known
    assert all(hardware.peak_flops(name) is None for name in ("cpu", "CPU", "NVIDIA GeForce RTX 4090", ""))
    assert np.isnan(hardware.DEVICES["cpu"].flops)
