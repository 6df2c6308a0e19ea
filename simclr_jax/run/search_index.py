"""The approximate index of a file of features, kept beside it."""

import pathlib

from simclr_jax import atomic_files, retrieval
from simclr_jax.retrieval import approximate
from simclr_jax.run import feature_file, progress


def open_index(bank: feature_file.Embedding, path: pathlib.Path) -> approximate.ApproximateIndex:
    """The graph beside the file of features, made if it is not there or older than the features.

    Raises:
        base.InputError: the package usearch is missing, or the index cannot be written.
    """
    kept = pathlib.Path(f"{path}.usearch")
    if kept.is_file() and kept.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return approximate.load_index(kept)
    progress.say(f"Making the index of {len(bank.names):,} pictures, once ...")
    graph = retrieval.build_index(bank.features)
    with atomic_files.replacing_file(kept) as temporary:
        graph.save(temporary)
    return graph
