"""The work of `simclr-jax duplicates`: pairs, groups, a table of them and a page."""

import csv
import io
from typing import NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, html_report, retrieval, units
from simclr_jax.run import compilation_cache, feature_file, progress, thumbnails

# Similarities in float32 tell no more: an encoder whose pictures are nearer than this hardly tells any apart.
_FINEST = 1 - 1e-6
_SHOWN_GROUPS, _SHOWN_MEMBERS, _SHOWN_PAIRS = 60, 8, 10


class _Found(NamedTuple):
    """All pictures (of both sets, one after the other), the pairs among them, and groups, exact ones first.

    parts: the one or two sets. nearest: similarity and row of the picture nearest to each of the first set, which has
    `num_first` pictures.
    exact: the rows of pictures of which another one has the same bytes.
    """

    all: feature_file.Embedding
    parts: tuple[feature_file.Embedding, ...]
    num_first: int
    pairs: retrieval.Pairs
    groups: list[list[int]]
    exact: set[int]
    nearest: tuple[np.ndarray, np.ndarray]
    threshold: float

    def label(self, row: int) -> str:
        """The class of a picture, "" for none."""
        label = int(self.all.labels[row])
        return self.all.class_names[label] if label >= 0 else ""

    def disagreeing(self) -> list[list[int]]:
        """Groups whose pictures have several labels."""
        return [group for group in self.groups if len({self.label(row) for row in group} - {""}) > 1]


def duplicates(
    *,
    features: str,
    others: str | None = None,
    threshold: float | None = None,
    output: str = "duplicates.csv",
    page: str = "duplicates.html",
) -> int:
    """Writes the groups of duplicates to `output` (CSV) and `page`, and prints what was found; returns the status.

    Args:
        features: a file that `embed` wrote.
        others: a second one, for duplicates between the two only.
        threshold: similarity of duplicates, up to 1; None for `retrieval.suggest_threshold`.
        output: the table: group, set, id, path, label, kind, similarity to the nearest of its group.
        page: the same with pictures.

    Raises:
        base.InputError: no such file, features of two encoders, or a file that cannot be written.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    for target, flag in ((output, "--output"), (page, "--page")):
        atomic_files.check_target(target, flag=flag)
    if threshold is not None and threshold > 1:
        raise base.InputError(f"--threshold must be at most 1, a picture's similarity to itself; got {threshold:g}.")
    first = feature_file.load(features)
    second = None if others is None else feature_file.load(others, flag="--others")
    found = _find(first, second, threshold)
    atomic_files.write_text(output, _table(found))
    html_report.write_gallery(_gallery(found, features, others), page)
    rows = {row for group in found.groups for row in group}
    between = "" if second is None else f", between the {len(first.names)} and the {len(second.names)}"
    groups = f"{units.counted(len(found.groups), 'group')} of {units.counted(len(rows), 'picture')}"
    print(f"{groups}{between}; threshold {found.threshold:.4f}")
    print(f"Pictures with the bytes of another one: {len(found.exact)}")
    for group in found.disagreeing()[:20]:
        print("different labels: " + " = ".join(found.all.names[row] for row in group[:4]))
    progress.say(f"Wrote {output} and {page}")
    return 0


def _find(first: feature_file.Embedding, second: feature_file.Embedding | None, threshold: float | None) -> _Found:
    if second is not None and second.meta["fingerprint"] != first.meta["fingerprint"]:
        raise base.InputError(
            "--features and --others must be of the same encoder; their weights differ. Embed both alike."
        )
    if second is None and len(first.names) < 2:
        raise base.InputError(f"duplicates need at least two pictures; got {len(first.names)}. Embed more.")
    bank = None if second is None else second.features
    nearest = retrieval.nearest_others(first.features, bank)
    asked = threshold is not None
    threshold = retrieval.suggest_threshold(nearest[0]) if threshold is None else threshold
    near = retrieval.equal_pairs(np.zeros(0, np.uint64))
    if asked or threshold < _FINEST:
        # Equal pictures may come out a rounding below 1.
        near = retrieval.near_pairs(first.features, bank, threshold=min(threshold, _FINEST))
    else:
        progress.say("Only exact duplicates: these features hardly differ, so that near ones cannot be told apart.")
    equal = retrieval.equal_pairs(first.digests, None if second is None else second.digests)
    everything, num_first = first, len(first.names)
    pairs = [near, equal]
    if second is not None:
        everything = feature_file.join(first, second)
        pairs = [part._replace(rows=part.rows + np.asarray([0, num_first])) for part in pairs]
    rows = np.concatenate([part.rows for part in pairs])
    exact = {int(row) for row in pairs[1].rows.ravel()}
    groups = retrieval.group_rows(rows, len(everything.names))
    # What is certain comes first.
    groups.sort(key=lambda group: (not exact.intersection(group), -len(group), group))
    joined = retrieval.Pairs(rows, np.concatenate([part.similarities for part in pairs]))
    parts = (first,) if second is None else (first, second)
    return _Found(everything, parts, num_first, joined, groups, exact, nearest, threshold)


def _best(found: _Found) -> dict[int, float]:
    """The similarity of every picture in a group to the nearest of it."""
    best: dict[int, float] = {}
    for pair, similarity in zip(found.pairs.rows.tolist(), found.pairs.similarities.tolist(), strict=True):
        for row in pair:
            best[row] = max(similarity, best.get(row, -1.0))
    return best


def _table(found: _Found) -> str:
    best, text = _best(found), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "set", "id", "path", "label", "kind", "similarity"))
    for number, group in enumerate(found.groups, start=1):
        for row in group:
            which = "features" if row < found.num_first else "others"
            kind = "exact" if row in found.exact else "near"
            place = (number, which, found.all.names[row], found.all.paths[row], found.label(row))
            writer.writerow((*place, kind, f"{best[row]:.6f}"))
    return text.getvalue()


def _gallery(found: _Found, features: str, others: str | None) -> html_report.Gallery:
    groups = _shown(found, found.groups[:_SHOWN_GROUPS])
    disagreeing = found.disagreeing()
    sections = [_scores(found)]
    if disagreeing:
        note = "The same picture under several labels: at least one is wrong, or the classes overlap."
        shown = _shown(found, disagreeing[:_SHOWN_GROUPS])
        sections.append(html_report.Section(f"Different labels: {len(disagreeing)} groups", note, rows=shown))
    note = f"The first {len(groups)} of {len(found.groups)}, those of equal bytes in front." if groups else "None."
    sections.append(html_report.Section("Groups", note, rows=groups))
    lead = (
        f"{len(found.groups)} groups among {len(found.all.names):,} pictures; {len(found.exact)} pictures have the "
        "bytes of another one."
    )
    return html_report.Gallery(f"Duplicates: {features}{f' and {others}' if others else ''}", lead, sections)


def _scores(found: _Found) -> html_report.Section:
    """How near the nearest other picture is, and pairs at several scores."""
    nearest, rows = found.nearest
    angles = np.arccos(np.clip(nearest, -1, 1))
    # Evenly spaced in angle, from the nearest pair to the middle one.
    wanted = np.linspace(angles.min(), np.median(angles), _SHOWN_PAIRS)
    chosen = dict.fromkeys(int(np.argmin(np.abs(angles - angle))) for angle in wanted)
    others = found.num_first if len(found.all.names) > found.num_first else 0
    pairs = []
    for row in chosen:
        pair = [row, int(rows[row]) + others]
        side = "above" if nearest[row] >= found.threshold else "below"
        pairs.append(html_report.Row(f"{nearest[row]:.4f}, {side} the threshold", _shots(found, pair)))
    svg = html_report.histogram(
        nearest, name="scores", threshold=found.threshold, x_label="similarity to the nearest other picture"
    )
    note = (
        f"For every picture, its similarity to the nearest other one. The dashed line is the threshold, "
        f"{found.threshold:.4f}. Below are pairs at several scores: where they begin to be different pictures, a "
        "threshold belongs (--threshold)."
    )
    return html_report.Section("Scores", note, svg, "Histogram of similarities", rows=pairs)


def _shown(found: _Found, groups: list[list[int]]) -> list[html_report.Row]:
    best = _best(found)
    shown = []
    for group in groups:
        kind = "equal bytes" if found.exact.intersection(group) else f"similarity {max(best[row] for row in group):.4f}"
        more = f", {len(group)} pictures" if len(group) > _SHOWN_MEMBERS else ""
        shown.append(html_report.Row(f"{kind}{more}", _shots(found, group[:_SHOWN_MEMBERS])))
    return shown


def _shots(found: _Found, rows: list[int]) -> list[html_report.Shot]:
    shots = []
    for row in rows:
        at = row - found.num_first if row >= found.num_first else row
        part = found.parts[row >= found.num_first]
        shots.append(html_report.Shot(thumbnails.make_thumbnails(part, [at])[0], found.all.names[row]))
    return shots
