"""A map shown from this machine to this machine: a server on 127.0.0.1 that gives out one page and its data."""

import functools
import http.server
import os
import pathlib
import signal
import sys
import webbrowser
from typing import Any

from simclr_jax import base
from simclr_jax.run import progress

_HOSTS = ("127.0.0.1", "localhost")
_TYPES = {
    "": "application/octet-stream",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".webp": "image/webp",
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, or only the one that is named; to requests that ask for this machine by its own name."""

    def __init__(self, *arguments: Any, only: str | None, **how: Any) -> None:
        self._only = only
        self.extensions_map = _TYPES
        super().__init__(*arguments, **how)

    def send_head(self) -> Any:
        # A page of another site must not read this one through a name of its own that leads here.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _HOSTS:
            self.send_error(403)
            return None
        if self._only is not None:
            if self.path not in ("/", f"/{self._only}"):
                self.send_error(404)
                return None
            self.path = f"/{self._only}"
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """No listing."""
        self.send_error(404)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *words: Any) -> None:
        """Says nothing."""


def make_server(target: pathlib.Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a page or of a site's folder on 127.0.0.1; `server_address[1]` is its port.

    Raises:
        base.InputError: there is no map, or the port is taken.
    """
    page = target if target.suffix.lower() in (".html", ".htm") else target / "index.html"
    if not page.is_file():
        raise base.InputError(f"--output must be a map that explore has written; there is none at {target}. Make it.")
    only = page.name if page == target else None
    handler = functools.partial(_Handler, directory=os.fspath(page.parent.resolve()), only=only)
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise base.InputError(
            f"--serve must be a free port; {port}: {error.strerror}. Leave the number out."
        ) from error


def serve(target: pathlib.Path, port: int) -> int:
    """Gives out a map until Ctrl-C, and opens a browser where there is a screen; returns the exit status.

    Raises:
        stopping.Interrupted: another signal came.
    """
    with make_server(target, port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        progress.say(f"{address} until Ctrl-C; only this machine can open it")
        if _has_screen():
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt as stopped:  # Ctrl-C is how it is meant to end, another signal is not
            if getattr(stopped, "number", signal.SIGINT) != signal.SIGINT:
                raise
    return 0


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
