"""The work of `simclr-jax evaluate`: what a run's frozen features are worth, beside features without training."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base, data, methods, models, probes
from simclr_jax.cli import evaluate_text
from simclr_jax.distributed import sharding
from simclr_jax.run import checks as checks_lib
from simclr_jax.run import compilation_cache, feature_store, features, guards, identity, progress, splits
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib


def evaluate(
    *,
    workdir: str,
    checkpoint: str = "latest",
    transfer: str | None = None,
    templates: str | None = None,
    **moved: str | None,
) -> int:
    """Evaluates the run in `workdir` at `checkpoint` ("latest", "best" or a step); returns the exit status.

    Prints a table of `probes` (see `probes.probe_rows`), scores without labels, and for a run with a classifier of the
    same classes its scores; below them what the guards and the doctor found. Then writes `probes`, `label_free`,
    `classifier` (see `score_classifier`), `guards`, `diagnosis`, `evaluated_step` and `evaluated_data` to results.json.
    Images without a label take no part in what needs labels. A run that reads texts has `retrieval` and `zero_shot` as
    well, see `evaluate_text.measure`; `templates` is a file with a sentence a line for the latter. Where probes cannot
    measure anything, on data without labels or without a test split, there is a sentence in place of their table, and
    what needs no labels is done as for others.

    A folder of seeds, made by `train --seeds`, is evaluated seed by seed.

    With `transfer`, the name of another data set, its splits "train" and "test" are used in place of the run's, and the
    rows go to `transfer` under that name. `moved` (data, data_dir, cache_dir) says where the data are now, see
    `config.with_data`.

    Raises:
        base.InputError: no run or no such checkpoint, or its data cannot be read.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    seeds = workdir_lib.seed_folders(pathlib.Path(workdir))
    if seeds and not workdir_lib.has_config(pathlib.Path(workdir)):
        return _evaluate_seeds(workdir, seeds, checkpoint=checkpoint, transfer=transfer, templates=templates, **moved)
    sentences = evaluate_text.read_templates(templates)
    subject = _open(workdir_lib.require_run(workdir), checkpoint=checkpoint, transfer=transfer, moved=moved)
    both = subject.both
    reason = splits.why_no_probe(both)
    scores_classifier = not transfer and has_classifier(subject.params, both.test_set) and not both.is_same
    progress.say(f"Evaluating step {subject.step} on {_what_is_scored(both)} ...")
    results, (train_h, test_h) = _measured(subject)
    if scores_classifier:
        assert both.test_set is not None
        trees = subject.params, subject.method_state
        results["classifier"] = score_classifier(subject.config, *trees, test_set=both.test_set)
    results |= evaluate_text.measure(subject, sentences, test_h=test_h)
    _show(subject, results, reason)
    _store(subject, results, (train_h, test_h) if reason is None and test_h is not None else None)
    return 0


def _what_is_scored(both: splits.Splits) -> str:
    """How many images of which split."""
    if both.test_set is None:
        return f"{len(both.train_set.images)} training images"
    return f"{len(probes.labelled_rows(both.test_set.labels)) or len(both.test_set.images)} test images"


def _evaluate_seeds(workdir: str, seeds: Sequence[pathlib.Path], **how: Any) -> int:
    for own in seeds:
        progress.say(f"{own}:")
        evaluate(workdir=str(own), **how)
    progress.say(f"Means over the seeds: simclr-jax compare {workdir}")
    return 0


def _open(
    folder: pathlib.Path, *, checkpoint: str, transfer: str | None, moved: Mapping[str, str | None]
) -> checks_lib.Subject:
    """The state to evaluate with its data, read; other data than those of the training are said."""
    named: dict[str, Any] = {**moved, **({"data": transfer} if transfer else {})}
    config = config_lib.with_data(identity.read_config(folder), **named)
    config = {**config, "split": {**config["split"], **_TRANSFER_SPLITS}} if transfer else config
    both = splits.load(config)
    step, params, method_state = features.load_variables(folder, which=checkpoint, mesh=sharding.make_mesh())
    note = identity.note_data(folder, identity.describe(config["data"]["name"], both.train_set))
    if note and not transfer:
        progress.say(note)
    is_best = checkpoint == "best"
    return checks_lib.Subject(folder, config, step, params, method_state, both, transfer, best_on_test=is_best)


_Both = tuple[np.ndarray, np.ndarray]
_TRANSFER_SPLITS = {"train": "train", "test": "test", "label_fraction": None, "label_list": None}


def _measured(subject: checks_lib.Subject) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray | None]]:
    """(what results.json keeps, the trained features of both splits) of a state; probes where its data allow them."""
    config, both = subject.config, subject.both
    how = features.evaluation_settings(config)
    encode = features.make_encode(config_lib.call(models.make_encoder, config, "encoder"), **how)
    test_set = None if both.is_same else both.test_set
    pair = [] if test_set is None else [both.train_set, test_set]
    images = [features.evaluation_images(split, **how, keep=probes.small_images) for split in pair]
    # Placed once, not with every batch, and as those of the untrained network, which shares the compiled program.
    variables = sharding.put_replicated(how["mesh"], features.encoder_variables(subject.params, subject.method_state))
    rows: list[dict[str, Any]] = []
    if splits.why_no_probe(both) is None:
        collected = collect_features(subject, variables, encode=encode, images=images)
        rows = probe_rows(collected, config_lib.call(probes.make_settings, config, "probe"), both=both)
        h: tuple[np.ndarray, np.ndarray | None] = collected[config["method"]["name"]]
    else:
        train_h = encode(variables, both.train_set)
        same = train_h if both.is_same else None
        h = train_h, same if test_set is None else encode(variables, test_set)
    checks = checks_lib.check(subject, h[0], rows, encode=encode, images=images)
    if subject.best_on_test:
        rows = [{**row, "protocol": probes.best_on_test(row["protocol"])} for row in rows]
    results = {
        "probes": rows,
        "label_free": checks.label_free,
        "guards": checks.guards,
        "diagnosis": checks.diagnosis,
        "said": checks.sentences,
    }
    return results, h


def _store(subject: checks_lib.Subject, results: dict[str, Any], h: _Both | None) -> None:
    """Writes the results, those of another data set beside the run's own, and keeps the run's own features."""
    both, test_set = subject.both, subject.both.test_set
    measured_on = {
        "name": subject.config["data"]["name"],
        "train": both.train_set.fingerprint,
        "test": None if test_set is None else test_set.fingerprint,
        "num_train": len(both.train_set.images),
        "num_test": 0 if test_set is None else len(test_set.images),
    }
    kept = {key: value for key, value in results.items() if key != "said"}
    if subject.transfer:
        before = workdir_lib.read_results(subject.folder).get("transfer", {})
        one = {**kept, "evaluated_step": subject.step, "evaluated_data": measured_on}
        workdir_lib.update_results(subject.folder, transfer={**before, measured_on["name"]: one})
        return
    workdir_lib.update_results(
        subject.folder,
        **{"classifier": None, "retrieval": {}, "zero_shot": {}, **kept},
        evaluated_step=subject.step,
        evaluated_data=measured_on,
        environment=workdir_lib.environment(),
    )
    if h is not None and test_set is not None:
        train, test = (h[0], both.train_set), (h[1], test_set)
        if not feature_store.save(subject.folder, step=subject.step, train=train, test=test):
            progress.say("The features are not kept: they take more than 8 GB. A report computes them again.")


def _show(subject: checks_lib.Subject, results: Mapping[str, Any], reason: str | None) -> None:
    """Shown before anything is stored: a full disk loses nothing."""
    rows, scores = results["probes"], results.get("classifier")
    why = f"No probes: {reason}{'' if (reason or '').endswith('?') else '.'}"
    print("\n".join([table(rows) if rows else why, *evaluate_text.lines(results)]))
    if results.get("label_free"):
        written = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in results["label_free"].items()]
        print(f"without labels  {', '.join(written)}")
    if scores is not None:
        shown = [f"{name} {100 * scores[name]:.1f}" for name in ("top_1", "top_5") if name in scores]
        print(f"its classifier  {'  '.join(shown)}  on {scores['num_images']} test images, {scores['protocol']}")
    cautions = splits.cautions if rows else splits.shared_images
    for sentence in [*cautions(subject.both), *results.get("said", [])]:
        print(sentence)
    sys.stdout.flush()


def probe_rows(
    collected: Mapping[str, tuple[np.ndarray, np.ndarray]], probe: probes.ProbeSettings, *, both: splits.Splits
) -> list[dict[str, Any]]:
    """The rows of the table for features of both splits; see `probes.probe_rows`."""
    assert both.test_set is not None
    return probes.probe_rows(
        collected,
        both.train_set.labels,
        both.test_set.labels,
        num_classes=len(both.train_set.class_names),
        fractions=probe.label_fractions,
        k=probe.knn_k,
        more_k=probe.more_knn_k,
        temperature=probe.knn_temperature,
        weights=probe.knn_weights,
    )


def has_classifier(params: base.PyTree, test_set: data.ImageSet | None) -> bool:
    """Whether the run has a classifier of as many classes as the data have, and labelled test images to score it on."""
    if test_set is None or not len(probes.labelled_rows(test_set.labels)):
        return False
    classifier = params.get("supervised_head")
    return classifier is not None and classifier["dense"]["bias"].shape == (len(test_set.class_names),)


def score_classifier(
    config: Mapping[str, Any], params: base.PyTree, method_state: base.PyTree, *, test_set: data.ImageSet
) -> dict[str, Any]:
    """What the run's own classifier scores on centre crops: "top_1", "top_5", "num_images", "protocol" and "labels".

    Images without a label do not count. With five classes or fewer there is no "top_5", which could not fail. The run
    must have a classifier, see `has_classifier`.
    """
    section = config["method"]
    arguments = {
        key: section[key]
        for key in ("num_proj_layers", "proj_out_dim", "proj_hidden_dim", "ft_proj_selector")
        if key in section
    }
    classify = methods.make_classify(config_lib.call(models.make_encoder, config, "encoder"), **arguments)
    predict = features.make_predict(
        lambda variables, images: classify(variables["params"], variables["batch_stats"], images),
        **features.evaluation_settings(config),
    )
    logits = predict({"params": params, "batch_stats": method_state["batch_stats"]}, test_set)
    ranks = {name: k for name, k in {"top_1": 1, "top_5": 5}.items() if k < len(test_set.class_names)}
    scores = {name: probes.top_k_accuracy(logits, test_set.labels, k=k) for name, k in ranks.items()}
    num_images = len(probes.labelled_rows(test_set.labels))
    return {**scores, "num_images": num_images, **_how_trained(config)}


def _how_trained(config: Mapping[str, Any]) -> dict[str, str]:
    """The protocol of a classifier, and the labels that it saw."""
    split = config["split"]
    share = f"{100 * split['label_fraction']:g}%" if split["label_fraction"] is not None else "100%"
    labels = pathlib.Path(split["label_list"]).name if split["label_list"] is not None else share
    return {"protocol": guards.protocol_of_classifier(config), "labels": labels}


def collect_features(
    subject: checks_lib.Subject,
    variables: base.PyTree,
    *,
    encode: features.EncodeFn,
    images: Sequence[np.ndarray],
) -> dict[str, _Both]:
    """Name -> (train, test) features: the trained encoder, the same one untrained, pixels, and grey histograms.

    The histogram is there for `photo-patches` only, where grey values alone tell much of which picture it is.
    """
    config, both = subject.config, subject.both
    assert both.test_set is not None
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    how = features.evaluation_settings(config)
    size, mesh = how["size"], how["mesh"]
    init = sharding.jit_once(
        lambda key: encoder.init(key, jnp.zeros((2, size, size, 3), jnp.float32), train=False), mesh
    )
    untrained = init(jax.random.key(config["seed"]))
    collected = {
        config["method"]["name"]: (encode(variables, both.train_set), encode(variables, both.test_set)),
        "untrained": (encode(untrained, both.train_set), encode(untrained, both.test_set)),
        "pixels": (probes.pixel_features(images[0]), probes.pixel_features(images[1])),
    }
    if config["data"]["name"] == "photo-patches":
        train, test = (
            features.evaluation_images(split, **how, keep=probes.histogram_features)
            for split in (both.train_set, both.test_set)
        )
        collected["histogram"] = (train, test)
    return collected


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The probe rows (at least one) as text: a line for each probe and share of the labels, a column for each features.

    The protocol, under which results.json keeps a line's scores, ends the line. Below: what guessing scores, and the
    number of test images.
    """
    lines = list(dict.fromkeys((row["probe"], row["labels"]) for row in rows))
    names = list(dict.fromkeys(row["features"] for row in rows))
    cells = {(row["features"], row["probe"], row["labels"]): row["accuracy"] for row in rows}
    first = {(row["probe"], row["labels"]): row for row in rows[::-1]}
    labels = {line: probes.protocol_label(row["protocol"]) for line, row in first.items()}
    width = max(len(label) for label in labels.values())
    text = [f"{'accuracy, %':<{width}}  {'labels':>14}" + "".join(f"{name:>12}" for name in names) + "  protocol"]
    for line in lines:
        share = f"{first[line]['num_labels']} ({line[1]})"
        scores = "".join(f"{100 * cells[name, *line]:12.1f}" for name in names)
        text.append(f"{labels[line]:<{width}}  {share:>14}{scores}  {first[line]['protocol']}")
    chance, num_test = rows[0]["chance"], rows[0]["num_test"]
    text.append(f"{'guessing':<{width}}  {'':>14}" + f"{100 * chance:12.1f}" * len(names))
    error = probes.largest_error(num_test)
    text.append(f"on {num_test} labelled test images: a standard error of at most {error:.1f} points")
    others = [row["protocol"] for row in rows if row["protocol"] not in {row["protocol"] for row in first.values()}]
    return "\n".join([*text, *(["other protocols: " + ", ".join(dict.fromkeys(others))] if others else [])])
