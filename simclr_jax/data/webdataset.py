"""WebDataset shards: tar files in which a picture and its text lie one after the other under one name.

A tar file is a row of members, each a header that tells name and length, and its bytes. The headers and the texts are
read once, at the beginning; pictures are read from their places when a batch needs them, in any order. So shards are
data like any other: examples have numbers, every host reads those of its own rows, and a run goes on where it was.

    shard-000.tar:  000001.jpg  000001.txt  000002.jpg  000002.json  ...

Reference: the WebDataset format. The name of an example is the path of its members up to the first dot behind the last
slash. Deliberate differences: members of an example need not be neighbours; a caption of several lines is several
texts, as in a file beside a picture; shuffling is the run's own, over all examples and not shard by shard.
"""

import itertools
import os
import pathlib
import re
import tarfile
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from simclr_jax import base
from simclr_jax.data import imageset, kinds, layout

_TEXT_BYTES = 2**20  # of a member with texts; more is no caption
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST_SHARDS = 10**6


class Shards(NamedTuple):
    """What lies in some shards.

    pictures: example -> where its picture lies. texts: example -> its texts. roles: example -> "train", "test", "valid"
    by the name of its shard or of a folder, "" for none. warnings: of shards that end too early.
    """

    pictures: dict[str, layout.ImageFile]
    texts: dict[str, list[str]]
    roles: dict[str, str]
    warnings: tuple[str, ...]


class Member(NamedTuple):
    """A member of a tar file: its name, and the place and number of its bytes in the file."""

    name: str
    offset: int
    num_bytes: int


def find_shards(path: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(name, place) of every shard that a path means, sorted by name; [] where it means no shards.

    Args:
        path: a file .tar, a folder with such files or with folders of them, or names with braces, of which every one
            must be there: FOLDER/shard-{000..009}.tar, FOLDER/{a,b}.tar.

    Raises:
        base.InputError: a shard of a name with braces is missing, or shards are compressed.

    Example:
        >>> webdataset.find_shards(pathlib.Path("photos/captions.csv"))
        []
    """
    if str(path).lower().endswith(_COMPRESSED):
        raise base.InputError(
            f"Shards are read at any place and must not be compressed; got {imageset.printable(str(path))}. Unpack it "
            "to a .tar: pictures in it are compressed already."
        )
    if path.suffix.lower() == ".tar" and "{" in str(path):
        return _expanded(path)
    if path.is_dir():
        found = [(file.relative_to(path).as_posix(), file) for way in ("*.tar", "*/*.tar") for file in path.glob(way)]
        return sorted((name, file) for name, file in found if file.is_file() and not name.startswith("."))
    return [(path.name, path)] if path.suffix.lower() == ".tar" and path.is_file() else []


def _expanded(path: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    parts, choices = _BRACES.split(str(path)), []
    for number, part in enumerate(parts):
        given = _RANGE.fullmatch(part) if number % 2 else None
        if given:
            low, high = (int(end) for end in given.groups())
            choices.append([f"{value:0{len(given[1])}d}" for value in range(low, min(high, low + _MOST_SHARDS) + 1)])
        else:
            choices.append(part.split(",") if number % 2 else [part])
    files = [pathlib.Path("".join(chosen)) for chosen in itertools.product(*choices)]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise base.InputError(
            f"Every shard of {imageset.printable(str(path))} must be there; missing are {len(missing)} of "
            f"{len(files)}, such as {imageset.printable(str(missing[0] if missing else path))}. Mend the numbers."
        )
    start = pathlib.Path(parts[0]).parent if not parts[0].endswith("/") else pathlib.Path(parts[0])
    return sorted((file.relative_to(start).as_posix(), file) for file in files)


def read_shards(found: list[tuple[str, pathlib.Path]], *, title: str) -> Shards:
    """The examples of shards that `find_shards` found; pictures are not read.

    Raises:
        base.InputError: a shard is no tar file or cannot be read, or a name is there twice.
    """
    shards = Shards({}, {}, {}, ())
    warnings = []
    for shard, path in found:
        try:
            with open(path, "rb") as stream:
                status = os.fstat(stream.fileno())
                members, whole = list_members(path)
                own = _examples(shard, members)
                if not whole:
                    end = max((member.offset + member.num_bytes for member in members), default=0)
                    warnings.append(f"{imageset.printable(shard)} is damaged from byte {end} on: the rest is left out")
                for example, (picture, text) in own.items():
                    if picture is None:
                        continue
                    if example in shards.pictures:
                        raise base.InputError(
                            f"{title} must name every example once; {imageset.printable(example)} is there twice. "
                            "Rename one."
                        )
                    place = (picture.num_bytes, status.st_mtime_ns, picture.offset)
                    shards.pictures[example] = layout.ImageFile(example, str(path), "", "", *place)
                    shards.texts[example] = [] if text is None else _texts(stream, text)
                    shards.roles[example] = _role(shard)
        except OSError as error:
            raise base.InputError(
                f"{title} needs shards that can be read; got {error.strerror} for {imageset.printable(str(path))}. "
                "Check it."
            ) from error
    return shards._replace(warnings=tuple(warnings))


def list_members(path: pathlib.Path) -> tuple[list[Member], bool]:
    """(the files in a tar file, in order; whether it is whole).

    Raises:
        base.InputError: it is no tar file.
    """
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            size = os.path.getsize(path)
            try:
                for member in archive:
                    if member.isreg():
                        members.append(Member(member.name, member.offset_data, member.size))
                end = archive.offset
            except (tarfile.TarError, ValueError, OverflowError):  # numbers of a header that no file can have
                return members, False
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise base.InputError(
            f"A shard must be a tar file; {imageset.printable(str(path))} is none: {base.one_line(error, 80)}. "
            "Fetch it again, or take it away."
        ) from error
    with open(path, "rb") as stream:  # a header that cannot be read ends the list without a word
        stream.seek(end)
        is_end = not stream.read(tarfile.BLOCKSIZE).strip(b"\0")
    return members, is_end and all(member.offset + member.num_bytes <= size for member in members)


def _examples(shard: str, members: list[Member]) -> dict[str, tuple[Member | None, Member | None]]:
    """Example -> (its picture, its text); of several texts the .txt counts."""
    found: dict[str, tuple[Member | None, Member | None]] = {}
    for member in members:
        folder, _, name = member.name.rpartition("/")
        stem, _, endings = name.partition(".")
        ending = f".{endings.lower().rpartition('.')[2]}"
        if not stem:  # hidden
            continue
        key = "/".join(filter(None, (shard, folder.removeprefix("./").strip("."), stem)))
        picture, text = found.get(key, (None, None))
        if ending in kinds.READ_ENDINGS:
            found[key] = picture or member, text
        elif ending == ".txt" or (ending == ".json" and text is None):
            found[key] = picture, member
    return found


def _texts(stream: BinaryIO, member: Member) -> list[str]:
    """The lines of a .txt, or "caption" of a .json; [] for what is neither."""
    stream.seek(member.offset)
    content = stream.read(min(member.num_bytes, _TEXT_BYTES)).decode("utf-8", "replace")
    if not member.name.lower().endswith(".json"):
        return _lines(content.splitlines())
    try:
        caption = base.parse_json(content)["caption"]
    except (ValueError, KeyError, TypeError):
        return []
    return _lines(caption if isinstance(caption, list) else [caption])


def _lines(lines: Iterable[object]) -> list[str]:
    return [text for line in lines if isinstance(line, str) and (text := " ".join(line.split()))]


def _role(shard: str) -> str:
    """The split that the folder of a shard or the first word of its name means, "" for none."""
    *folders, name = shard.split("/")
    words = [*folders, re.split(r"[-_.]", name)[0]]
    return next((role for word in words if (role := layout.split_role(word))), "")
