"""The work of `simclr-jax compare`: what runs have logged and scored, gathered and laid side by side."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simclr_jax import atomic_files, base, probes, units
from simclr_jax.html_report import comparison
from simclr_jax.run import identity
from simclr_jax.run import workdir as workdir_lib

_CURVES = (
    "loss",
    "knn_accuracy",
    "image_to_text_recall_1",
    "text_to_image_recall_1",
    "effective_rank",
    "uniformity",
    "alignment",
)
_PICTURES = (".png", ".svg", ".pdf")
_PEAKS = {"peak_bytes", "peak_host_bytes"}


def compare(
    *, runs: Sequence[str], output: str | None = None, picture: str | None = None, rank_by: str | None = None
) -> int:
    """Prints the runs side by side, and writes a page and a picture where they are asked for; returns the status.

    Args:
        runs: folders of runs, or folders of seeds made by `train --seeds`.
        output: an HTML file, or None.
        picture: a PNG, SVG or PDF file, or None.
        rank_by: a protocol by whose score the runs are ordered, or None for the order given.

    Raises:
        base.InputError: a folder holds no run, runs cannot be ranked by `rank_by`, or a file cannot be written.
    """
    for target, flag in ((output, "--output"), (picture, "--picture")):
        if target is not None:
            atomic_files.check_target(target, flag=flag)
    if picture is not None and pathlib.Path(picture).suffix.lower() not in _PICTURES:
        raise base.InputError(f"--picture must end in one of {', '.join(_PICTURES)}; got {base.one_line(picture, 80)}.")
    columns = [_column(pathlib.Path(run), name) for run, name in zip(runs, _names(runs), strict=True)]
    if rank_by is not None:
        columns = _ranked(columns, rank_by)
    print(table(columns))
    sys.stdout.flush()
    if output is not None:
        comparison.write_page(columns, output)
    if picture is not None:
        comparison.write_picture(columns, picture)
    return 0


def table(columns: Sequence[comparison.ComparedRun]) -> str:
    """The comparison as text: facts, scores, and below what is wrong with a run.

    * marks runs that no other one of the line beats clearly.
    """
    head = ["", *(run.name for run in columns)]
    lines = [[name, *(run.facts.get(name, "-") for run in columns)] for name in comparison.fact_names(columns)]
    scores = []
    for line in comparison.score_lines(columns):
        marks = ["*" if place in line.best else "" for place in range(len(columns))]
        cells = [mark + comparison.written(cell) for mark, cell in zip(marks, line.cells, strict=True)]
        scores.append([f"{line.protocol}  {line.labels}", *cells])
    widths = [max(len(row[place]) for row in [head, *lines, *scores]) for place in range(len(head))]

    def laid(row: Sequence[str]) -> str:
        return "  ".join([f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))])

    text = [laid(head), *map(laid, lines), "", *(map(laid, scores) if scores else ["No run has been evaluated."])]
    if any("*" in cell for row in scores for cell in row[1:]):
        text += ["", "*: no other run of the line is better by more than twice the error."]
    text += comparison.not_ranked(columns)
    said = [f"{name}: {note}" for name, note in comparison.notes(columns)]
    return "\n".join([*text, *(["", *said] if said else [])])


def _names(runs: Sequence[str]) -> list[str]:
    """The last part of every path, with as many parts before it as tell the runs apart."""
    paths = [pathlib.Path(run).absolute().parts for run in runs]
    for count in range(1, max(map(len, paths)) + 1):
        names = [os.path.join(*parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise base.InputError("Every run may be named once; got one several times. Leave it out.")


def _column(folder: pathlib.Path, name: str) -> comparison.ComparedRun:
    if workdir_lib.has_config(folder):
        return _one_run(folder, name)
    seeds = workdir_lib.seed_folders(folder)
    if not seeds:
        workdir_lib.require_run(folder)
    runs = [_one_run(seed, name) for seed in seeds]
    said = [f"{seed.name}: {note}" for seed, run in zip(seeds, runs, strict=True) for note in run.notes]
    return dataclasses.replace(_joined(runs, name), notes=said)


def _one_run(folder: pathlib.Path, name: str) -> comparison.ComparedRun:
    config, results = identity.read_config(folder), workdir_lib.read_results(folder)
    metrics = workdir_lib.read_metrics(folder)
    curves = {}
    for key in _CURVES:
        rows = [row for row in metrics if key in row]
        curves[key] = ([float(row["step"]) for row in rows], [float(row[key]) for row in rows])
    trained = config["method"]["name"]
    data = _data(results.get("evaluated_data"), config["data"]["name"])
    scores = [_score(row, data) for row in results.get("probes", []) if row["features"] == trained]
    scores += _scores_of_texts(results, data)
    classifier = results.get("classifier")
    if classifier and "labels" in classifier:
        count = classifier["num_images"]
        error = _error(classifier["top_1"], count)
        scores.append(_score({**classifier, "accuracy": classifier["top_1"], "standard_error": error}, data))
    for other in results.get("transfer", {}).values():
        on = _data(other["evaluated_data"], "")
        scores += [_score(row, on) for row in other["probes"] if row["features"] == trained]
        scores += _scores_of_texts(other, on)
    notes = results.get("diagnosis", [])
    return comparison.ComparedRun(name, _facts(config, metrics, results), scores, curves, notes=notes)


def _data(measured_on: Mapping[str, Any] | None, name: str) -> str:
    """What a score was measured on, in a word that is equal for equal data only."""
    if measured_on is None:
        return f"{name} (unknown split)"
    digest = base.one_line(measured_on["train"][:4] + (measured_on["test"] or "")[:4])
    return f"{measured_on['name']} {digest}"


def _scores_of_texts(results: Mapping[str, Any], data: str) -> list[comparison.Score]:
    """Retrieval and zero-shot classes, which need no label for training, as `evaluate_text.measure` has kept them."""
    scores = []
    for found in (results.get("retrieval", {}), results.get("zero_shot", {})):
        for name, protocol in found.get("protocols", {}).items():
            # By images also for texts: those of one image are right or wrong together.
            row = {"accuracy": found[name], "standard_error": _error(found[name], found["num_images"])}
            scores.append(_score({**row, "protocol": protocol, "labels": comparison.NO_LABELS}, data))
    return scores


def _error(share: float, count: int) -> float:
    return float(np.sqrt(share * (1 - share) / count))


def _score(row: Mapping[str, Any], data: str) -> comparison.Score:
    try:
        family = probes.find_protocol(row["protocol"]).pattern
    except base.InputError:  # of a version that this program does not know
        family = row["protocol"]
    return comparison.Score(row["protocol"], family, row["labels"], data, row["accuracy"], row.get("standard_error"))


def _facts(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, float]], results: Mapping[str, Any]
) -> dict[str, str]:
    """name -> text of what a run was and took."""
    last = {key: row[key] for row in metrics for key in row}
    # On a CPU that of the host; of several starts the largest.
    peak, kind = ("peak_host_bytes", " (host)") if {"peak_host_bytes"} == _PEAKS & last.keys() else ("peak_bytes", "")
    peaks = [row[peak] for row in metrics if peak in row]
    step, batch_size = int(last.get("step", 0)), config["train"]["batch_size"]
    facts = {
        "method": config["method"]["name"],
        "encoder": f"{config['encoder']['name']} {config['encoder']['dtype']}",
        "data": str(config["data"]["name"]),
        "seed": str(config["seed"]),
        "steps": f"{step:,}",
        "images seen": f"{step * batch_size:,}",
        "training time": units.duration(last["seconds"]) if "seconds" in last else "-",
        "images per second": f"{last['images_per_second']:,.0f}" if "images_per_second" in last else "-",
        f"peak memory{kind}": units.size(max(peaks)) if peaks else "-",
        "last loss": f"{last['loss']:.4g}" if "loss" in last else "-",
    }
    evaluated = results.get("label_free") or last
    names = ("rankme", "effective_rank", "feature_deviation", "uniformity", "alignment")
    return facts | {name.replace("_", " "): f"{evaluated[name]:.3g}" for name in names if name in evaluated}


def _joined(seeds: Sequence[comparison.ComparedRun], name: str) -> comparison.ComparedRun:
    """The mean over seeds, of scores with the standard deviation over them in place of the error."""
    scores = []
    for line in comparison.score_lines(seeds):
        cells = [cell for cell in line.cells if cell is not None]
        values = np.asarray([cell.value for cell in cells])
        if len(cells) == len(seeds):
            error = float(values.std(ddof=1)) if len(values) > 1 else None
            scores.append(cells[0]._replace(value=float(values.mean()), error=error))
    facts = {}
    for fact in comparison.fact_names(seeds):
        texts = list(dict.fromkeys(seed.facts.get(fact, "-") for seed in seeds))
        facts[fact] = texts[0] if len(texts) == 1 else " / ".join(texts)
    own = {key: [seed.curves[key] for seed in seeds] for key in _CURVES}
    curves = {key: _mean_curve(of_seeds) for key, of_seeds in own.items()}
    return comparison.ComparedRun(name, facts, scores, curves, num_seeds=len(seeds), seed_curves=own)


def _mean_curve(curves: Sequence[comparison.Curve]) -> comparison.Curve:
    """The mean over curves at the steps that all of them have."""
    values = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(one) for one in values)))
    return steps, [float(np.mean([one[step] for one in values])) for step in steps]


def _ranked(columns: Sequence[comparison.ComparedRun], protocol: str) -> list[comparison.ComparedRun]:
    """The runs by their score, best first; InputError unless all have it on the same data at one share of labels."""
    probes.find_protocol(protocol)
    lines = [line for line in comparison.score_lines(columns) if line.protocol == protocol and None not in line.cells]
    if not lines:
        have = [f"{run.name}: {', '.join(sorted({s.protocol for s in run.scores})) or 'none'}" for run in columns]
        raise base.InputError(
            base.one_line(
                f"Runs are ranked by one protocol on the same data and labels, which all must have; {protocol} is not "
                f"such a one. They have {'; '.join(have)}. Evaluate them alike."
            )
        )
    line = max(lines, key=lambda line: (line.labels == "100%", line.labels))
    values = [cell.value for cell in line.cells if cell is not None]
    return [columns[place] for place in np.argsort(-np.asarray(values), kind="stable")]
