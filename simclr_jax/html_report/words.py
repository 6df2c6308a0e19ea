"""The words and numbers of the report: the headline, the probe table, and how values are written. Text out, no HTML."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simclr_jax import base, units

PROBES = {"linear": "Linear probe", "ridge": "Ridge", "knn": "kNN"}
_TITLES = {
    "simclr": "SimCLR",
    "simclr_v2": "SimCLR v2",
    "byol": "BYOL",
    "moco": "MoCo",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
    "swav": "SwAV",
    "sup_con": "SupCon",
    "dcl": "DCL",
    "dclw": "DCLW",
    "supervised": "Supervised",
    "distill": "Distilled",
    "untrained": "Untrained network",
    "histogram": "Histogram",
    "pixels": "Raw pixels",
}
_REMARKS = {
    "untrained": "same architecture, random weights",
    "histogram": "of brightness or colour",
    "pixels": "the images themselves",
}
_BASELINES = ("untrained", "histogram", "pixels")

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the probe table: a probe at a share of the labels."""

    labels: str
    probe: str
    num_labels: int | None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of the probe table; `best` marks the highest accuracy of its column."""

    accuracy: float | None
    error: float | None
    best: bool


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One kind of features; `trained` tells the representation from its baselines."""

    title: str
    remark: str
    trained: bool
    cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Table:
    """The probe table: `groups` are (labels, number of labels, columns spanned)."""

    groups: list[tuple[str, int | None, int]]
    columns: list[Column]
    rows: list[TableRow]


def trained_name(rows: Rows) -> str:
    """The name of the features that were trained: the first that is no baseline ("" if there is none)."""
    return next((str(row["features"]) for row in rows if row["features"] not in _BASELINES), "")


def feature_title(name: str) -> str:
    """How a kind of features is called on the page."""
    return _TITLES.get(name, name)


def class_name(label: Any, names: Sequence[str]) -> str:
    """The name of a class, its number if it has no name, "" if unlabelled."""
    if label is None or label < 0:
        return ""
    if int(label) >= len(names):
        return f"class {int(label)}"
    # The name of a folder may hold bytes that are no text; neither a plot nor a UTF-8 file can hold those.
    return str(names[int(label)]).encode("utf-8", "replace").decode("utf-8")


def chance_of(rows: Rows, chance: float | None) -> float | None:
    """The given chance, else the one recorded in the rows."""
    return chance if chance is not None else next((row["chance"] for row in rows if "chance" in row), None)


def headline(rows: Rows, chance: float | None) -> str | None:
    """One or two sentences: the score at the most telling share of the labels against every baseline."""
    name, chosen = trained_name(rows), _headline_rows(rows)
    if name not in chosen:
        return None
    score, row = chosen[name]["accuracy"], chosen[name]
    count = f" ({row['num_labels']:,} images)" if row.get("num_labels") else ""
    share = "all labels" if row["labels"] == "100%" else f"{spaced(row['labels'])} of the labels"
    probe = "a linear probe" if row["probe"] == "linear" else "a nearest-neighbour vote"
    text = f"With {share}{count}, {probe} on the {feature_title(name)} representation"
    tested = f"the {row['num_test']:,} test images" if row.get("num_test") else "the test images"
    text += f" names the right class for {_percent(score)} of {tested}"
    others = {key: item for key, item in chosen.items() if key != name}
    phrases = {
        "untrained": "with the same network untrained",
        "histogram": "with a histogram",
        "pixels": "with raw pixels",
    }
    told = [f"{_percent(item['accuracy'])} {phrases.get(key, 'with ' + key)}" for key, item in others.items()]
    guess = chance_of(rows, chance)
    told += [f"{_percent(guess)} by guessing"] if guess is not None else []
    text += f"; it is {_listed(told)}." if told else "."
    return text + _verdict(row, others)


def accuracy_tiles(rows: Rows) -> list[tuple[str, str, str]]:
    """The big numbers that come from the probes: the headline score and its lead over the best baseline."""
    name, chosen = trained_name(rows), _headline_rows(rows)
    if name not in chosen:
        return []
    row = chosen[name]
    remark = f"{PROBES.get(row['probe'], row['probe'])}, {spaced(row['labels'])} of the labels"
    tiles = [(_percent(row["accuracy"]), f"{feature_title(name)} accuracy", remark)]
    others = {key: item["accuracy"] for key, item in chosen.items() if key != name}
    if others:
        best = max(others, key=lambda key: others[key])
        gain = 100 * (row["accuracy"] - others[best])
        remark = f"{feature_title(best).lower()}: {_percent(others[best])}"
        tiles.append((f"{gain:+.1f}", "points over the best baseline", remark))
    return tiles


def probe_table(rows: Rows) -> Table:
    """The rows of results.json as a table: features down, shares of the labels and probes across."""
    shares = sorted({str(row["labels"]) for row in rows}, key=_share)
    probes = sorted({str(row["probe"]) for row in rows}, key=lambda probe: (probe != "knn", probe))
    found = {(str(row["features"]), str(row["labels"]), str(row["probe"])): row for row in rows}
    columns = [
        Column(share, probe, next((row.get("num_labels") for row in rows if row["labels"] == share), None))
        for share in shares
        for probe in probes
        if any(key[1:] == (share, probe) for key in found)
    ]
    best = {
        column: max(row["accuracy"] for key, row in found.items() if key[1:] == (column.labels, column.probe))
        for column in columns
    }
    table_rows = []
    for name in _ordered_features(rows):
        cells = [_cell(found.get((name, column.labels, column.probe)), best[column]) for column in columns]
        table_rows.append(TableRow(feature_title(name), _REMARKS.get(name, ""), name not in _BASELINES, cells))
    groups = [
        (
            spaced(share),
            next(c.num_labels for c in columns if c.labels == share),
            [c.labels for c in columns].count(share),
        )
        for share in shares
    ]
    return Table(groups, columns, table_rows)


def further_scores(rows: Rows) -> list[tuple[str, str]]:
    """(features, protocol and share of the labels, accuracy with its error) of rows that stand in no table."""
    return [
        (
            f"{feature_title(str(row['features']))}, {row['protocol']}, {spaced(str(row['labels']))} of the labels",
            f"{_percent(row['accuracy'])} ± {100 * row['standard_error']:.1f}",
        )
        for row in rows
    ]


def protocols(rows: Rows) -> list[tuple[str, str]]:
    """(protocol, where it was used), in order of first use."""
    used: dict[str, list[str]] = {}
    for row in rows:
        if "protocol" in row:
            where = f"{feature_title(str(row['features']))} at {spaced(str(row['labels']))}"
            used.setdefault(str(row["protocol"]), []).append(where)
    common = max((len(places) for places in used.values()), default=0)
    return [
        (name, "all others" if len(places) == common and len(used) > 1 and common > 6 else ", ".join(places))
        for name, places in used.items()
    ]


def most_confused(counts: np.ndarray, titles: Sequence[str], *, limit: int = 6) -> list[tuple[str, str, int, float]]:
    """(true class, predicted class, images, share of the true class) of the commonest mistakes, most first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        (titles[row], titles[column], int(wrong[row, column]), float(wrong[row, column] / counts[row].sum()))
        for row, column in cells
        if wrong[row, column]
    ]


def plain_rows(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(name, value) as text, in the order given; durations and large numbers in readable form."""
    rows = []
    for key, value in (values or {}).items():
        if key.endswith("_seconds") and isinstance(value, (int, float)):
            rows.append((key.removesuffix("_seconds").replace("_", " ") + " time", units.duration(value)))
        elif value is not None:
            rows.append((key.replace("_", " "), written(value)))
    return rows


def config_sections(config: Mapping[str, Any] | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, [(key, value), ...]): the top level first, deeper levels with dots in their keys, values unrounded."""
    if not config:
        return []
    top = [(key, str(value)) for key, value in config.items() if not isinstance(value, Mapping)]
    sections = [("general", top)] if top else []
    for name, section in config.items():
        if isinstance(section, Mapping):
            sections.append((name, [(key, str(value)) for key, value in base.flat(section).items()]))
    return sections


def written(value: Any) -> str:
    """A value as a reader writes it: thousands with commas, four digits of a float, lists joined by commas."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool):
        return "none" if value is None else ("yes" if value else "no")
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e12 else f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {written(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        text = ", ".join(written(item) for item in value[:24])
        return text + f", ... ({len(value)} in all)" if len(value) > 24 else text or "none"
    return str(value)


def spaced(labels: str) -> str:
    """A share of the labels as it is printed: "10 %"."""
    return labels.replace("%", " %")


def _headline_rows(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """features -> its row, of the one probe and share of labels that the headline is about: linear at 10 %, if run."""
    name = trained_name(rows)
    mine = [row for row in rows if row["features"] == name]
    if not mine:
        return {}
    key = min(mine, key=lambda row: (row["labels"] != "10%", -_share(str(row["labels"])), row["probe"] != "linear"))
    alike = [row for row in rows if row["labels"] == key["labels"] and row["probe"] == key["probe"]]
    return {str(row["features"]): row for row in alike}


def _verdict(row: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence of caution if the lead over the best baseline is nothing or within the error; else ""."""
    if not others:
        return ""
    best = max(others, key=lambda key: others[key]["accuracy"])
    lead = row["accuracy"] - others[best]["accuracy"]
    error = float(np.hypot(row.get("standard_error") or 0.0, others[best].get("standard_error") or 0.0))
    if lead <= 0:
        return f" So here training has not paid off yet: {feature_title(best).lower()} does as well or better."
    return f" The lead over {feature_title(best).lower()} is within the statistical error." if lead < 2 * error else ""


def _ordered_features(rows: Rows) -> list[str]:
    names = list(dict.fromkeys(str(row["features"]) for row in rows))
    return sorted(names, key=lambda name: _BASELINES.index(name) if name in _BASELINES else -1)


def _cell(row: Mapping[str, Any] | None, best: float) -> Cell:
    if row is None:
        return Cell(None, None, False)
    return Cell(row["accuracy"], row.get("standard_error"), row["accuracy"] >= best)


def _share(labels: str) -> float:
    try:
        return float(labels.rstrip("%"))
    except ValueError:
        return float("inf")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
