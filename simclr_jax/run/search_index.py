"""The approximate index of a file of features, kept beside it."""

import hashlib
import json
import pathlib
from typing import Any

from simclr_jax import atomic_files, base, retrieval
from simclr_jax.retrieval import approximate
from simclr_jax.run import feature_digest, feature_file, progress


def open_index(bank: feature_file.Embedding, path: pathlib.Path) -> approximate.ApproximateIndex:
    """The graph beside the file of features, made if it is not there, damaged, or of other features.

    What it is of lies beside it: the digest and shape of the features, and the digest of its own file.

    Raises:
        base.InputError: the package usearch is missing, or the index cannot be written.
    """
    kept, note = pathlib.Path(f"{path}.usearch"), pathlib.Path(f"{path}.usearch.json")
    digest = bank.meta.get("features_digest") or feature_digest.look(bank.features).digest
    facts = {"features": digest, "shape": list(bank.features.shape)}
    if kept.is_file() and read_note(note) == {**facts, "index": _digest_of(kept)}:
        return approximate.load_index(kept)
    progress.say(f"Making the index of {len(bank.names):,} pictures, once ...")
    graph = retrieval.build_index(bank.features)
    note.unlink(missing_ok=True)  # never the note of one index beside another
    with atomic_files.replacing_file(kept) as temporary:
        graph.save(temporary)
    atomic_files.write_text(note, json.dumps({**facts, "index": _digest_of(kept)}))
    return graph


def read_note(note: pathlib.Path) -> Any:
    """What lies beside an index; None where there is nothing to read."""
    try:
        return base.parse_json(note.read_bytes())
    except (OSError, ValueError):
        return None


def _digest_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
