"""The work of `simclr-jax cluster`: k-means, its scores, a table and a page with a sheet of every cluster."""

import csv
import io
from collections import Counter

import numpy as np

from simclr_jax import atomic_files, base, html_report, probes, retrieval, units
from simclr_jax.run import compilation_cache, feature_file, progress, thumbnails

_SHOWN_CLUSTERS, _SHOWN_PICTURES = 100, 10
_USUAL = 20


def cluster(
    *, features: str, clusters: int | None = None, output: str = "clusters.csv", page: str = "clusters.html"
) -> int:
    """Writes the cluster of every picture to `output` (CSV) and `page`, and prints scores; returns the exit status.

    Args:
        features: a file that `embed` wrote.
        clusters: how many, from 2 to the number of pictures; None for 20, of fewer pictures half as many.
        output: the table: id, path, cluster, similarity to its centre.
        page: the pictures nearest to every centre.

    Raises:
        base.InputError: no such file, a number out of range, or a file that cannot be written.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    for target, flag in ((output, "--output"), (page, "--page")):
        atomic_files.check_target(target, flag=flag)
    embedding = feature_file.load(features)
    clusters = _number(len(embedding.names), clusters)
    found = retrieval.cluster_rows(embedding.features, clusters)
    nearness = _nearness(embedding.features, found)
    atomic_files.write_text(output, _table(embedding, found, nearness))
    said = _scores(embedding, found)
    for sentence in said:
        print(sentence)
    sections = [
        _section(embedding, found, nearness, number=number)
        for number in range(min(len(found.centers), _SHOWN_CLUSTERS))
    ]
    html_report.write_gallery(html_report.Gallery(f"Clusters: {features}", " ".join(said), sections), page)
    progress.say(f"Wrote {output} and {page}")
    return 0


def _number(count: int, asked: int | None) -> int:
    """How many clusters of `count` pictures are made."""
    if count < 2:
        raise base.InputError(f"cluster needs at least two pictures; got {count}. Embed more.")
    if asked is None and count < _USUAL:
        number = max(2, count // 2)
        progress.say(f"{number} clusters, as {_USUAL} are too many for {count} pictures; --clusters says otherwise.")
        return number
    if asked is not None and asked > count:
        raise base.InputError(f"--clusters must be at most the number of pictures, {count}; got {asked}.")
    return asked or _USUAL


def _nearness(features: np.ndarray, found: retrieval.Clusters) -> np.ndarray:
    """float32 [N], the cosine of every row and its centre."""
    rows: np.ndarray = np.asarray(features, np.float32)
    centers = found.centers[found.assignments]
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(centers, axis=1)
    return np.einsum("nd,nd->n", rows, centers) / np.maximum(lengths, np.float32(1e-12))


def _scores(embedding: feature_file.Embedding, found: retrieval.Clusters) -> list[str]:
    number = len(found.centers)
    said = [f"{number} clusters of {len(embedding.names):,} pictures."]
    if len(np.unique(found.assignments)) < len(embedding.names):
        said.append(f"Silhouette {retrieval.silhouette(embedding.features, found.assignments):.3f} (-1 to 1).")
    if len(probes.labelled_rows(embedding.labels)):
        information = retrieval.mutual_information(found.assignments, embedding.labels)
        accuracy = retrieval.clustering_accuracy(found.assignments, embedding.labels)
        said.append(
            f"Beside the labels: normalized mutual information {information:.3f}, accuracy {100 * accuracy:.1f} % with "
            f"at most one cluster for each of {len(embedding.class_names)} classes."
        )
    return said


def _table(embedding: feature_file.Embedding, found: retrieval.Clusters, nearness: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "path", "cluster", "similarity"))
    for row, (name, path) in enumerate(zip(embedding.names, embedding.paths, strict=True)):
        writer.writerow((name, path, int(found.assignments[row]), f"{nearness[row]:.6f}"))
    return text.getvalue()


def _section(
    embedding: feature_file.Embedding, found: retrieval.Clusters, nearness: np.ndarray, *, number: int
) -> html_report.Section:
    members = np.flatnonzero(found.assignments == number)
    members = members[np.argsort(-nearness[members], kind="stable")]
    labels = [embedding.class_names[label] for label in embedding.labels[members] if label >= 0]
    most = ", ".join(f"{count} {name}" for name, count in Counter(labels).most_common(4))
    # The middle of the cluster, and what only just belongs to it.
    rows = {"nearest to the centre": members[:_SHOWN_PICTURES], "farthest from it": members[_SHOWN_PICTURES:][-5:]}
    shown = [
        html_report.Row(
            title,
            [
                html_report.Shot(picture, embedding.names[row])
                for picture, row in zip(thumbnails.make_thumbnails(embedding, chosen), chosen, strict=True)
            ],
        )
        for title, chosen in rows.items()
        if len(chosen)
    ]
    return html_report.Section(
        f"Cluster {number}: {units.counted(len(members), 'picture')}", f"Labels: {most}" if most else "", rows=shown
    )
