"""The work of `simclr-jax probe`: labels and splits, three probes at several shares of the labels, a page."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, html_report, probes, units
from simclr_jax.data import imageset
from simclr_jax.run import classifier_file, compilation_cache, feature_file, progress, tables

_FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
_TEST_SHARE = 0.2
_MISTAKES = 15


class _Split(NamedTuple):
    """Labelled features of training and test pictures, their class names, and where the test pictures come from."""

    train_h: np.ndarray
    train_labels: np.ndarray
    test_h: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    test_from: str


def probe(
    *,
    features: str,
    labels: str | None = None,
    test: str | None = None,
    output: str = "probe.html",
    classifier: str = "classifier.npz",
) -> int:
    """Prints a table of accuracies, writes the page `output` and the file `classifier`; returns the exit status.

    Args:
        features: a file that `embed` wrote.
        labels: a CSV with a head: path or id, and label; None for the class folders that `embed` found.
        test: features of test pictures; None to hold out a fifth, class by class.
        output: the page. classifier: the linear classifier, fitted on all training pictures, for `predict`.

    Raises:
        base.InputError: no such file, or labels that no probe can be made of.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    for target, flag in ((output, "--output"), (classifier, "--classifier")):
        atomic_files.check_target(target, flag=flag)
    embedding = feature_file.load(features)
    others = None if test is None else feature_file.load(test, flag="--test")
    if labels is not None:
        embedding, others = _labelled(embedding, others, labels)
    split = _split(embedding, others)
    rows = _rows(split)
    _print(rows, split)
    fitted = probes.fit_linear(split.train_h, split.train_labels, num_classes=len(split.class_names))
    counts = probes.confusion(
        fitted.logits(split.test_h).argmax(axis=1), split.test_labels, num_classes=len(split.class_names)
    )
    html_report.write_gallery(_page(rows, counts, split, title=f"Probe: {features}"), output)
    classifier_file.save(classifier, fitted, class_names=split.class_names, meta=embedding.meta)
    progress.say(f"Wrote {output} and {classifier}. Next: simclr-jax predict --classifier={classifier} --images=FOLDER")
    return 0


def _labelled(
    embedding: feature_file.Embedding, others: feature_file.Embedding | None, labels: str
) -> tuple[feature_file.Embedding, feature_file.Embedding | None]:
    """Features, and those of test pictures, with the labels of a CSV in place of those of class folders."""
    by_name = _read_labels(labels)
    class_names = tuple(sorted(set(by_name.values())))
    numbers = {name: number for number, name in enumerate(class_names)}
    used, made = set[str](), list[feature_file.Embedding | None]()
    for part in (embedding, others):
        if part is None:
            made.append(None)
            continue
        keys = [_key(names, by_name, labels) for names in zip(part.names, part.paths, strict=True)]
        used.update(filter(None, keys))
        found = np.asarray([-1 if key is None else numbers[by_name[key]] for key in keys], np.int32)
        made.append(part._replace(labels=found, class_names=class_names))
    first, second = made
    assert first is not None
    if not (first.labels >= 0).any():
        raise base.InputError(
            f"--labels must name pictures as the features do, such as {embedding.names[0]}; none of the "
            f"{len(by_name)} in {labels} is one. Use ids, absolute paths, or names of files."
        )
    if len(class_names) < 2:
        raise base.InputError(
            f"--labels must name at least two classes; {labels} has one, {base.one_line(class_names[0], 60)}. Label "
            "pictures of another one too."
        )
    matched, unused = int((first.labels >= 0).sum()), len(by_name) - len(used)
    classes = units.counted(len(class_names), "class", "classes")
    rest = f"; {units.counted(unused, 'row')} of {labels} without a picture" if unused else ""
    progress.say(f"Labels: {matched} of {units.counted(len(embedding.names), 'picture')}, {classes}{rest}")
    return first, second


def _key(names: tuple[str, str], by_name: Mapping[str, str], labels: str) -> str | None:
    """What the table calls the picture of this id and path: one of these, or the name of its file; None for nothing."""
    whole = [key for key in names if by_name.get(key)]
    if len({by_name[key] for key in whole}) > 1:
        raise _contradiction(whole[0], *(by_name[key] for key in whole[:2]), labels=labels)
    name = pathlib.PurePath(names[0]).name
    return whole[0] if whole else name if name in by_name else None


def _read_labels(path: str) -> dict[str, str]:
    """Picture, as the table has it -> label."""
    heads, rows = tables.read_table(path, flag="--labels")
    key = next((name for name in tables.KEYS if name in heads), None)
    if key is None or "label" not in heads:
        got = base.one_line(", ".join(heads), 120) or "nothing"
        raise base.InputError(f"--labels must be a CSV with the columns path (or id) and label; {path} has {got}.")
    found: dict[str, str] = {}
    for row in rows:
        name, label = row[key], row["label"]
        if name and label and found.setdefault(name, label) != label:
            raise _contradiction(name, found[name], label, labels=path)
    return found


def _contradiction(name: str, first: str, second: str, *, labels: str) -> base.InputError:
    name, first, second = (base.one_line(text, 80) for text in (name, first, second))
    return base.InputError(
        f"--labels must give every picture one label; {labels} has {first} and {second} for {name}. Remove one of them."
    )


def _split(train: feature_file.Embedding, test: feature_file.Embedding | None) -> _Split:
    known = probes.labelled_rows(train.labels)
    if test is None:
        kept, held = probes.stratified_split(train.labels, _TEST_SHARE)
        test_rows, test, test_labels = held, train, train.labels
        train_rows, test_from = kept, f"a fifth held out, class by class ({len(held)} pictures)"
    else:
        test_labels = feature_file.relabelled(test, train.class_names)
        test_rows, train_rows = probes.labelled_rows(test_labels), known
        test_from = f"{len(test_rows)} labelled pictures of their own file"
        rule, remedy = "--features and --test must be of the same encoder", "Embed both alike."
        feature_file.check_alike(train.meta, test.meta, rule=rule, remedy=remedy)
    reason = probes.why_no_probe(train.labels[train_rows], test_labels[test_rows], class_names=train.class_names)
    if reason is not None:
        raise base.InputError(
            f"A probe needs labelled pictures of several classes in both parts; here {reason.removesuffix('?')}"
            f"{'?' if reason.endswith('?') else '.'}"
        )
    train_h, test_h = (
        np.asarray(part.features[rows], np.float32) for part, rows in ((train, train_rows), (test, test_rows))
    )
    return _Split(train_h, train.labels[train_rows], test_h, test_labels[test_rows], train.class_names, test_from)


def _rows(split: _Split) -> list[dict[str, Any]]:
    """The rows of `probes.probe_rows` at shares that differ."""
    num_classes = len(split.class_names)
    present = len(np.unique(split.train_labels))
    # A share that takes one picture of every class whatever it is, is the same as the next larger one.
    sizes = {len(probes.label_subset(split.train_labels, fraction)): fraction for fraction in _FRACTIONS}
    fractions = sorted(fraction for size, fraction in sizes.items() if size > present or fraction == 1)
    return probes.probe_rows(
        {"features": (split.train_h, split.test_h)},
        split.train_labels,
        split.test_labels,
        num_classes=num_classes,
        fractions=fractions,
        k=20,
    )


def _print(rows: list[dict[str, Any]], split: _Split) -> None:
    shares = list(dict.fromkeys(row["labels"] for row in rows))
    counts = {row["labels"]: row["num_labels"] for row in rows}
    print(f"{'accuracy, %':<12}" + "".join(f"{share:>16}" for share in shares))
    for kind in ("knn", "linear", "ridge"):
        cells = [next(row for row in rows if (row["probe"], row["labels"]) == (kind, share)) for share in shares]
        texts = [f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f}" for row in cells]
        print(f"{kind:<12}" + "".join(f"{text:>16}" for text in texts))
    print(f"{'chance':<12}" + f"{100 * rows[0]['chance']:16.1f}" * len(shares))
    print(f"{'labels':<12}" + "".join(f"{counts[share]:16d}" for share in shares))
    print(f"test: {split.test_from}")
    for sentence in probes.cautions(split.train_labels, split.test_labels, class_names=split.class_names):
        print(imageset.printable(sentence, None))


def _page(rows: list[dict[str, Any]], counts: np.ndarray, split: _Split, *, title: str) -> html_report.Gallery:
    series = {
        kind: [(row["num_labels"], row["accuracy"], row["standard_error"]) for row in rows if row["probe"] == kind]
        for kind in ("knn", "linear", "ridge")
    }
    scores = probes.class_scores(counts)
    columns = [[f"{100 * value:.1f}" for value in column] for column in (scores.precision, scores.recall, scores.f1)]
    table = [("class", "precision, %", "recall, %", "F1, %", "test pictures")]
    table += [
        (name, *cells) for name, *cells in zip(split.class_names, *columns, map(str, scores.support), strict=True)
    ]
    off = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    worst = [(int(i), int(j)) for i, j in zip(*np.unravel_index(np.argsort(-off, axis=None), off.shape), strict=True)]
    mistakes = [("true class", "called", "test pictures")]
    mistakes += [
        (split.class_names[i], split.class_names[j], str(off[i, j])) for i, j in worst[:_MISTAKES] if off[i, j]
    ]
    linear = max((row for row in rows if row["probe"] == "linear"), key=lambda row: row["num_labels"])
    lead = (
        f"With all {len(split.train_labels):,} labels a linear classifier names the right class of "
        f"{100 * linear['accuracy']:.1f} % of {len(split.test_labels):,} test pictures; guessing, of "
        f"{100 * linear['chance']:.1f} %."
    )
    note = "Accuracy with its standard error. Protocols: " + ", ".join(dict.fromkeys(row["protocol"] for row in rows))
    picture = html_report.heatmap(counts, split.class_names, name="confusion")
    return html_report.Gallery(
        title,
        lead,
        [
            html_report.Section(
                "What more labels bring", note, html_report.efficiency(series, name="labels"), "Curves"
            ),
            html_report.Section("Classes", "By the linear classifier on all labels.", table=table),
            html_report.Section(
                "Which classes are mixed up", "Rows in per cent of the true class.", picture, "Confusion"
            ),
            html_report.Section("Commonest mistakes", table=mistakes),
        ],
    )
