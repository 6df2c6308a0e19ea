"""The report page: what a run was, and how good it is, as one HTML file that loads nothing from anywhere.

`ReportContents` is filled by the entry point; this file turns it into the values `page.html.j2` prints. Every value
is escaped by the template engine; only the SVG drawn by `figures` is trusted.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simclr_jax import atomic_files, units
from simclr_jax.html_report import figures, pictures, words

_MAX_VIEW_ROWS, _MAX_QUERIES = 12, 12


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Nearest neighbours of some queries, in the representation and in raw pixels, best first.

    queries: uint8 [Q, h, w, 3]; learned, pixels: uint8 [Q, K, h, w, 3].
    query_labels: int [Q]; learned_labels, pixel_labels: int [Q, K]; -1 = unlabelled; all None for unlabelled data.
    match_rates: over `num_matched` images, the share of K neighbours of the right class, in the representation and
        in pixels; None if unknown. The few queries shown are too small a sample to compare by.
    split: of the queries, "test" or "training".
    """

    queries: np.ndarray
    learned: np.ndarray
    pixels: np.ndarray
    query_labels: np.ndarray | None = None
    learned_labels: np.ndarray | None = None
    pixel_labels: np.ndarray | None = None
    match_rates: tuple[float, float] | None = None
    num_matched: int = 0
    split: str = "test"


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A split on a plane.

    positions: float [n, 2]; labels: int [n], -1 = unlabelled, or None; thumbnails: uint8 [n, h, w, 3] or None.
    method: how it was made, for the caption. split: "test" or "training".
    """

    positions: np.ndarray
    labels: np.ndarray | None = None
    thumbnails: np.ndarray | None = None
    method: str = "t-SNE of the directions of the representation"
    split: str = "test"


@dataclasses.dataclass(frozen=True)
class Confusion:
    """counts: int [C, C], first axis the true class; probe: which probe, for the caption."""

    counts: np.ndarray
    probe: str = "kNN probe on all labels"


@dataclasses.dataclass(frozen=True)
class ReportContents:
    """All that a report shows; whatever is None or empty is left out of the page.

    Attributes:
        title: heading of the page.
        notes: sentences below the heading: what is missing and why, and what the numbers do not tell.
        config: the resolved config, nested.
        environment: versions, device, command; flat.
        data: name, sizes (split -> count), classes, fingerprint, skipped (a sequence) and whatever else is known.
        metrics: rows of metrics.jsonl: step and any of epoch, loss, contrastive_accuracy, contrastive_entropy,
            learning_rate, images_per_second, knn_accuracy, recalls, effective_rank, rankme, alignment, uniformity.
        probes: rows of results.json, see `probes.probe_rows`.
        collapse_value: the loss if all representations were identical; a dashed line.
        chance: accuracy of guessing, in [0, 1].
        class_names: C names.
        views: uint8 [M, 1 + V, h, w, 3], the original and its views.
        neighbors, embedding, confusion: see their types.
        timing: durations (keys ending in _seconds), rates and counts; flat.
    """

    title: str
    notes: Sequence[str] = ()
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    probes: Sequence[Mapping[str, Any]] = ()
    collapse_value: float | None = None
    chance: float | None = None
    class_names: Sequence[str] = ()
    views: np.ndarray | None = None
    neighbors: Neighbors | None = None
    embedding: Embedding | None = None
    confusion: Confusion | None = None
    timing: Mapping[str, Any] | None = None


def write_report(contents: ReportContents, path: str | os.PathLike[str]) -> None:
    """Writes the report as one HTML file; missing folders are made, an older file is replaced."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_text(target, render_report(contents))


def render_report(contents: ReportContents) -> str:
    """The report as HTML text: no script, no address outside the file, every value escaped."""
    import jinja2

    loader = jinja2.PackageLoader("simclr_jax", "html_report")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, autoescape=True, **options)
    return environment.get_template("page.html.j2").render(
        title=contents.title,
        headline=words.headline(contents.probes, contents.chance),
        notes=contents.notes,
        tiles=_tiles(contents),
        probes=_probe_section(contents),
        curves=_curves(contents),
        views=_views(contents.views),
        neighbors=_neighbors(contents.neighbors, contents.class_names),
        embedding=_embedding(contents.embedding, contents.class_names),
        confusion=_confusion(contents.confusion, contents.class_names),
        data=words.plain_rows(contents.data),
        timing=words.plain_rows(contents.timing),
        environment=words.plain_rows(contents.environment),
        config=words.config_sections(contents.config),
    )


def _tiles(contents: ReportContents) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) for the row of big numbers under the heading."""
    tiles = words.accuracy_tiles(contents.probes)
    last = contents.metrics[-1] if contents.metrics else {}
    timing, sizes = contents.timing or {}, (contents.data or {}).get("sizes")
    seconds = next((timing[key] for key in ("training_seconds", "train_seconds") if key in timing), None)
    if seconds is not None:
        tiles.append((units.duration(seconds), "training time", str(timing.get("device", ""))))
    if "step" in last:
        epoch = last.get("epoch")
        tiles.append((f"{last['step']:,}", "steps", f"{epoch:.4g} epochs" if epoch is not None else ""))
    if isinstance(sizes, Mapping) and "train" in sizes:
        remark = ", ".join(f"{count:,} {split}" for split, count in sizes.items() if split != "train")
        tiles.append((f"{sizes['train']:,}", "training images", remark))
    return tiles


def _linear_first(numbered: tuple[int, words.Column]) -> tuple[bool, str, int]:
    """Sorts columns by probe, the linear one first, so that each probe has a row of bars."""
    index, column = numbered
    return column.probe != "linear", column.probe, index


def _probe_section(contents: ReportContents) -> dict[str, Any] | None:
    if not contents.probes:
        return None
    # The further numbers of neighbours stand below the table, which they would make too wide.
    shown = [row for row in contents.probes if row["probe"] in words.PROBES] or contents.probes
    table = words.probe_table(shown)
    strong = words.trained_name(shown)
    panels = [
        (
            f"{words.PROBES.get(column.probe, column.probe)}, {words.spaced(column.labels)} of the labels",
            [(row.title, row.cells[index].accuracy) for row in table.rows],
        )
        for index, column in sorted(enumerate(table.columns), key=_linear_first)
    ]
    chance = words.chance_of(shown, contents.chance)
    svg = figures.bars(panels, strong=words.feature_title(strong), chance=chance, name="bars")
    further = words.further_scores([row for row in contents.probes if row not in shown])
    return {
        "table": table,
        "svg": svg,
        "chance": chance,
        "protocols": words.protocols(contents.probes),
        "further": further,
    }


def _curves(contents: ReportContents) -> list[dict[str, str]]:
    """A plot and its caption for every metric that was logged."""

    def series(*keys: str) -> dict[str, tuple[list[float], list[float]]]:
        found = {}
        for key in keys:
            rows = [row for row in contents.metrics if row.get(key) is not None]
            if rows:
                steps = [float(row.get("step", index)) for index, row in enumerate(rows)]
                found[key.replace("_", " ")] = (steps, [float(row[key]) for row in rows])
        return found

    return [
        {
            "title": title,
            "caption": caption,
            "svg": figures.line_plot(series(*keys), name=f"curve{index}", **options),
        }
        for index, (title, caption, keys, options) in enumerate(_plots(contents))
        if series(*keys)
    ]


def _plots(contents: ReportContents) -> list[tuple[str, str, tuple[str, ...], dict[str, Any]]]:
    """(title, caption, metrics, options of `figures.line_plot`) of every plot that there may be."""
    collapse = None if contents.collapse_value is None else ("collapsed", contents.collapse_value)
    chance = words.chance_of(contents.probes, contents.chance)
    guess = None if chance is None else ("chance", chance)
    same = _said("Dashed: the loss if all representations were identical.", collapse)
    knn = {"percent": True, "reference": guess}
    often = "How often a view finds its partner in the batch."
    retrieved = "On at most 1,000 test pictures: how often what belongs together is found among the nearest."
    recalls = tuple(f"{way}_recall_{k}" for k in (1, 5) for way in ("image_to_text", "text_to_image"))
    directions = "Without labels: 1 is a collapse; at most the number of features."
    apart = "Without labels: how far two views lie from each other, and how even all images lie; both better if low."
    return [
        ("Loss", same, ("loss",), {"reference": collapse}),
        ("Contrastive accuracy", often, ("contrastive_accuracy",), {"percent": True}),
        ("kNN accuracy during training", _said("Dashed: guessing.", guess), ("knn_accuracy",), knn),
        ("Retrieval during training, recall at 1", retrieved, recalls[:2], {"percent": True}),
        ("Retrieval during training, recall at 5", retrieved, recalls[2:], {"percent": True}),
        ("Directions in use", directions, ("effective_rank", "rankme"), {}),
        ("Alignment and uniformity", apart, ("alignment", "uniformity"), {}),
        ("Contrastive entropy", "In nats; high: undecided.", ("contrastive_entropy",), {}),
        ("Learning rate", "As used by the optimizer.", ("learning_rate",), {}),
        ("Images per second", "All devices together.", ("images_per_second",), {}),
    ]


def _said(caption: str, reference: tuple[str, float] | None) -> str:
    return caption if reference is not None and np.isfinite(reference[1]) else ""


def _views(views: np.ndarray | None) -> list[list[str]] | None:
    if views is None or not len(views):
        return None
    return [[pictures.data_uri(image) for image in row] for row in views[:_MAX_VIEW_ROWS]]


def _neighbors(neighbors: Neighbors | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Rows of (query, learned, pixels) pictures; a picture knows its class and whether it is the query's."""
    if neighbors is None or not len(neighbors.queries):
        return None

    def picture(image: np.ndarray, label: Any, wanted: Any) -> dict[str, Any]:
        known = label is not None and label >= 0 and wanted is not None and wanted >= 0
        text = words.class_name(label, names)
        return {"uri": pictures.data_uri(image), "label": text, "right": bool(label == wanted) if known else None}

    rows, hits = [], {"learned": [0, 0], "pixels": [0, 0]}
    for index, query in enumerate(neighbors.queries[:_MAX_QUERIES]):
        wanted = None if neighbors.query_labels is None else neighbors.query_labels[index]
        row: dict[str, Any] = {"query": picture(query, wanted, None)}
        groups = {
            "learned": (neighbors.learned, neighbors.learned_labels),
            "pixels": (neighbors.pixels, neighbors.pixel_labels),
        }
        for key, (images, labels) in groups.items():
            found = [None] * len(images[index]) if labels is None else list(labels[index])
            row[key] = [picture(image, label, wanted) for image, label in zip(images[index], found, strict=True)]
            marks = [item["right"] for item in row[key] if item["right"] is not None]
            hits[key] = [hits[key][0] + sum(marks), hits[key][1] + len(marks)]
        rows.append(row)
    rates = [f"{100 * rate:.0f} %" for rate in neighbors.match_rates or ()]
    counts = {"hits": hits, "rates": rates, "num_matched": f"{neighbors.num_matched:,}"}
    return {"rows": rows, **counts, "split": neighbors.split}


def _embedding(embedding: Embedding | None, names: Sequence[str]) -> dict[str, Any] | None:
    if embedding is None or not len(embedding.positions):
        return None
    labels = embedding.labels
    present = [] if labels is None else sorted(set(labels.tolist()), key=lambda label: (label < 0, label))
    map_uri = None
    if embedding.thumbnails is not None:
        map_uri = pictures.encoded(pictures.image_map(embedding.positions, embedding.thumbnails), "PNG")
    return {
        "svg": figures.scatter(embedding.positions, labels, name="map"),
        "legend": [(figures.marker_svg(label), *_legend(label, names)) for label in present],
        "thumbnails": map_uri,
        "method": embedding.method,
        "split": embedding.split,
        "count": len(embedding.positions),
    }


def _legend(label: int, names: Sequence[str]) -> tuple[str, str]:
    """The number on the map and the name of a class; unlabelled images have no number."""
    return (str(label), words.class_name(label, names)) if label >= 0 else ("", "unlabelled")


def _confusion(confusion: Confusion | None, names: Sequence[str]) -> dict[str, Any] | None:
    if confusion is None or not np.sum(confusion.counts):
        return None
    counts = np.asarray(confusion.counts)
    titles = [words.class_name(label, names) for label in range(len(counts))]
    svg = figures.heatmap(counts, titles, name="confusion")
    return {"svg": svg, "worst": words.most_confused(counts, titles), "probe": confusion.probe}
