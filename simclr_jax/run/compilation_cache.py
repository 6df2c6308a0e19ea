"""Compiled programs, kept on disk from one start to the next.

JAX keeps them in the folder that it is given; this module gives it one if nobody else has. JAX finds an entry by the
program, its options and the versions of JAX and XLA. The processor is taken care of here: programs for a CPU hold
instructions that another one may lack.
"""

import contextlib
import hashlib
import pathlib
import platform
import warnings
import zlib

import jax

from simclr_jax.data import cache

# Some hundreds of programs for a CPU, some tens for a GPU; what was used longest ago goes first.
MAX_BYTES = 2 * 2**30
_ZSTD = b"\x28\xb5\x2f\xfd"


def keep() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, in at most `MAX_BYTES`.

    Does nothing where JAX has been given a folder (JAX_COMPILATION_CACHE_DIR) or to keep none
    (JAX_ENABLE_COMPILATION_CACHE=0), and where the folder cannot be written: a run is never refused for it. What JAX
    cannot read or write there it compiles, and pages of warnings about it are not shown.
    """
    warnings.filterwarnings("ignore", message="(?s).*persistent compilation cache")
    given, is_on = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    if given or not is_on:
        return
    folder = root() / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / ".writable"
        remove_torn(folder, since=mark.stat().st_mtime if mark.exists() else 0.0)
        mark.touch()
    except OSError:
        return
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def remove_torn(folder: pathlib.Path, *, since: float) -> None:
    """Removes entries that a kill or a full disk has left in half: JAX would neither use nor replace them.

    Args:
        folder: of one kind of processor.
        since: seconds of the clock; entries written before were looked at then.
    """
    for path in folder.glob("*-cache"):
        used = path.with_name(f"{path.name.removesuffix('-cache')}-atime")
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= since - 1 and not (used.exists() and _is_whole(path.read_bytes())):
                path.unlink(missing_ok=True)
                used.unlink(missing_ok=True)


def _is_whole(entry: bytes) -> bool:
    """Whether an entry can be unpacked, by either of the methods that JAX packs with."""
    try:
        if not entry.startswith(_ZSTD):
            zlib.decompress(entry)
            return True
        import zstandard

        zstandard.ZstdDecompressor().decompress(entry)
    except ImportError:
        return True  # JAX cannot read it either, and another Python may
    except Exception:
        return False
    return True


def root() -> pathlib.Path:
    """The folder that holds a folder of programs for every kind of processor."""
    return cache.default_folder() / "compiled"


def num_bytes() -> int:
    """What the programs of all processors take on disk, bytes."""
    return sum(path.stat().st_size for path in _programs())


def empty() -> int:
    """Removes the programs of all processors; returns how many bytes they took."""
    total = 0
    for path in _programs():
        total += path.stat().st_size
        path.unlink(missing_ok=True)
    return total


def _programs() -> list[pathlib.Path]:
    """JAX's own files: programs, and when each was used."""
    return [path for ending in ("-cache", "-atime") for path in root().glob(f"*/*{ending}")]


def processor() -> str:
    """A name for this kind of processor: its architecture and a digest of its model and features."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    abilities = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    text = "\n".join(abilities) or platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
