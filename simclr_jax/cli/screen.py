"""Standard streams that do not decide over the work: a reader who leaves, a full disk, a stream that is closed.

A verb prints as if all were well. What could not be shown because the reader left (`simclr-jax plan | head -1`) is
nobody's loss; where a disk took no more, `lost` says so afterwards.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from simclr_jax import base


class Screen:
    """A text stream that takes everything, whatever becomes of it; `lost` is why some of it was lost, or ""."""

    def __init__(self, stream: Any, show: Callable[[str], str] = str):
        self._stream, self.lost, self._show = stream, "", show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes if it can."""
        try:
            self._stream.write(self._show(text))
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered if it can."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if getattr(error, "errno", None) != errno.EPIPE:
            self.lost = getattr(error, "strerror", None) or str(error)
        nowhere = _nowhere()
        # The interpreter flushes its own stream once more when it ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._stream = nowhere


@contextlib.contextmanager
def steadfast() -> Iterator[Screen]:
    """Puts such streams in the place of stdout and stderr; yields that of stdout."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file would get its number, and what libraries print there
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    streams = (_nowhere() if stream is None else stream for stream in before)
    # Names of files and classes are printed, and terminals obey what is in them; progress bars are on stderr.
    out, err = Screen(next(streams), base.plain), Screen(next(streams))
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _nowhere() -> Any:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
