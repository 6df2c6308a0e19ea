"""The work of `simclr-jax select`: a subset, the outliers, a table of both and a page."""

import csv
import io

import numpy as np

from simclr_jax import atomic_files, base, html_report, retrieval, units
from simclr_jax.data import imageset
from simclr_jax.run import compilation_cache, feature_file, progress, thumbnails

_SHOWN = 120


def select(
    *,
    features: str,
    size: int | None = None,
    method: str = "k_center",
    outliers: int = 20,
    output: str = "selected.csv",
    page: str = "selected.html",
) -> int:
    """Writes the chosen and the unusual pictures to `output` (CSV) and `page`; returns the exit status.

    Args:
        features: a file that `embed` wrote.
        size: how many are chosen, at most all; None for 100, or all of fewer.
        method: "k_center" (`retrieval.k_center`) or "typical" (`retrieval.typical_rows`).
        outliers: how many of the most unusual are named.
        output: the table: kind, place, id, path. page: the pictures.

    Raises:
        base.InputError: no such file, a number out of range, or a file that cannot be written.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    for target, flag in ((output, "--output"), (page, "--page")):
        atomic_files.check_target(target, flag=flag)
    embedding = feature_file.load(features)
    count = len(embedding.names)
    size = min(100, count) if size is None else size
    outliers = min(outliers, count)
    if size > count:
        raise base.InputError(f"--size must be at most the number of pictures, {count}; got {size}.")
    pictures = units.noun(count, "picture")
    said = f"{size} of {count:,} {pictures}, the middle of as many clusters."
    if method == "k_center":
        cover = retrieval.k_center(embedding.features, size)
        chosen = cover.rows
        radius = 1 - cover.radii[-1]
        said = f"{size} of {count:,} {pictures}: each picture has a similarity of {radius:.3f} or more to one of them."
    else:
        chosen = retrieval.typical_rows(embedding.features, size)
    odd = retrieval.outliers(embedding.features, outliers) if outliers and count > 1 else np.zeros(0, np.int64)
    atomic_files.write_text(output, _table(embedding, {"chosen": chosen, "unusual": odd}))
    print(said)
    for row in odd[:5].tolist():
        print(f"unusual: {imageset.printable(embedding.paths[row] or embedding.names[row], None)}")
    sections = [_section(embedding, chosen, title="Chosen, in this order")]
    sections += [_section(embedding, odd, title="The most unusual")] if len(odd) else []
    html_report.write_gallery(html_report.Gallery(f"Selected: {features}", said, sections), page)
    progress.say(f"Wrote {output} and {page}")
    return 0


def _table(embedding: feature_file.Embedding, rows: dict[str, np.ndarray]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "place", "id", "path"))
    for kind, of_kind in rows.items():
        for place, row in enumerate(of_kind.tolist(), start=1):
            writer.writerow((kind, place, embedding.names[row], embedding.paths[row]))
    return text.getvalue()


def _section(embedding: feature_file.Embedding, rows: np.ndarray, *, title: str) -> html_report.Section:
    shown = rows[:_SHOWN]
    shots = [
        html_report.Shot(picture, embedding.names[row])
        for picture, row in zip(thumbnails.make_thumbnails(embedding, shown), shown, strict=True)
    ]
    note = f"The first {len(shown)} of {len(rows)}." if len(shown) < len(rows) else ""
    return html_report.Section(title, note, rows=[html_report.Row("", shots)])
