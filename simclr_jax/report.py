"""`simclr-jax report`: collects what a run left behind and what its encoder sees, and writes one HTML page about it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax import (
    atomic_files,
    augment,
    compiled,
    data,
    features,
    methods,
    models,
    page,
    probes,
    progress,
    runlog,
    sharding,
)
from simclr_jax import config as config_lib

_NUM_VIEW_ROWS, _NUM_VIEWS = 10, 6
_NUM_QUERIES, _NUM_NEIGHBORS, _NUM_MATCHED = 10, 5, 1000


class _Seen(NamedTuple):
    """What the encoder makes of both splits, and the images it was shown."""

    train_set: data.ImageSet
    test_set: data.ImageSet
    train_h: np.ndarray
    test_h: np.ndarray
    train_images: np.ndarray
    test_images: np.ndarray


def main(*, workdir: str, output: str | None, **moved: str | None) -> int:
    """Writes the page about the run in `workdir` to `output` (default: report.html in it); returns the exit status.

    `moved` (data, data_dir, cache_dir) says where the data are now, see `config.with_data`.

    Raises:
        base.InputError: no run, it has no checkpoint yet, its data are not there, or the page cannot be written.
    """
    progress.quiet_libraries()
    compiled.keep()
    folder = runlog.require_run(workdir)
    target = pathlib.Path(output) if output is not None else folder / "report.html"
    if target.parent.is_dir():
        atomic_files.check_target(target)
    else:
        atomic_files.check_folder(target.parent, flag="--output")
    config = config_lib.with_data(runlog.read_config(folder), **moved)
    results = runlog.read_results(folder)
    metrics = runlog.read_metrics(folder)
    if not results.get("probes"):
        progress.say("No probes yet, the page goes without them: simclr-jax evaluate --workdir=" + workdir)
    step, seen = _look(config, folder)
    contents = page.ReportContents(
        title=f"{config['method']['name']}, {config['encoder']['name']} on {config['data']['name']}",
        config=config,
        environment=runlog.environment(),
        data=_data_summary(config, seen),
        metrics=metrics,
        probes=results.get("probes", []),
        collapse_value=methods.uninformed_loss(
            config["method"],
            batch_size=config["train"]["batch_size"],
            num_classes=max(len(seen.train_set.class_names), 1),
        ),
        class_names=seen.train_set.class_names,
        views=_views(config, seen.train_set),
        neighbors=_neighbors(seen),
        embedding=_map(seen),
        confusion=_confusion(config, seen),
        timing=_timing(metrics, step),
    )
    page.write_report(contents, target)
    progress.say(f"Report: {target.resolve()}")
    return 0


def _look(config: Mapping[str, Any], folder: pathlib.Path) -> tuple[int, _Seen]:
    step, variables = features.load_encoder_variables(folder / "checkpoints", which="latest")
    train_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    test_set = config_lib.call(data.load_split, config, "data", split=config["split"]["test"])
    views = {
        "size": config["augment"]["size"],
        "resize": config["augment"]["resize"],
        "batch_size": config["probe"]["batch_size"],
        "mesh": sharding.make_mesh(),
    }
    encode = features.make_encode(config_lib.call(models.make_encoder, config, "encoder"), **views)
    images = [features.evaluation_images(split, **views) for split in (train_set, test_set)]
    return step, _Seen(train_set, test_set, encode(variables, train_set), encode(variables, test_set), *images)


def _views(config: Mapping[str, Any], train_set: data.ImageSet) -> np.ndarray:
    make_views = augment.make_simclr_views(**{**config["augment"], "num_views": _NUM_VIEWS})
    key = jax.random.key(config["seed"])
    return features.view_samples(
        make_views, train_set, size=config["augment"]["size"], num_images=_NUM_VIEW_ROWS, key=key
    )


def _neighbors(seen: _Seen) -> page.Neighbors:
    """Evenly spaced test images, each with the training images that lie nearest to it."""
    k = min(_NUM_NEIGHBORS, len(seen.train_h))
    labelled = bool(seen.train_set.class_names)
    train_pixels, test_pixels = probes.pixel_features(seen.train_images), probes.pixel_features(seen.test_images)

    def nearest(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, learned = probes.neighbors(seen.train_h, seen.test_h[queries], k=k)
        _, pixels = probes.neighbors(train_pixels, test_pixels[queries], k=k)
        return learned, pixels

    queries = _evenly_spaced(len(seen.test_h), _NUM_QUERIES)
    learned, pixels = nearest(queries)
    shown = page.Neighbors(seen.test_images[queries], seen.train_images[learned], seen.train_images[pixels])
    if not labelled:
        return shown
    train_labels, test_labels = seen.train_set.labels, seen.test_set.labels
    many = _evenly_spaced(len(seen.test_h), _NUM_MATCHED)
    rates = [float(np.mean(train_labels[found] == test_labels[many, None])) for found in nearest(many)]
    return dataclasses.replace(
        shown,
        query_labels=test_labels[queries],
        learned_labels=train_labels[learned],
        pixel_labels=train_labels[pixels],
        match_rates=(rates[0], rates[1]),
        num_matched=len(many),
    )


def _evenly_spaced(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, wanted).astype(np.int64))


def _map(seen: _Seen) -> page.Embedding:
    positions, rows = page.map_2d(seen.test_h)
    labels = seen.test_set.labels[rows] if seen.test_set.class_names else None
    return page.Embedding(positions, labels=labels, thumbnails=seen.test_images[rows])


def _confusion(config: Mapping[str, Any], seen: _Seen) -> page.Confusion | None:
    num_classes = len(seen.train_set.class_names)
    if not num_classes:
        return None
    probe = config_lib.call(probes.make_settings, config, "probe")
    k, temperature, votes = probe.knn_k, probe.knn_temperature, probe.knn_votes
    how: dict[str, Any] = {"num_classes": num_classes, "k": k, "temperature": temperature, "votes": votes}
    predictions = probes.knn(seen.train_h, seen.train_set.labels, seen.test_h, **how)
    counts = probes.confusion(predictions, seen.test_set.labels, num_classes=num_classes)
    protocol = probes.knn_protocol(k, temperature, len(seen.train_h), votes=votes)
    return page.Confusion(counts, probe=f"{protocol}, all labels")


def _data_summary(config: Mapping[str, Any], seen: _Seen) -> dict[str, Any]:
    skipped = [*seen.train_set.skipped, *seen.test_set.skipped]
    return {
        "name": config["data"]["name"],
        "sizes": {config["split"]["train"]: len(seen.train_h), config["split"]["test"]: len(seen.test_h)},
        "classes": list(seen.train_set.class_names),
        "fingerprint": seen.train_set.fingerprint,
        "skipped": skipped,
    }


def _timing(metrics: list[dict[str, float]], step: int) -> dict[str, Any]:
    rates = [row["images_per_second"] for row in metrics if "images_per_second" in row]
    seconds = [row["seconds"] for row in metrics if "seconds" in row]
    timing: dict[str, Any] = {"steps": step, "device": sharding.device_summary(sharding.make_mesh())}
    if rates:
        timing["images_per_second"] = round(float(np.median(rates)), 1)
    if seconds:
        timing["training_seconds"] = round(seconds[-1], 1)
    return timing
