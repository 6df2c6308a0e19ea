"""The one rule for files and folders that people type: `~` is expanded, and what is no path of this machine is refused.

Typed text comes in, a path comes out; nothing is opened or made.
"""

import os
import re
import shlex
import stat
import unicodedata

from simclr_jax import base

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of two letters at least: C:/ is a drive
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # NUL, newlines and other controls, bytes that are not UTF-8, line separators
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, of Linux's file systems


def typed(text: str, *, flag: str) -> str:
    """The path that `text` names, with `~` and `~user` expanded; a relative one stays relative.

    Raises:
        base.InputError: `text` is empty, a URL, a name of no user, or holds what no path can. The message names
            `flag`.
    """
    if not text.strip():
        raise base.InputError(f"{flag} must be a path; got nothing. Give one, or leave the flag out.")
    if any(unicodedata.category(letter) in _UNPRINTABLE for letter in text):
        raise base.InputError(
            f"{flag} must be a path without control characters, in UTF-8; got {_printable(text)}. Rename it."
        )
    if _URL.match(text):
        raise base.InputError(
            f"{flag} must be a path of this machine, not a URL; got {text[:80]}. Copy the files here, or mount the "
            "store as a folder."
        )
    if len(os.fsencode(text)) > _LONGEST_PATH or any(
        len(os.fsencode(name)) > _LONGEST_NAME for name in re.split(r"[/\\]", text)
    ):
        raise base.InputError(
            f"{flag} must be a path whose names have at most {_LONGEST_NAME} bytes; got {text[:40]} ... of {len(text)} "
            "letters. Shorten it."
        )
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = re.split(r"[/\\]", text)[0]
        raise base.InputError(
            f"{flag} must be a path; {user} stands for a user who is not known here. For a folder of that name write "
            f"./{text[:80]}."
        )
    return path


def absolute(text: str, *, flag: str) -> str:
    """`typed`, and independent of the current folder; links are kept.

    Raises:
        base.InputError: as for `typed`.
    """
    return os.path.abspath(typed(text, flag=flag))


def check_no_pipe(text: str, *, flag: str) -> None:
    """Makes sure that opening what `text` names, if it names anything, does not wait for another program for ever.

    A shell's own pipes and streams, /dev/stdout and /dev/fd/63, have another program at their other end.

    Raises:
        base.InputError: it is a named pipe or a socket. The message names `flag`.
    """
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):
        return
    if (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not os.path.abspath(text).startswith(("/dev/", "/proc/")):
        raise base.InputError(f"{flag} must be a file or a folder; {text[:150]} is a named pipe. Choose another name.")


def check_plain(path: str | os.PathLike[str], *, flag: str) -> None:
    """Makes sure that checkpoints can be kept below a folder: Orbax takes its name for a pattern and loses their parts.

    Raises:
        base.InputError: the absolute path holds a letter with a meaning in patterns, a backslash that is not this
            system's separator, or bytes that are not UTF-8.
    """
    whole = os.path.abspath(path)
    if any(unicodedata.category(letter) == "Cs" for letter in whole):
        raise base.InputError(
            f"{flag} must lie in folders whose names are UTF-8, as checkpoints need; got {_printable(whole)}. Rename "
            "it, or set the locale to UTF-8: LC_ALL=C.UTF-8."
        )
    found = [letter for letter in ("*", "?", "[", "\\") if letter in whole and letter != os.sep]
    if found:
        raise base.InputError(
            f"{flag} must lie in folders without {' '.join(found)} in their names, which checkpoints do not bear; got "
            f"{whole}. Choose another name."
        )


def as_flag(name: str, path: str | os.PathLike[str]) -> str:
    """`--name=path` as a shell takes it, for commands that messages suggest."""
    return shlex.quote(f"--{name}={os.fspath(path)}")


def data_name(name: str | None, data_dir: str | None, *, flag: str) -> str | None:
    """The name of a data set; a path behind folder: or pairs:, also in a mix, `absolute` unless it is in `data_dir`.

    Raises:
        base.InputError: as for `typed`; or a mix that cannot be one.
    """
    kind, _, path = (name or "").partition(":")
    if kind == "mix":
        return _mix_name(name or "", data_dir, flag=flag)
    if kind not in ("folder", "pairs") or not path:
        return name
    read = typed if data_dir else absolute
    return f"{kind}:{read(path, flag=f'{flag}={kind}:PATH')}"


def set_names(name: str) -> list[str]:
    """The names of the sets in a mix, of any other name that alone.

    Raises:
        base.InputError: a mix that cannot be one.
    """
    if not name.startswith("mix:"):
        return [name]
    from simclr_jax import data  # flags are read before anything large is imported

    return [part.name for part in data.parts_of(name)]


def _mix_name(name: str, data_dir: str | None, *, flag: str) -> str:
    from simclr_jax import data

    parts = [part._replace(name=data_name(part.name, data_dir, flag=flag) or part.name) for part in data.parts_of(name)]
    whole = data.mix_name(parts)
    if list(data.parts_of(whole)) != parts:
        raise base.InputError(
            f"a mix takes a comma before a data set's name for the next set; got {whole[:150]}. Rename that folder, or "
            "link to it."
        )
    return whole


def _printable(text: str) -> str:
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")[:80]
