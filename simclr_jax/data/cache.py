"""Decoded splits on disk: written once, atomically, checked when opened, and then memory-mapped.

An entry is a folder `<title>-<key>` with images.npy, sizes.npy, labels.npy and meta.json. It appears by one rename,
so that a killed run leaves no half entry; an entry which fails its checks is removed and made again. `bound` keeps
the sum of all entries within a limit.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import tokenize
from typing import BinaryIO

import numpy as np

from simclr_jax import base
from simclr_jax.data import block_digests, blocks, bound, imageset

FORMAT = 2
# What NumPy and JSON raise on files that are damaged: a header of an array is Python's text.
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, MemoryError, RecursionError),
    *(AttributeError, OverflowError, tokenize.TokenError),
)
# Of larger entries a part of this size is compared at every start, drawn at random: reading all takes minutes.
FULL_CHECK_BYTES = 2**30
_DIGESTS = "digests.npy"  # of the blocks of images.npy; entries of before have none


def default_folder() -> pathlib.Path:
    """`$XDG_CACHE_HOME/simclr_jax`, or `~/.cache/simclr_jax`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return pathlib.Path(root if os.path.isabs(root) else os.path.expanduser("~/.cache")) / "simclr_jax"


def load_or_decode(
    encoded: imageset.Encoded,
    *,
    cache_dir: str | os.PathLike[str] | None,
    max_corrupt_fraction: float,
    progress: bool,
    max_gigabytes: float | None = None,
) -> imageset.ImageSet:
    """The decoded split: from the cache if it is there and sound, else decoded (and kept).

    Args:
        encoded: the split.
        cache_dir: None for `default_folder()`; "" for no cache: the images are then held in memory.
        max_corrupt_fraction: largest share of damaged files, see `blocks.decode_split`.
        progress: whether decoding shows a progress bar on stderr.
        max_gigabytes: what all entries together may take; before a new one is made, those used longest ago are
            removed, never one in use. None for `bound.default_limit`.

    Raises:
        base.InputError: too many damaged files, or the folder cannot be written or has too little room.
    """
    if cache_dir == "":
        return _decode_in_memory(encoded, max_corrupt_fraction=max_corrupt_fraction, progress=progress)
    folder = default_folder() if cache_dir is None else pathlib.Path(os.path.expanduser(cache_dir))
    title = re.sub(r"[^A-Za-z0-9.]+", "-", encoded.title).strip("-.")[-60:]
    entry = folder / f"{title}-{encoded.key[:32]}"
    image_set = _open_entry(entry, encoded.key)
    if image_set is None:
        image_set = _build_entry(
            entry, encoded, max_corrupt_fraction=max_corrupt_fraction, max_gigabytes=max_gigabytes, progress=progress
        )
    num_files = len(encoded.ids)
    blocks.check_skipped(
        list(image_set.skipped), num_files=num_files, max_corrupt_fraction=max_corrupt_fraction, seen=num_files
    )
    return image_set._replace(mix=imageset.mix_of(encoded, image_set.ids))


def load_or_read_labels(
    encoded: imageset.Encoded, *, cache_dir: str | os.PathLike[str] | None, max_corrupt_fraction: float
) -> np.ndarray:
    """The labels of a split that stays encoded, int32 [N]; where only its records tell, each is read once and kept.

    Args:
        encoded: the split.
        cache_dir: as for `load_or_decode`.
        max_corrupt_fraction: largest share of records that cannot be read and get the label -1.

    Raises:
        base.InputError: too many records cannot be read, or the folder cannot be written.
    """
    if encoded.labels is not None:
        return encoded.labels()
    if encoded.parts:  # some of which may know theirs
        return np.concatenate(
            [
                load_or_read_labels(part, cache_dir=cache_dir, max_corrupt_fraction=max_corrupt_fraction)
                for part in encoded.parts
            ]
        )
    folder = default_folder() if cache_dir is None else pathlib.Path(os.path.expanduser(cache_dir))
    file = folder / f"labels-{encoded.identity[:32]}.npy"
    if cache_dir != "":
        try:
            labels = np.load(file, allow_pickle=False)
            if labels.shape == (len(encoded.ids),) and labels.dtype == np.int32:
                return labels
        except _DAMAGE:
            pass
    labels = blocks.read_labels(encoded, max_corrupt_fraction=max_corrupt_fraction)
    if cache_dir != "":
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"labels-{secrets.token_hex(4)}.tmp"
            with open(unfinished, "xb") as stream:
                np.save(stream, labels)
            os.replace(unfinished, file)
        except OSError as error:
            raise _not_writable(folder, error) from error
    return labels


def _not_writable(folder: pathlib.Path, error: OSError) -> base.InputError:
    return base.InputError(
        f"the cache folder must be writable; got {error.strerror or error} for {folder}. "
        'Choose another one with cache_dir, or cache_dir="" to keep the images in memory.'
    )


def check_limit(max_gigabytes: float | None) -> None:
    """Raises base.InputError unless the limit of the cache is None or a number from 0."""
    if max_gigabytes is not None and not (isinstance(max_gigabytes, int | float) and 0 <= max_gigabytes < float("inf")):
        raise base.InputError(
            f"max_cache_gigabytes must be a number from 0; got {max_gigabytes!r}. Leave it out for half of the disk."
        )


def _decode_in_memory(encoded: imageset.Encoded, *, max_corrupt_fraction: float, progress: bool) -> imageset.ImageSet:
    canvas_size = encoded.canvas_size()
    needed = len(encoded.ids) * canvas_size**2 * 3
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise base.InputError(
            f"without a cache the decoded images must fit in memory; got {needed / 1e9:.1f} GB and "
            f"{memory / 1e9:.1f} GB. Give a cache_dir, or lower canvas_size from {canvas_size}."
        )
    images = np.empty((len(encoded.ids), canvas_size, canvas_size, 3), np.uint8)
    filled = 0

    def write(rows: np.ndarray) -> None:
        nonlocal filled
        images[filled : filled + len(rows)] = rows
        filled += len(rows)

    decoded = blocks.decode_split(
        encoded, write, canvas_size=canvas_size, max_corrupt_fraction=max_corrupt_fraction, progress=progress
    )
    return decoded._replace(images=images[:filled], mix=imageset.mix_of(encoded, decoded.ids))


def _build_entry(
    entry: pathlib.Path,
    encoded: imageset.Encoded,
    *,
    max_corrupt_fraction: float,
    max_gigabytes: float | None,
    progress: bool,
) -> imageset.ImageSet:
    canvas_size = encoded.canvas_size()
    needed = len(encoded.ids) * canvas_size**2 * 3
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        bound.make_room(entry.parent, needed, title=encoded.title, max_gigabytes=max_gigabytes)
        _check_room(entry.parent, needed)
        # Not `tempfile.mkdtemp`, whose folders are closed to all others: the umask says who may share a cache.
        work = entry.with_name(f"{entry.name}.tmp-{secrets.token_hex(4)}")
        work.mkdir()
        digests = block_digests.Digests()

        def write(rows: np.ndarray) -> None:
            digests.add(rows)
            _write_rows(stream, rows)

        try:
            with open(work / "images.npy", "wb") as stream:
                _write_header(stream, (len(encoded.ids), canvas_size, canvas_size, 3))
                decoded = blocks.decode_split(
                    encoded,
                    write,
                    canvas_size=canvas_size,
                    max_corrupt_fraction=max_corrupt_fraction,
                    progress=progress,
                )
                # Damaged files leave the array shorter; NumPy pads its header so that the length can change in place.
                stream.seek(0)
                _write_header(stream, decoded.images.shape)
            np.save(work / _DIGESTS, digests.result())
            _write_rest(work, decoded, encoded)
            _publish(work, entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise _not_writable(entry.parent, error) from error
    bound.hold(entry)
    return decoded._replace(images=np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False))


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _write_rows(stream: BinaryIO, rows: np.ndarray) -> None:
    stream.write(rows.data)


def _write_rest(work: pathlib.Path, decoded: imageset.ImageSet, encoded: imageset.Encoded) -> None:
    np.save(work / "sizes.npy", decoded.sizes)
    np.save(work / "labels.npy", decoded.labels)
    meta = {
        "format": FORMAT,
        "key": encoded.key,
        "title": encoded.title,
        "fingerprint": decoded.fingerprint,
        "class_names": decoded.class_names,
        "ids": decoded.ids,
        "skipped": decoded.skipped,
        "warnings": decoded.warnings,
    }
    (work / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _publish(work: pathlib.Path, entry: pathlib.Path) -> None:
    try:
        work.rename(entry)
    except OSError:
        # Another process finished the same entry first: same key, same content.
        if not entry.is_dir():
            raise


def _open_entry(entry: pathlib.Path, key: str) -> imageset.ImageSet | None:
    """The entry memory-mapped; None if it is absent, or damaged, in which case it is removed."""
    if not entry.is_dir():
        _remove(entry)
        return None
    try:
        meta = base.parse_json((entry / "meta.json").read_text(encoding="utf-8"))
        image_set = imageset.ImageSet(
            images=np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False),
            sizes=np.load(entry / "sizes.npy", allow_pickle=False),
            labels=np.load(entry / "labels.npy", allow_pickle=False),
            class_names=tuple(meta["class_names"]),
            ids=tuple(meta["ids"]),
            fingerprint=meta["fingerprint"],
            skipped=tuple(meta["skipped"]),
            warnings=tuple(meta["warnings"]),
        )
        sound = meta["format"] == FORMAT and meta["key"] == key and _is_sound(image_set, entry / _DIGESTS)
    except _DAMAGE:
        sound = False
    if sound:
        bound.hold(entry)
        return image_set
    _remove(entry)
    return None


def _remove(entry: pathlib.Path) -> None:
    """Removes what is in an entry's place; of a link the link, never what it leads to."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        entry.unlink(missing_ok=True)


def _is_sound(image_set: imageset.ImageSet, digests: pathlib.Path) -> bool:
    images, count = image_set.images, len(image_set.ids)
    shapes_agree = image_set.sizes.shape == (count, 2) and image_set.labels.shape == (count,)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count or not shapes_agree:
        return False
    if images.nbytes > FULL_CHECK_BYTES:
        if not digests.exists():
            return True
        rng = np.random.default_rng()  # others at every start; nothing else depends on it
        known = np.load(digests, allow_pickle=False)
        return not block_digests.differing(images, known, most_bytes=FULL_CHECK_BYTES, rng=rng)
    digest = hashlib.sha256(images.data)
    return imageset.finish_fingerprint(digest, image_set=image_set) == image_set.fingerprint


def _check_room(folder: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise base.InputError(
            f"the cache folder needs room for the decoded images: {needed / 1e9:.1f} GB; {folder} has "
            f"{free / 1e9:.1f} GB free. Choose another one with cache_dir, or lower canvas_size."
        )
