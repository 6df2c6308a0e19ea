"""Metrics that are not finite: where they end a run, where they are passed over, and what is said and logged."""

import numpy as np
import pytest

from simclr_jax import distributed
from simclr_jax.run import finite, metrics_reader
from simclr_jax.run import workdir as workdir_lib


def make_reader(log, *, log_every=1):
    sizes = metrics_reader.Sizes(num_steps=100, batch_size=4, num_images=40)
    return metrics_reader.Reader(log, distributed.Peers(0, 1), sizes, step=0, log_every=log_every)


def put(reader, step, *, loss=1.0, norm=2.0, **more):
    values = {"loss": loss, "gradient_norm": norm, **more}
    reader.put(step, 1, {name: np.asarray([value], np.float32) for name, value in values.items()})
    reader.flush()


@pytest.mark.parametrize("bad", [{"loss": np.nan}, {"loss": -np.inf}, {"norm": np.inf}])
def test_an_update_that_is_not_finite_is_named_with_its_numbers(bad):
    with workdir_lib.silent_log() as log:
        reader = make_reader(log)
        put(reader, 0)
        with pytest.raises(finite.Diverged, match="between step 1 and step 2") as caught:
            put(reader, 1, **bad)
    assert caught.value.step == 1 and f"{next(iter(bad.values())):.4g}" in str(caught.value)


def test_skipped_updates_are_said_logged_without_nan_and_not_endless(tmp_path, capsys):
    with workdir_lib.open_log(tmp_path, resumed_step=0) as log:
        reader = make_reader(log)
        put(reader, 0, skipped=0.0)
        for step in range(1, 1 + finite.MOST_SKIPPED):
            put(reader, step, loss=np.nan, norm=np.nan, skipped=1.0)
        put(reader, 11, skipped=0.0)  # only those in a row count
        for step in range(12, 12 + finite.MOST_SKIPPED):
            put(reader, step, loss=np.nan, skipped=1.0)
        with pytest.raises(finite.Diverged, match="more than 10 updates in a row were skipped"):
            put(reader, 22, loss=np.nan, skipped=1.0)
    rows = workdir_lib.read_metrics(tmp_path)
    assert [row["step"] for row in rows if row.get("skipped")] == [*range(2, 12), *range(13, 23)]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert capsys.readouterr().err.count(": skipped.") == 2 * finite.MOST_SKIPPED + 1


def test_the_peak_memory_of_a_cpu_is_logged_as_that_of_the_process(tmp_path):
    with workdir_lib.open_log(tmp_path, resumed_step=0) as log:
        reader = make_reader(log)
        put(reader, 0)
        reader.write_evaluation(1, 0.5, scores={})
        reader.write_goodput()
    rows = [row for row in workdir_lib.read_metrics(tmp_path) if "knn_accuracy" in row or "goodput" in row]
    assert len(rows) == 2 and all("peak_bytes" not in row for row in rows)
    # A Python with JAX is above 50 MB; kilobytes for bytes would be a thousandth of it.
    assert all(5e7 < row["peak_host_bytes"] < 1e12 for row in rows)
