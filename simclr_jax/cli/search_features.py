"""The work of `simclr-jax search`: queries from pictures or ids, exact or approximate search, lines and a page."""

import pathlib
import time

import numpy as np

from simclr_jax import atomic_files, base, html_report, retrieval, units
from simclr_jax.data import imageset
from simclr_jax.run import (
    compilation_cache,
    feature_file,
    image_text,
    loading,
    paths,
    progress,
    search_index,
    thumbnails,
)

_MANY = 1_000_000
_SHOWN = 50  # queries on the page


def search(
    *,
    features: str,
    query: str | None = None,
    text: str | None = None,
    k: int = 10,
    output: str = "search.html",
    index: str = "auto",
) -> int:
    """Prints query, place, similarity and path of the k pictures most like every query; returns the exit status.

    Args:
        features: a file that `embed` wrote.
        query: an id in it, a picture or a folder of pictures, which pass through the encoder of the features.
        text: in its place: words, which pass through the text tower of the run of the features.
        k: how many; the query itself, where it is one of the pictures, does not count.
        output: the page.
        index: "exact", "approximate", or "auto" for the latter above a million pictures.

    Raises:
        base.InputError: no such file or query, not one of query and text, the encoder of the features is not there any
            more, or words for features that are no projections of a run with texts.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    atomic_files.check_target(output)
    bank = feature_file.load(features)
    if query is not None and not query.strip():
        raise base.InputError("--query must be a picture, a folder of pictures, or an id; got nothing. Give one.")
    if (query is None) == (text is None):
        raise base.InputError(f"Give one of --query and --text; got {'neither' if query is None else 'both'}.")
    asked, own = _queries(bank, query) if query is not None else (_words(bank, text or ""), set())
    wanted = min(k + len(own), len(bank.names))
    found = _find(bank, np.asarray(asked.features, np.float32), pathlib.Path(features), k=wanted, index=index)
    sections = []
    for number, (similarities, rows) in enumerate(zip(*found, strict=True)):
        kept = [(float(s), int(row)) for s, row in zip(similarities, rows, strict=True) if row not in own][:k]
        for place, (similarity, row) in enumerate(kept, start=1):
            names = (asked.names[number], bank.paths[row] or bank.names[row])
            asked_name, path = (imageset.printable(name, None) for name in names)
            print(f"{asked_name}\t{place}\t{similarity:.4f}\t{path}")
        if number < _SHOWN:
            sections.append(_section(bank, kept, asked=asked, number=number))
    lead = f"The {units.counted(k, 'picture')} most like each, of {len(bank.names):,}, by the cosine of their features."
    html_report.write_gallery(html_report.Gallery(f"Search: {query or text}", lead, sections), output)
    progress.say(f"Wrote {output}")
    return 0


def _queries(bank: feature_file.Embedding, query: str) -> tuple[feature_file.Embedding, set[int]]:
    """What is asked for, and the row of the bank that it is itself, if it is one."""
    if query in bank.names:
        row = bank.names.index(query)
        return feature_file.take(bank, [row]), {row}
    if not pathlib.Path(query).exists():
        raise base.InputError(
            f"--query must be a picture, a folder of pictures, or one of the ids in the file, such as {bank.names[0]}; "
            f"got {base.one_line(query, 200)}. Check the path."
        )
    paths.typed(query, flag="--query")
    return loading.embed_alike(bank.meta, query), set()


def _words(bank: feature_file.Embedding, text: str) -> feature_file.Embedding:
    """The projection of words, in the place of a picture's."""
    z = image_text.embed_words(bank.meta, [text])
    return feature_file.take(bank, [0])._replace(
        features=z, names=(text,), paths=("",), meta={**bank.meta, "text": text}
    )


def _find(
    bank: feature_file.Embedding, queries: np.ndarray, path: pathlib.Path, *, k: int, index: str
) -> tuple[np.ndarray, np.ndarray]:
    start = time.perf_counter()
    if index == "exact" or (index == "auto" and len(bank.names) <= _MANY):
        found = retrieval.search(bank.features, queries, k=k)
        how = "exact"
    else:
        graph = search_index.open_index(bank, path)
        recall = retrieval.measure_recall(graph, bank.features, k=min(10, len(bank.names)))
        start = time.perf_counter()
        found = graph.search(queries, k=k)
        how = f"approximate, recall at 10 measured on 100 pictures: {100 * recall:.1f} %"
    seconds = time.perf_counter() - start
    of = f"{len(bank.names):,} {units.noun(len(bank.names), 'picture')}"
    progress.say(f"Searched {of} for {len(queries)} in {units.duration(seconds)} ({how})")
    return found


def _section(
    bank: feature_file.Embedding, kept: list[tuple[float, int]], *, asked: feature_file.Embedding, number: int
) -> html_report.Section:
    pictures = thumbnails.make_thumbnails(bank, [row for _, row in kept])
    own = [] if "text" in asked.meta else thumbnails.make_thumbnails(asked, [number])
    itself = [html_report.Shot(picture, asked.names[number]) for picture in own]
    shots = [
        html_report.Shot(picture, f"{similarity:.3f} {bank.names[row]}")
        for picture, (similarity, row) in zip(pictures, kept, strict=True)
    ]
    return html_report.Section(asked.names[number], rows=[html_report.Row("", itself), html_report.Row("", shots)])
