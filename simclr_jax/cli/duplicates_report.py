"""The work of `simclr-jax duplicates`: pairs, groups, a table of them and a page."""

import concurrent.futures
import csv
import io
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, html_report, retrieval, units
from simclr_jax.data import imageset
from simclr_jax.run import compilation_cache, feature_file, progress, thumbnails

# Similarities in float32 tell no more: an encoder whose pictures are nearer than this hardly tells any apart.
_FINEST = 1 - 1e-6
_SHOWN_GROUPS, _SHOWN_MEMBERS, _SHOWN_PAIRS = 60, 8, 10
# Pictures are compared by their pixels at this side, up to so many; at this correlation they agree.
# Below this contrast (standard deviation of values in [0, 1]) nothing correlates.
_SIDE, _MOST_COMPARED, _AGREE, _LEAST_CONTRAST = 16, 20_000, 0.9, 0.01


class _Found(NamedTuple):
    """All pictures (of both sets, one after the other), the pairs among them, and groups, the surest first.

    parts: the one or two sets. nearest: similarity and row of the picture nearest to each of the first set, which has
    `num_first` pictures. exact: the rows of pictures of which another one has the same bytes. best: of every picture in
    a group, the similarity to the nearest in it. pixels: the correlation of the pixels of these two; none for a picture
    of one colour, or that cannot be read now.
    """

    all: feature_file.Embedding
    parts: tuple[feature_file.Embedding, ...]
    num_first: int
    groups: list[list[int]]
    exact: set[int]
    nearest: tuple[np.ndarray, np.ndarray]
    threshold: float
    best: dict[int, float]
    pixels: dict[int, float]

    def label(self, row: int) -> str:
        """The class of a picture, "" for none."""
        label = int(self.all.labels[row])
        return self.all.class_names[label] if label >= 0 else ""

    def agreeing(self) -> list[list[int]]:
        """Groups with two pictures whose pixels agree."""
        return [group for group in self.groups if max(self.pixels.get(row, 0.0) for row in group) >= _AGREE]

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
        output: the table: group, set, id, path, label, kind, similarity to the nearest of its group, and the
            correlation of their pixels.
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
    for line in _shares(found):
        print(line)
    print(f"Pictures with the bytes of another one: {len(found.exact)}")
    if found.pixels:
        print(f"Groups with pictures whose pixels agree, too (correlation {_AGREE} or more): {len(found.agreeing())}")
    for group in found.disagreeing()[:20]:
        print("different labels: " + " = ".join(imageset.printable(found.all.names[row], None) for row in group[:4]))
    progress.say(f"Wrote {output} and {page}")
    return 0


def _shares(found: _Found) -> list[str]:
    """Of two sets, how many pictures of each have one in the other; nothing of one set."""
    if len(found.parts) == 1:
        return []
    lines = []
    for flag, other, first, count in (
        ("--features", "--others", 0, found.num_first),
        ("--others", "--features", found.num_first, len(found.all.names) - found.num_first),
    ):
        rows = [row for row in found.best if first <= row < first + count]
        agree = sum(found.pixels.get(row, 0.0) >= _AGREE for row in rows)
        shares = (f"{number} of {count} ({100 * number / count:.2f} %)" for number in (len(rows), agree))
        lines.append(f"Pictures of {flag} with one in {other}: {', with pixels that agree '.join(shares)}")
    return lines


def _find(first: feature_file.Embedding, second: feature_file.Embedding | None, threshold: float | None) -> _Found:
    if second is not None:
        rule = "--others must be made as --features, by the same weights, layer and preparation"
        feature_file.check_alike(first.meta, second.meta, rule=rule, remedy="Embed both alike.")
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
    parts = (first,) if second is None else (first, second)
    best, partner = _best(rows, np.concatenate([part.similarities for part in pairs]))
    pixels = _compare_pixels(parts, partner)
    # What is certain comes first.
    groups.sort(
        key=lambda group: (
            not exact.intersection(group),
            -max(pixels.get(row, 0.0) for row in group),
            -len(group),
            group,
        )
    )
    return _Found(everything, parts, num_first, groups, exact, nearest, threshold, best, pixels)


def _best(rows: np.ndarray, similarities: np.ndarray) -> tuple[dict[int, float], dict[int, int]]:
    """Of every picture in a pair, its highest similarity, and the picture that it has this with."""
    best, partner = dict[int, float](), dict[int, int]()
    for pair, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
        for row, other in (pair, pair[::-1]):
            if similarity > best.get(row, -2.0):
                best[row], partner[row] = similarity, other
    return best, partner


def _compare_pixels(parts: tuple[feature_file.Embedding, ...], partner: Mapping[int, int]) -> dict[int, float]:
    """The correlation of the pixels of every picture with those of its partner; {} for too many pictures."""
    if len(partner) > _MOST_COMPARED:
        progress.say(f"{len(partner):,} pictures are too many to compare their pixels; raise --threshold.")
        return {}
    draw = _open(parts)

    def centre(row: int) -> np.ndarray | None:
        picture = draw(row)
        pixels = np.zeros(1) if picture is None else thumbnails.squeeze(picture, side=_SIDE).astype(np.float64)
        pixels -= pixels.mean()
        return pixels / np.linalg.norm(pixels) if pixels.std() > _LEAST_CONTRAST else None

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known = {
            row: pixels for row, pixels in zip(partner, pool.map(centre, partner), strict=True) if pixels is not None
        }
    pairs = ((row, other) for row, other in partner.items() if row in known and other in known)
    return {row: float(known[row] @ known[other]) for row, other in pairs}


def _open(parts: tuple[feature_file.Embedding, ...]) -> Callable[[int], np.ndarray | None]:
    """row -> its picture, of the sets one after the other; None if it cannot be read now."""
    draws = [thumbnails.open_thumbnails(part) for part in parts]
    num_first = len(parts[0].names)
    return lambda row: draws[0](row) if row < num_first else draws[1](row - num_first)


def _table(found: _Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "set", "id", "path", "label", "kind", "similarity", "pixels"))
    for number, group in enumerate(found.groups, start=1):
        for row in group:
            which = "features" if row < found.num_first else "others"
            kind = "exact" if row in found.exact else "near"
            place = (number, which, found.all.names[row], found.all.paths[row], found.label(row))
            pixels = f"{found.pixels[row]:.4f}" if row in found.pixels else ""
            writer.writerow((*place, kind, f"{found.best[row]:.6f}", pixels))
    return text.getvalue()


def _gallery(found: _Found, features: str, others: str | None) -> html_report.Gallery:
    draw, disagreeing = _open(found.parts), found.disagreeing()
    groups, sections = _shown(found, found.groups[:_SHOWN_GROUPS], draw), [_scores(found, draw)]
    if disagreeing:
        note = "The same picture under several labels: at least one is wrong, or the classes overlap."
        shown, count = _shown(found, disagreeing[:_SHOWN_GROUPS], draw), units.counted(len(disagreeing), "group")
        sections.append(html_report.Section(f"Different labels: {count}", note, rows=shown))
    order = (
        "those of equal bytes in front, then by how well their pixels correlate. Where pixels do not agree, pictures "
    )
    order += "may be cut-outs of one, or only look alike to this encoder."
    note = f"The first {len(groups)} of {len(found.groups)}, {order}" if groups else "None."
    sections.append(html_report.Section("Groups", note, rows=groups))
    lead = (
        f"{units.counted(len(found.groups), 'group')} among {len(found.all.names):,} pictures, {len(found.agreeing())} "
        f"with pixels that agree; {units.counted(len(found.exact), 'picture')} with the bytes of another one."
    )
    return html_report.Gallery(f"Duplicates: {features}{f' and {others}' if others else ''}", lead, sections)


def _scores(found: _Found, draw: Callable[[int], np.ndarray | None]) -> html_report.Section:
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
        pairs.append(html_report.Row(f"{nearest[row]:.4f}, {side} the threshold", _shots(found, pair, draw)))
    svg = html_report.histogram(
        nearest, name="scores", threshold=found.threshold, x_label="similarity to the nearest other picture"
    )
    note = (
        f"For every picture, its similarity to the nearest other one. The dashed line is the threshold, "
        f"{found.threshold:.4f}. Below are pairs at several scores: where they begin to be different pictures, a "
        "threshold belongs (--threshold)."
    )
    return html_report.Section("Scores", note, svg, "Histogram of similarities", rows=pairs)


def _shown(found: _Found, groups: list[list[int]], draw: Callable[[int], np.ndarray | None]) -> list[html_report.Row]:
    shown = []
    for group in groups:
        near = f"similarity {max(found.best[row] for row in group):.4f}"
        agree = [found.pixels[row] for row in group if row in found.pixels]
        kind = "equal bytes" if found.exact.intersection(group) else near
        kind += f", pixels {max(agree):.2f}" if agree else ""
        more = f", {len(group)} pictures" if len(group) > _SHOWN_MEMBERS else ""
        shown.append(html_report.Row(f"{kind}{more}", _shots(found, group[:_SHOWN_MEMBERS], draw)))
    return shown


def _shots(found: _Found, rows: list[int], draw: Callable[[int], np.ndarray | None]) -> list[html_report.Shot]:
    pictures = [draw(row) for row in rows]
    shown = [thumbnails.gone(thumbnails.SIDE) if picture is None else picture for picture in pictures]
    return [html_report.Shot(picture, found.all.names[row]) for picture, row in zip(shown, rows, strict=True)]
