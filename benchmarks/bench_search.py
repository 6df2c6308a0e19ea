"""Search among many rows of features, exact and approximate, beside faiss; see `PROGRAM.words`."""

import functools
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness

FOLDER = "SIMCLR_BENCH_ROWS"
K, QUERIES, CHUNK = 10, 64, 4096
LATENT = 32  # numbers that the rows are made of
# The neighbours of a graph's node, and rows looked at while building and while searching: usearch's defaults.
GRAPH = {"connectivity": 16, "building": 128, "searching": 64}


class Case(NamedTuple):
    """rows [num, width] float16 on the disk, searched for QUERIES others."""

    num: int
    width: int
    is_exact: bool


CASES = {
    "exact, 1,000,000 x 2048": Case(1_000_000, 2048, True),
    "approximate, 100,000 x 2048": Case(100_000, 2048, False),
}
MORE = {"approximate, 1,000,000 x 2048": Case(1_000_000, 2048, False)}
SMALLEST = {"exact, 20,000 x 64": Case(20_000, 64, True), "approximate, 20,000 x 64": Case(20_000, 64, False)}


def draw_rows(case: Case, *, first: int, num: int) -> np.ndarray:
    """float32 [num, width], rows `first` and on of a set that is not there: rectified mixtures of a few numbers."""
    mix = np.random.default_rng(0).normal(size=(LATENT, case.width)).astype(np.float32)
    latent = np.random.default_rng([1, first]).normal(size=(num, LATENT)).astype(np.float32)
    return np.maximum(latent @ mix, 0)


def queries_of(case: Case) -> np.ndarray:
    """float32 [QUERIES, width], rows that are not in the set."""
    return draw_rows(case, first=2**40, num=QUERIES)


@functools.cache
def open_rows(case: Case) -> np.ndarray:
    """The set as a memory map, written chunk by chunk where it is not there yet."""
    path = pathlib.Path(os.environ[FOLDER]) / f"{case.num}x{case.width}.npy"
    if not path.exists():
        rows = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.float16, (case.num, case.width))
        for start in range(0, case.num, CHUNK):
            num = min(CHUNK, case.num - start)
            rows[start : start + num] = draw_rows(case, first=start, num=num)
        rows.flush()
        path.with_suffix(".part").rename(path)
    return np.load(path, mmap_mode="r")


def exact_rows(case: Case) -> list[list[int]]:
    """The K nearest rows of every query by NumPy, in float32."""
    queries, rows = _unit(queries_of(case)), open_rows(case)
    best, found = np.full((QUERIES, 0), 0, np.float32), np.zeros((QUERIES, 0), np.int64)
    for start in range(0, case.num, CHUNK):
        scores = queries @ _unit(np.asarray(rows[start : start + CHUNK], np.float32)).T
        best = np.concatenate([best, scores], axis=1)
        found = np.concatenate(
            [found, np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)], axis=1
        )
        order = np.argsort(-best, axis=1, kind="stable")[:, :K]
        best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    return found.tolist()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def overlap(found: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> float:
    """The share of the true neighbours that was found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The same rows but for one in a thousand, where two are as near; of an approximate search half of the true."""
    if "rows" in theirs:
        share = overlap(theirs["rows"], ours["rows"])
        return "" if share >= 0.999 else f"{100 * share:.1f} % of the rows are ours"
    return "" if theirs["recall"] >= 0.5 else f"recall is {theirs['recall']:.2f}"


def note(results: Sequence[Mapping[str, Any]]) -> str:
    """Recall and what building the graph took."""
    facts = results[-1]["facts"]
    if not isinstance(facts, Mapping):
        return ""
    return f", recall at {K} {100 * facts['recall']:.1f} %, built in {facts['build_s']:,.0f} CPU s"


def _case(name: str) -> Case:
    return {**CASES, **MORE, **SMALLEST}[name]


def _exact(search: Any) -> harness.Work:
    return harness.Work({"rows": np.asarray(search()).tolist()}, search, calls=1, amount=QUERIES)


def _approximate(case: Case, search: Any, *, build_s: float) -> harness.Work:
    recall = overlap(np.asarray(search()).tolist(), exact_rows(case))
    return harness.Work({"recall": round(recall, 4), "build_s": build_s}, search, calls=1, amount=QUERIES)


def _ours(name: str) -> harness.Work:
    from simclr_jax import retrieval

    case = _case(name)
    rows, queries = open_rows(case), queries_of(case)
    if case.is_exact:
        return _exact(lambda: retrieval.search(rows, queries, k=K)[1])
    start = time.process_time()
    index = retrieval.build_index(rows, connectivity=GRAPH["connectivity"])
    build_s = time.process_time() - start
    return _approximate(case, lambda: index.search(queries, k=K)[1], build_s=build_s)


def _faiss(name: str) -> harness.Work:
    """Exact: its products chunk by chunk, merged, so that memory is bounded as ours; approximate: HNSW in float32."""
    import faiss

    faiss.omp_set_num_threads(1)
    case = _case(name)
    rows, queries = open_rows(case), _unit(queries_of(case))

    def exact() -> np.ndarray:
        heap = faiss.ResultHeap(QUERIES, K, keep_max=True)
        for start in range(0, case.num, CHUNK):
            part = _unit(np.asarray(rows[start : start + CHUNK], np.float32))
            scores, found = faiss.knn(queries, part, K, metric=faiss.METRIC_INNER_PRODUCT)
            heap.add_result(scores, found + start)
        heap.finalize()
        return heap.I

    if case.is_exact:
        return _exact(exact)
    index = faiss.IndexHNSWFlat(case.width, GRAPH["connectivity"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = GRAPH["building"], GRAPH["searching"]
    start = time.process_time()
    for first in range(0, case.num, CHUNK):
        index.add(_unit(np.asarray(rows[first : first + CHUNK], np.float32)))
    build_s = time.process_time() - start
    return _approximate(case, lambda: index.search(queries, K)[1], build_s=build_s)


PROGRAM = harness.Program(
    cases=tuple(CASES),
    quick=list(SMALLEST),
    more=tuple(MORE),
    implementations={
        "simclr_jax (retrieval)": harness.Implementation(_ours, ("usearch",)),
        "faiss": harness.Implementation(_faiss, ("faiss",), "peers"),
    },
    compare=compare,
    packages=("jax", "usearch", "faiss-cpu"),
    number="ms",
    unit="CPU milliseconds a query",
    words=f"""The {K} nearest of rows of float16 in a file for {QUERIES} queries together, by cosine. Rows are rectified
    mixtures of {LATENT} random numbers. Exact: ours is `retrieval.search`; faiss multiplies the same file chunk by
    chunk (`faiss.knn`) and merges, as an index of all rows in float32 takes 8 GB. Both must find the same rows.
    Approximate: HNSW graphs with {GRAPH["connectivity"]} neighbours, {GRAPH["building"]} rows looked at in building and
    {GRAPH["searching"]} in searching; ours is usearch's in float16, faiss's is in float32. Recall is by NumPy. MB
    counts the pages of the file that lie in memory, which the system takes back when it needs them.""",
    repeats=1,
    setup=lambda quick, folder: {FOLDER: os.environ.get(FOLDER) or str(folder)},
    note=note,
)
