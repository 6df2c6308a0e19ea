"""`pairs:FILE.csv|.parquet|FOLDER|SHARDS.tar`: pictures with what is written about them, one text or several each.

A table has a row a text: the picture's path, the text, and the split if there is a column for it. A folder has a table
captions.csv or captions.parquet in it, or a file NAME.txt beside every picture, with a text a line, or both in
WebDataset shards (`webdataset`).
"""

import csv
import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from simclr_jax import base, units
from simclr_jax.data import extras, folder, imageset, layout, scan, webdataset

SPLITS = ("train", "test", "all")
TABLES = (".csv", ".tsv", ".parquet")
_ROWS = 1024  # of a Parquet table, at a time
# What columns are called, the first that is there counts.
_COLUMNS = {
    "picture": ("filename", "file_name", "filepath", "file", "image", "image_path", "path", "img"),
    "text": ("caption", "text", "title", "description", "sentence"),
    "split": ("split", "partition"),
}


def open_pairs(
    path: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    canvas_size: int | None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> imageset.Encoded:
    """The pictures of one split of `pairs:PATH` with their texts, not yet decoded; they have no classes.

    Without a column for the split, a tenth of the pictures is held out by a hash of their names.

    Args:
        path: a table, a folder, or shards as `webdataset.find_shards` has them; a relative one is taken below
            `data_dir` if that is given.
        split: "train", "test" (also what a table calls validation, where it has no test), or "all".
        data_dir: see `path`. Pictures are looked for beside the table.
        canvas_size, rules: as for `folder.open_folder`.

    Raises:
        base.InputError: nothing is there, the columns are not understood, a picture of the table is missing, a shard
            is, or the package for a .parquet file; `EmptySplit`: no picture in this split.
    """
    name = f"pairs:{imageset.printable(path)}"
    root = pathlib.Path(os.path.expanduser(data_dir or ""), os.path.expanduser(path))
    source = _open_source(root, name, is_given=bool(path))
    texts: dict[str, list[str]] = {}
    roles: dict[str, str] = {}
    for picture, text, role in source.rows:
        texts.setdefault(picture, [])
        texts[picture] += [text] if text and text not in texts[picture] else []
        roles[picture] = role or roles.get(picture, "")
    splits = _split(sorted(picture for picture, own in texts.items() if own), roles)
    chosen = sorted(splits["train"] + splits["test"] if split == "all" else splits[split])
    title = f"{name}, split {split!r}"
    if not chosen:
        raise imageset.EmptySplit(f"{title} must hold at least one picture with a text; got none. Add rows.")
    files = [source.find(picture) for picture in chosen]
    kept = tuple(tuple(texts[picture]) for picture in chosen)
    encoded = folder.make_encoded(files, title=title, class_names=(), canvas_size=canvas_size, rules=rules)
    counts = [units.counted(len(splits[role]), f"{word} picture") for role, word in _ROLES.items()]
    number = sum(len(own) for own in kept)
    understood = f"{name}: {', '.join(counts)}; {units.counted(number, 'text')} in the split {split!r}"
    return encoded._replace(texts=kept, understood=understood, warnings=source.warnings)


_ROLES = {"train": "training", "test": "test"}


class _Source(NamedTuple):
    """(picture, text, split) of every text; picture -> where it lies; see `imageset.Encoded.warnings`."""

    rows: Iterable[tuple[str, str, str]]
    find: Callable[[str], layout.ImageFile]
    warnings: tuple[str, ...] = ()


def _open_source(root: pathlib.Path, name: str, *, is_given: bool) -> _Source:
    """A table, shards, or a folder with files beside pictures, the first that is there."""
    found = webdataset.find_shards(root) if is_given else []
    table = None if not is_given or (found and not root.is_dir()) else _find_table(root, name)
    if found and table is None:
        read = webdataset.read_shards(found, title=name)
        rows = [(picture, text, read.roles[picture]) for picture, own in read.texts.items() for text in own]
        return _Source(rows, read.pictures.__getitem__, read.warnings)
    rows = list(_rows_beside(root, name) if table is None else _read_table(table, name))
    return _Source(rows, lambda picture: _find_picture(root if table is None else table.parent, picture, name))


def _find_table(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """The table that is meant; None for a folder without one."""
    if root.is_file() and root.suffix.lower() in TABLES:
        return root
    if not root.is_dir():
        raise base.InputError(
            f"pairs:PATH needs a table ({', '.join(TABLES)}), shards (.tar) or a folder; got {name}: there is none at "
            f"{imageset.printable(str(root))}. Check the path."
        )
    tables = [root / f"captions{ending}" for ending in TABLES]
    return next((table for table in tables if table.is_file()), None)


def _read_table(table: pathlib.Path, name: str) -> Iterable[tuple[str, str, str]]:
    """(picture, text, split) of every row."""
    if table.suffix.lower() == ".parquet":
        try:
            yield from _read_parquet(table, name)
        except base.InputError:
            raise
        except Exception as error:  # pyarrow raises nearly anything on damaged files
            raise base.InputError(f"{name} must be a whole Parquet table; got {base.one_line(error, 120)}.") from error
        return
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            yield from _take(next(lines, []), lines, name)
    except (UnicodeError, csv.Error) as error:
        raise base.InputError(f"{name} must be a table in UTF-8; got {base.one_line(error, 80)}.") from error


def _read_parquet(table: pathlib.Path, name: str) -> Iterator[tuple[str, str, str]]:
    """As `_read_table`, a few rows at a time: a table says in a few bytes that a million long texts are alike."""
    known = {word for names in _COLUMNS.values() for word in names}
    with extras.require("pyarrow.parquet").ParquetFile(table) as file:
        header = file.schema_arrow.names
        list(_take(header, [], name))  # refuses a table without the columns
        wanted = [title for title in header if title.strip().lower() in known]
        if len(set(wanted)) < len(wanted):
            raise base.InputError(
                f"{name} must have every column once; got {base.one_line(', '.join(header), 120)}. Rename one."
            )
        for batch in file.iter_batches(_ROWS, columns=wanted):
            yield from _take(wanted, zip(*(column.to_pylist() for column in batch.columns), strict=True), name)


def _take(header: list[str], rows: Iterable[Iterable[object]], name: str) -> Iterable[tuple[str, str, str]]:
    places = {}
    for column, names in _COLUMNS.items():
        lower = [title.strip().lower() for title in header]
        places[column] = next((lower.index(word) for word in names if word in lower), None)
        if places[column] is None and column != "split":
            shown = base.one_line(", ".join(header), 120)
            raise base.InputError(
                f"{name} needs a column for the {column}, called {' or '.join(names)}; got {shown}. Rename it."
            )
    for row in rows:
        cells = ["" if cell is None else str(cell).strip() for cell in row]
        yield tuple("" if at is None or at >= len(cells) else cells[at] for at in places.values())  # type: ignore[misc]


def _rows_beside(root: pathlib.Path, name: str) -> Iterable[tuple[str, str, str]]:
    """The rows of pictures with a file NAME.txt beside them; a folder train or test above them is their split."""
    pictures = [file for file in scan.scan(root).files if not file.is_linked]
    found = False
    for picture in pictures:
        beside = pathlib.Path(picture.path).with_suffix(".txt")
        if beside.is_file():
            found = True
            role = next((role for part in picture.parts[:-1] if (role := layout.split_role(part))), "")
            for line in beside.read_text(encoding="utf-8", errors="replace").splitlines():
                yield "/".join(picture.parts), line.strip(), role
    if not found:
        raise base.InputError(
            f"{name} needs texts: a table captions.csv in the folder, a file NAME.txt beside NAME.jpg, or shards .tar; "
            f"got {units.counted(len(pictures), 'picture')} and neither. Add one."
        )


def _split(pictures: list[str], roles: dict[str, str]) -> dict[str, list[str]]:
    """The pictures of "train" and "test"."""
    named = {picture: layout.split_role(roles[picture]) for picture in pictures}
    if not any(named.values()):
        order = sorted(pictures, key=lambda picture: hashlib.sha256(picture.encode()).digest())
        held_out = set(order[: round(layout.HELD_OUT_SHARE * len(order))])
        named = {picture: "test" if picture in held_out else "train" for picture in pictures}
    test = "test" if "test" in named.values() else "valid"
    return {
        role: [picture for picture, own in named.items() if own == word]
        for role, word in (("train", "train"), ("test", test))
    }


def _find_picture(folder_of_table: pathlib.Path, picture: str, name: str) -> layout.ImageFile:
    path = folder_of_table / picture
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # of a device or a pipe one reads for ever
            raise ValueError("no plain file")
    except (OSError, ValueError) as error:  # a name may also have bytes that no path has
        raise base.InputError(
            f"{name} names pictures by their paths beside the table; {imageset.printable(str(path))}: "
            f"{getattr(error, 'strerror', None) or error}. Move the table, or mend its paths."
        ) from error
    return layout.ImageFile(picture, str(path), "", "", status.st_size, status.st_mtime_ns)
