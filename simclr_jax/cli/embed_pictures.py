"""The work of `simclr-jax embed`: an encoder from wherever it is, and the features of pictures in a file."""

from typing import Any

from simclr_jax import base, distributed, units
from simclr_jax.run import compilation_cache, embedding, feature_file, loading, progress
from simclr_jax.run import encoder as encoder_lib

_LOADING = ("checkpoint", "image_size", "resize", "crop_fraction", "normalize", "network", "flag")
_WORDS = distributed.Words("simclr-jax embed", "picture", "the parts that are written")


def embed(
    *,
    images: str,
    output: str,
    views: int = 1,
    workdir: str | None = None,
    weights: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    **how: Any,
) -> int:
    """Writes the features of `images` to `output`; returns the exit status.

    Args:
        images: a folder or a data set.
        output: a file `.npz` or `.parquet`.
        views: how many views the features are averaged over.
        workdir: of a run.
        weights: an export or a file of weights; one of the two is given.
        coordinator, num_processes, process_id: of a job of several processes, each of which calls this with the same
            arguments but for the last; see `distributed.join`.
        how: `checkpoint`, `image_size`, `resize`, `crop_fraction`, `normalize`, `network` and `flag` of `loading.load`;
            the others go to `Encoder.embed`.

    Raises:
        base.InputError: no or two encoders, or whatever `loading.load` and `Encoder.embed` refuse.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    if (workdir is None) == (weights is None):
        got = "neither" if workdir is None else "both"
        raise base.InputError(f"An encoder comes from one of --workdir=RUN and --weights=FILE; got {got}. Give one.")
    with distributed.join(
        coordinator=coordinator, num_processes=num_processes, process_id=process_id, words=_WORDS
    ) as peers:
        if not peers.is_main:
            progress.mute()
        encoder = loading.load(workdir or weights or "", **{name: how.pop(name) for name in _LOADING if name in how})
        found = encoder.embed(images, output=output, num_views=views, show=True, peers=peers, **how)
    if peers.is_main:
        _tell(output, encoder, found)
    return 0


def _tell(output: str, encoder: encoder_lib.Encoder, found: feature_file.Embedding) -> None:
    embedding.tell_skipped(found.meta["skipped"])
    rows, width = found.features.shape
    print(
        f"Wrote {output}: {units.counted(rows, 'picture')}, {width} numbers each ({units.size(found.features.nbytes)})"
    )
    print(f"weights {encoder.fingerprint[:12]}, layer {found.meta['layer']}, protocol {found.meta['protocol']}")
    print("Next: simclr-jax explore, search, duplicates, select, cluster or probe, each with --features=FILE")
