"""Which reader opens what a path names: a file by its content, a folder by what lies in it.

What belongs here: the kinds of files by their first bytes, what is said of those that hold no weights, and folders that
hold weights in files of known names (exports of ours, snapshots of the Hugging Face hub). TensorFlow's checkpoints are
found by `tensorflow_files`.
"""

import pathlib
import zipfile

from simclr_jax import base
from simclr_jax.interop import files, tensorflow_files, torch_files

CARD = "card.json"
_ENDINGS = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".pyth", ".pkl")
_SNAPSHOT = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
_HEADER = 8  # bytes of a safetensors file that say how long its header is
# First bytes -> what such a file is, and what to do.
_NO_WEIGHTS = (
    (b"version https://git-lfs", "a pointer of git-lfs, not the weights themselves", "Fetch them: git lfs pull"),
    (b"<", "a web page, as a failed download leaves it", "Download the weights again"),
    (b"{", "JSON text", "Name the file with the weights"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it: gunzip or tar -xzf"),
    (b"BZh", "compressed with bzip2", "Unpack it: bunzip2 or tar -xjf"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it: unxz or tar -xJf"),
    (b"Rar!", "a rar archive", "Unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "Convert a TensorFlow checkpoint or a PyTorch file"),
    (b"\x93NUMPY", "a single NumPy array", "Save the weights by name as .safetensors"),
)


def open_weights(path: pathlib.Path) -> files.Source:
    """The reader for what `path` names.

    Raises:
        base.InputError: no such file, one without weights, one that cannot be read, or a folder with none or several.
    """
    if path.is_dir():
        return _open_folder(path)
    prefix = tensorflow_files.find_prefix(path)
    if prefix is not None:
        return tensorflow_files.open_tensorflow(prefix)
    if path.name.endswith(_INDEX) and path.is_file():
        return _open_shards(path)
    if not path.is_file():
        raise base.InputError(
            f"--input must be {', '.join(_ENDINGS[:6])}, a TensorFlow checkpoint such as model.ckpt-250228, or a "
            f"folder with one; got {path}: there is no such file."
        )
    return _open_file(path)


def _open_folder(folder: pathlib.Path) -> files.Source:
    if (folder / CARD).is_file():
        return _open_export(folder)
    for name in _SNAPSHOT:
        if (folder / name).is_file():
            return _open_file(folder / name)
        if (folder / f"{name}{_INDEX}").is_file():
            return _open_shards(folder / f"{name}{_INDEX}")
    weights = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS and path.is_file())
    if len(weights) == 1:
        return _open_file(weights[0])
    if weights:
        listed = base.one_line(", ".join(path.name for path in weights), 200)
        raise base.InputError(
            f"A folder given as --input must hold one file of weights; {folder} holds {listed}. Name one of them."
        )
    prefix = tensorflow_files.find_prefix(folder)
    assert prefix is not None  # of a folder, it is found or refused
    return tensorflow_files.open_tensorflow(prefix)


def _open_export(folder: pathlib.Path) -> files.Source:
    """The weights in the folder of an export: the file with all variables by our names, or torchvision's files."""
    whole = folder / "variables.safetensors"
    paths = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not paths:
        raise base.InputError(
            f"The folder of an export must hold a .safetensors file; {folder} has none. Export again."
        )
    return _joined([_open_file(path) for path in paths])


def _open_shards(index: pathlib.Path) -> files.Source:
    """The weights that lie in several files, by the index that lists them."""
    try:
        names = sorted({str(name) for name in base.parse_json(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise files.unreadable(index, "an index with a weight_map", error) from error
    beside = [
        name for name in names if pathlib.PurePath(name).name == name and len(name.encode(errors="replace")) < 256
    ]
    missing = [name for name in names if name not in beside or not (index.parent / name).is_file()]
    if missing or not names:
        listed = base.one_line(", ".join(missing), 200) or "any file"
        raise base.InputError(f"All files that an index lists must lie beside it; {index} lacks {listed}. Fetch them.")
    return _joined([_open_file(index.parent / name) for name in names])


def _joined(sources: list[files.Source]) -> files.Source:
    readers = {name: source for source in sources for name in source.names}
    paths = tuple(path for source in sources for path in source.files)
    return sources[0]._replace(names=tuple(readers), read=lambda name: readers[name].read(name), files=paths)


def _open_file(path: pathlib.Path) -> files.Source:
    """A file by its content: endings are often wrong."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise files.unreadable(path, "a file that can be read", error) from error
    # Asked first, as the length at its beginning may be any byte.
    if head[_HEADER - 2 : _HEADER + 1] == b"\0\0{":
        return files.open_safetensors(path)
    _refuse_no_weights(path, head)
    if path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")):
        return files.open_safetensors(path)
    if head.startswith((b"PK", b"\x80")) or path.suffix in _ENDINGS:
        return torch_files.open_torch(path)
    raise base.InputError(
        f"--input must be {', '.join(_ENDINGS[:6])}, or a TensorFlow checkpoint such as model.ckpt-250228; got {path}: "
        "its content is none of these."
    )


def _refuse_no_weights(path: pathlib.Path, head: bytes) -> None:
    """Raises InputError for a file that is known to hold no weights, with what it is."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for first, what, remedy in _NO_WEIGHTS:
        if text.startswith(first):
            raise _refusal(path, what, remedy)
    if not head:
        raise _refusal(path, "empty", "Download or copy it again")
    if head[257:262] == b"ustar" and not _is_old_torch(path):
        raise _refusal(path, "a tar archive", "Unpack it: tar -xf")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise _refusal(path, f"cut off: it has {path.stat().st_size} bytes", "Download or copy it again")
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception as error:  # zipfile raises nearly anything on damaged files
            raise files.unreadable(path, "a whole archive", error) from error
        inside = {name.rpartition("/")[2] for name in names}
        if "constants.pkl" in inside:
            remedy = (
                f"Save its state dict: import torch; torch.save(torch.jit.load({str(path)!r}).state_dict(), 'w.pth')"
            )
            raise _refusal(path, "a TorchScript program", remedy)
        if "data.pkl" not in inside:
            raise _refusal(path, f"a zip archive of {base.one_line(', '.join(names[:4]), 120)}", "Unpack it")


def _is_old_torch(path: pathlib.Path) -> bool:
    """Whether a tar archive is torch's own kind, of before 2017."""
    import tarfile

    try:
        with tarfile.open(path, "r:") as archive:
            return "pickle" in archive.getnames()
    except (tarfile.TarError, ValueError, OverflowError, OSError):  # damaged: torch says so, if it is one
        return False


def _refusal(path: pathlib.Path, what: str, remedy: str) -> base.InputError:
    return base.InputError(f"--input must be a file of weights; {path} is {what}. {remedy}.")
