"""What points of `simclr-jax explore` are coloured and filtered by: labels, clusters, scores, columns of a table."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from simclr_jax import base, html_report, probes, retrieval
from simclr_jax.run import feature_file, image_text, progress, tables

_MAX_COLUMNS, _MAX_CLASSES = 24, 5000


def make_fields(
    embedding: feature_file.Embedding,
    near: Sequence[html_report.Near],
    *,
    clusters: int,
    table: Mapping[str, Mapping[str, str]],
) -> list[html_report.Field]:
    """All of them, the label in front if there is one.

    Args:
        embedding: the pictures.
        near: their neighbours, those in the representation first; empty for none.
        clusters: of k-means, 0 for none.
        table: what `read_table` gave.
    """
    known = len(probes.labelled_rows(embedding.labels)) > 0
    fields = []
    if known:
        fields.append(html_report.Field("label", embedding.labels, embedding.class_names, "of every picture"))
    if clusters:
        progress.say("Clusters ...")
        found = retrieval.cluster_rows(embedding.features, min(clusters, len(embedding.names)))
        names = tuple(f"cluster {number}" for number in range(len(found.centers)))
        fields.append(html_report.Field("cluster", found.assignments, names, "k-means, the largest first"))
    if near:
        fields.append(_unusual(near[0]))
    if near and known:
        fields.append(_disagreement(embedding.labels, near[0]))
    given = _table_fields(embedding, table)
    # A column takes the place of what was found.
    return sorted(
        [*(field for field in fields if field.name not in {one.name for one in given}), *given],
        key=lambda field: field.name != "label",
    )


def _unusual(near: html_report.Near) -> html_report.Field:
    note = f"1 minus the mean similarity to the {near.rows.shape[1]} nearest: high for pictures unlike all others"
    return html_report.Field("unusual", 1 - near.similarities.mean(axis=1), note=note)


def _disagreement(labels: np.ndarray, near: html_report.Near) -> html_report.Field:
    """The share of the labelled neighbours that have another label; NaN where there is nothing to compare."""
    others = labels[near.rows]
    comparable = (others >= 0) & (labels[:, None] >= 0)
    count = comparable.sum(axis=1)
    differ = (comparable & (others != labels[:, None])).sum(axis=1)
    share = np.where(count > 0, differ / np.maximum(count, 1), np.nan)
    return html_report.Field("other label", share, note="share of the nearest with another label: a label to check")


def make_word_fields(embedding: feature_file.Embedding, words: Sequence[str]) -> list[html_report.Field]:
    """The cosine of every picture with each of the words, and of several words the likest; [] for none.

    Raises:
        base.InputError: see `image_text.embed_words`.
    """
    words = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not words:
        return []
    likeness = _cosines(embedding.features, image_text.embed_words(embedding.meta, words))
    note = "cosine of the picture with these words, by the encoder and text tower of the run"
    fields = [html_report.Field(f'"{word}"', likeness[:, number], note=note) for number, word in enumerate(words)]
    if len(words) == 1:
        return fields
    return [html_report.Field("likest words", likeness.argmax(axis=1), tuple(words), "of those given"), *fields]


def _cosines(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 [N, M], of features [N, D] that may be mapped from a file, and others [M, D]."""
    found = np.zeros((len(features), len(others)), np.float32)
    others = others / np.linalg.norm(others, axis=1, keepdims=True)
    for start in range(0, len(features), 16384):
        rows = np.asarray(features[start : start + 16384], np.float32)
        found[start : start + 16384] = rows @ others.T / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


def read_table(path: str) -> dict[str, dict[str, str]]:
    """Picture (its id, path or file name, as the table has it) -> column -> text.

    Raises:
        base.InputError: no such file, or not a CSV with a column that names pictures and another one.
    """
    heads, rows = tables.read_table(path, flag="--table")
    key = next((name for name in tables.KEYS if name in heads), None)
    columns = [name for name in heads if name not in tables.KEYS][:_MAX_COLUMNS]
    if key is None or not columns:
        got = base.one_line(", ".join(heads), 120) or "nothing"
        raise base.InputError(f"--table must be a CSV with the column path (or id) and others; {path} has {got}.")
    return {row[key]: {name: (row[name] or "").strip() for name in columns} for row in rows if row[key]}


def _table_fields(embedding: feature_file.Embedding, table: Mapping[str, Mapping[str, str]]) -> list[html_report.Field]:
    if not table:
        return []
    found = [
        next((table[key] for key in (name, path, pathlib.PurePath(name).name) if key in table), None)
        for name, path in zip(embedding.names, embedding.paths, strict=True)
    ]
    matched = sum(row is not None for row in found)
    if not matched:
        raise base.InputError(
            f"--table must name pictures as the features do, such as {embedding.names[0]}; none of its {len(table)} "
            "is one. Use ids, absolute paths, or names of files."
        )
    progress.say(f"Table: {matched} of {len(found)} pictures")
    fields = []
    for column in next(iter(table.values())):
        texts = ["" if row is None else row[column] for row in found]
        numbers = _numbers(texts)
        names = tuple(sorted(set(texts) - {""}))
        if numbers is not None:
            fields.append(html_report.Field(column, numbers, note="of the table"))
        elif 0 < len(names) <= _MAX_CLASSES:
            places = {name: number for number, name in enumerate(names)} | {"": -1}
            values = np.asarray([places[text] for text in texts], np.int32)
            fields.append(html_report.Field(column, values, names, "of the table"))
        else:
            progress.say(f"Left out: column {base.one_line(column, 40)!r} has {len(names)} different texts.")
    return fields


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The texts as numbers, NaN for empty ones; None if one is no number, or all are empty."""
    try:
        values = np.asarray([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return values if np.isfinite(values).any() else None
