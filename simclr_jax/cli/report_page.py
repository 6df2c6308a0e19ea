"""The work of `simclr-jax report`: what a run has kept and what its encoder sees, on one HTML page."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax import atomic_files, augment, data, html_report, models, probes, retrieval
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint, compilation_cache, feature_store, features, health, identity, progress, splits
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

_NUM_VIEW_ROWS, _NUM_VIEWS = 10, 6
_NUM_QUERIES, _NUM_NEIGHBORS, _NUM_MATCHED = 10, 5, 1000
_NUM_MAPPED = 50  # a map of fewer images shows nothing


class _Seen(NamedTuple):
    """Features and pixels of the training split, and of the split that the page shows.

    Pixels are what `probes.small_images` keeps of the evaluation crops; `how` tells how to make the crops themselves.
    """

    both: splits.Splits
    how: Mapping[str, Any]
    train_h: np.ndarray
    train_pixels: np.ndarray
    # The test split; without one the training images themselves, each compared with the others.
    shown_set: data.ImageSet
    shown_h: np.ndarray
    shown_pixels: np.ndarray
    is_training: bool


def report(*, workdir: str, output: str | None = None, **moved: str | None) -> int:
    """Writes the page about the run in `workdir` to `output` (default: report.html in it); returns the exit status.

    What the data have no labels or no test split for is left out, and a sentence on the page says so.
    `moved` (data, data_dir, cache_dir) says where the data are now; see `config.with_data`.

    Raises:
        base.InputError: no run, it has no checkpoint yet, its data are not there, or the page cannot be written.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    folder = workdir_lib.require_run(workdir)
    target = pathlib.Path(output) if output else folder / "report.html"
    atomic_files.check_target(target)
    config = config_lib.with_data(identity.read_config(folder), **moved)
    results = workdir_lib.read_results(folder)
    metrics = workdir_lib.read_metrics(folder)
    both = splits.load(config)
    reason = splits.why_no_probe(both)
    evaluated = results
    if reason is not None:
        # An older version may have scored what cannot fail.
        results, metrics = {}, [{k: row[k] for k in row if k != "knn_accuracy"} for row in metrics]
    elif not results.get("probes"):
        progress.say("No probes yet, the page goes without them: simclr-jax evaluate --workdir=" + workdir)
    step, h, results, about_step = _choose_features(config, folder, both, results)
    seen = _look(config, both, h)
    # What the doctor found is about the network that was evaluated.
    found = evaluated.get("diagnosis", []) if evaluated.get("evaluated_step") == step else []
    notes = [*about_step, *found, *_notes(seen, reason)]
    other_data = identity.note_data(folder, identity.describe(config["data"]["name"], both.train_set))
    notes = [other_data, *notes] if other_data else notes
    for sentence in notes:
        progress.say(sentence)
    html_report.write_report(_contents(config, seen, step=step, metrics=metrics, results=results, notes=notes), target)
    progress.say(f"Report: {target.resolve()}")
    return 0


def _contents(
    config: Mapping[str, Any],
    seen: _Seen,
    *,
    step: int,
    metrics: list[dict[str, float]],
    results: Mapping[str, Any],
    notes: list[str],
) -> html_report.ReportContents:
    class_names = seen.both.train_set.class_names
    return html_report.ReportContents(
        title=f"{config['method']['name']}, {config['encoder']['name']} on {config['data']['name']}, step {step}",
        notes=notes,
        config=config,
        environment=workdir_lib.environment(),
        data=_data_summary(config, seen.both),
        metrics=metrics,
        probes=results.get("probes", []),
        collapse_value=health.uninformed_loss(config, num_classes=len(class_names)),
        class_names=class_names,
        views=_views(config, seen.both.train_set),
        neighbors=_neighbors(seen),
        embedding=_map(seen),
        confusion=_confusion(config, seen),
        timing=_timing(metrics, step),
    )


_Features = tuple[np.ndarray, np.ndarray | None]


def _choose_features(
    config: Mapping[str, Any], folder: pathlib.Path, both: splits.Splits, results: dict[str, Any]
) -> tuple[int, _Features, dict[str, Any], list[str]]:
    """(step, features of both splits, results, notes): all of one network, the evaluated one if it is still at hand.

    Features that `evaluate` has kept are read; else those of the evaluated step's checkpoint are computed. Where that
    is gone the page is of the latest checkpoint, and the probes, which are another network's, are left out.
    """
    saved = checkpoint.saved_steps(folder / "checkpoints")
    step = results.get("evaluated_step") if results.get("probes") else None
    notes = []
    if step is not None and both.test_set is not None:
        kept = feature_store.load(folder, step=step, train_set=both.train_set, test_set=both.test_set)
        if kept is None and step not in saved:
            notes.append(
                f"The probes were measured at step {step}, whose weights and features are gone, and are left out: run "
                "simclr-jax evaluate again."
            )
            step, results = None, {key: value for key, value in results.items() if key != "probes"}
        elif saved and saved[-1] > step:
            notes.append(
                f"This page is of step {step}; the run has gone on to step {saved[-1]}: run simclr-jax "
                "evaluate again to have that one."
            )
        if kept is not None:
            return kept.step, (kept.train_h, kept.test_h), results, notes
    which = "latest" if step is None else str(step)
    found, variables = features.load_encoder_variables(folder, which=which)
    encode = features.make_encode(
        config_lib.call(models.make_encoder, config, "encoder"), **features.evaluation_settings(config)
    )
    test_set = None if both.is_same else both.test_set
    test_h = None if test_set is None else encode(variables, test_set)
    return found, (encode(variables, both.train_set), test_h), results, notes


def _look(config: Mapping[str, Any], both: splits.Splits, h: _Features) -> _Seen:
    how = features.evaluation_settings(config)
    train_pixels = features.evaluation_images(both.train_set, **how, keep=probes.small_images)
    if both.test_set is None or h[1] is None:
        return _Seen(both, how, h[0], train_pixels, both.train_set, h[0], train_pixels, True)
    test_pixels = features.evaluation_images(both.test_set, **how, keep=probes.small_images)
    return _Seen(both, how, h[0], train_pixels, both.test_set, h[1], test_pixels, False)


def _notes(seen: _Seen, reason: str | None) -> list[str]:
    """What the reader must know before the numbers: what is missing and why, and what they rest on."""
    notes = []
    if seen.is_training:
        why = "The test split is the training split" if seen.both.is_same else "The test split has no images"
        notes.append(f"{why}: the neighbours and the map are of training images, each among the others.")
    if reason is not None:
        notes.append(f"No probes and no confusion matrix: {reason}{'' if reason.endswith('?') else '.'}")
        return notes
    return [*notes, *splits.cautions(seen.both)]


def _views(config: Mapping[str, Any], train_set: data.ImageSet) -> np.ndarray:
    make_views = augment.make_simclr_views(**{**config["augment"], "num_views": _NUM_VIEWS, "num_small_views": 0})
    key = jax.random.key(config["seed"])
    return features.view_samples(
        make_views, train_set, size=config["augment"]["image_size"], num_images=_NUM_VIEW_ROWS, key=key
    )


def _neighbors(seen: _Seen) -> html_report.Neighbors | None:
    """Evenly spaced images, each with the training images nearest to it; None with a single image."""
    k = min(_NUM_NEIGHBORS, len(seen.train_h) - seen.is_training)
    if k < 1:
        return None
    both_pixels = probes.pixel_features(seen.train_pixels), probes.pixel_features(seen.shown_pixels)
    spaces = {"learned": (seen.train_h, seen.shown_h), "pixels": both_pixels}
    queries = _evenly_spaced(np.arange(len(seen.shown_h)), _NUM_QUERIES)
    found = {name: _nearest(seen, space, queries, k=k) for name, space in spaces.items()}
    learned, pixels = features.crops_of_rows(
        seen.both.train_set, np.stack([found["learned"], found["pixels"]]), **seen.how
    )
    split = "training" if seen.is_training else "test"
    shown_images = features.crops_of_rows(seen.shown_set, queries, **seen.how)
    shown = html_report.Neighbors(shown_images, learned, pixels, split=split)
    train_labels, labels = seen.both.train_set.labels, seen.shown_set.labels
    if len(np.unique(train_labels[probes.labelled_rows(train_labels)])) < 2:
        return shown  # with one class every neighbour would be of the right one
    shown = dataclasses.replace(
        shown,
        query_labels=labels[queries],
        learned_labels=train_labels[found["learned"]],
        pixel_labels=train_labels[found["pixels"]],
    )
    rates, num_matched = _match_rates(seen, spaces)
    return dataclasses.replace(shown, match_rates=rates, num_matched=num_matched)


def _nearest(seen: _Seen, space: tuple[np.ndarray, np.ndarray], queries: np.ndarray, *, k: int) -> np.ndarray:
    """int [Q, k]: the training rows nearest to these rows of what is shown, an image itself left out."""
    _, found = probes.neighbors(space[0], space[1][queries], k=k + seen.is_training)
    if not seen.is_training:
        return found
    # Among equal images the row itself may not be one of the k + 1 nearest: then the last is dropped in its place.
    others = [row[row != query][:k] for row, query in zip(found, queries, strict=True)]
    return np.stack(others)


def _match_rates(
    seen: _Seen, spaces: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[tuple[float, float] | None, int]:
    """How often the nearest training images are of the class of a labelled image: (rates, number of images)."""
    train_labels, labels = seen.both.train_set.labels, seen.shown_set.labels
    bank, chosen = probes.labelled_rows(train_labels), _evenly_spaced(probes.labelled_rows(labels), _NUM_MATCHED)
    k = min(_NUM_NEIGHBORS, len(bank) - seen.is_training)
    if not len(chosen) or k < 1 or not np.isin(labels[chosen], train_labels[bank]).any():
        return None, 0
    rates = []
    for train, shown in spaces.values():
        # Places in the bank, so that an image is found, and left out, by its place there.
        queries, rows = (np.searchsorted(bank, chosen), shown[bank]) if seen.is_training else (chosen, shown)
        found = _nearest(seen, (train[bank], rows), queries, k=k)
        rates.append(float(np.mean(train_labels[bank][found] == labels[chosen, None])))
    return (rates[0], rates[1]), len(chosen)


def _evenly_spaced(rows: np.ndarray, wanted: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(np.int64))]


def _map(seen: _Seen) -> html_report.Embedding:
    """The test images on a plane, or the training images where the test split is too small to show anything."""
    shown = ("test", seen.shown_h, seen.shown_set)
    if seen.is_training or len(seen.shown_h) < min(_NUM_MAPPED, len(seen.train_h)):
        shown = ("training", seen.train_h, seen.both.train_set)
    split, h, image_set = shown
    labels = image_set.labels
    positions, rows = retrieval.map_2d(h)
    has_labels = len(probes.labelled_rows(labels[rows])) > 0
    known = labels[rows] if has_labels else None
    thumbnails = features.crops_of_rows(image_set, rows, **seen.how)
    return html_report.Embedding(positions, labels=known, thumbnails=thumbnails, split=split)


def _confusion(config: Mapping[str, Any], seen: _Seen) -> html_report.Confusion | None:
    """kNN's mistakes among the labelled images; None where no probe could measure anything."""
    if splits.why_no_probe(seen.both) is not None:
        return None
    num_classes = len(seen.both.train_set.class_names)
    probe = config_lib.call(probes.make_settings, config, "probe")
    k, temperature, weights = probe.knn_k, probe.knn_temperature, probe.knn_weights
    how: dict[str, Any] = {"num_classes": num_classes, "k": k, "temperature": temperature, "weights": weights}
    train_labels, labels = seen.both.train_set.labels, seen.shown_set.labels
    bank, chosen = probes.labelled_rows(train_labels), probes.labelled_rows(labels)
    predictions = probes.knn(seen.train_h[bank], train_labels[bank], seen.shown_h[chosen], **how)
    counts = probes.confusion(predictions, labels[chosen], num_classes=num_classes)
    protocol = probes.knn_protocol(k, temperature, len(bank), weights=weights)
    return html_report.Confusion(counts, probe=f"{protocol}, all labels, {len(chosen):,} test images")


def _data_summary(config: Mapping[str, Any], both: splits.Splits) -> dict[str, Any]:
    sets = {"train": both.train_set, "test": both.test_set}
    present = {config["split"][which]: image_set for which, image_set in sets.items() if image_set is not None}
    sizes = {split: len(image_set.images) for split, image_set in present.items()}
    labelled = {split: len(probes.labelled_rows(image_set.labels)) for split, image_set in present.items()}
    return {
        "name": config["data"]["name"],
        "sizes": sizes,
        "classes": list(both.train_set.class_names),
        "with a label": labelled if both.train_set.class_names and labelled != sizes else None,
        "fingerprint": both.train_set.fingerprint,
        "skipped": [line for image_set in present.values() for line in image_set.skipped],
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
