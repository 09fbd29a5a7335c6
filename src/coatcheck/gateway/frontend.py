"""
The files of a single-page application: what lies in the folder, and the fallback page for the routes inside the page.

Nothing here depends on who asks: no session is read, and no cookie set. Names are looked up at every request, so a
rebuilt frontend is served without a restart.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote_to_bytes

from coatcheck.bff.answers import Receive, Scope
from coatcheck.bff.current import SCOPE_KEY
from coatcheck.bff.own_headers import Send
from coatcheck.bff.problems import problem, send_problem
from coatcheck.telemetry import trace_id

CHUNK = 256 * 1024

Headers = list[tuple[bytes, bytes]]

# Not from the machine's own table: a missing line there has made browsers refuse modules and stylesheets.
_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
_BUILT_IN_TYPES = mimetypes.MimeTypes(filenames=()).types_map[True]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    modified_at: float
    etag: bytes


class Frontend:
    """
    Serves *folder*. A navigation to anything else gets the *fallback* page: routes inside the page are the page's.

    Paths in *reserved* (`/api`, `/bff`, the remote APIs) never get it: a misspelt API call is a 404, not a page.
    """

    def __init__(self, folder: Path, fallback: str, *, reserved: Sequence[str]) -> None:
        self._folder = folder.resolve()
        self._fallback = fallback
        self._reserved = tuple(reserved)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, "method_not_allowed", ((b"allow", b"GET, HEAD"),))
            return
        path = _application_path(scope)
        file = self._look_up(path)
        if file is None and self._is_page(path, scope):
            file = self._look_up("/" + self._fallback)
        if file is None:
            await _refuse(send, "not_found")
            return
        await _send_file(file, scope, send)

    def _look_up(self, path: str) -> _File | None:
        """The file that a path names, if it lies inside the folder and is not hidden."""
        segments = path.split("/")[1:]
        if not segments[-1]:
            segments[-1] = "index.html"
        names = [_name(segment) for segment in segments]
        if None in names:
            return None
        try:
            # Symbolic links are followed before the comparisons: none leads out of the folder, or to what is hidden.
            found = self._folder.joinpath(*filter(None, names)).resolve(strict=True)
            status = found.stat()
        except (OSError, RuntimeError):
            return None
        if not found.is_relative_to(self._folder) or not found.is_file():
            return None
        if any(_is_hidden(name) for name in found.relative_to(self._folder).parts):
            return None
        etag = b'"%x-%x"' % (status.st_mtime_ns, status.st_size)
        return _File(found, status.st_size, status.st_mtime, etag)

    def _is_page(self, path: str, scope: Scope) -> bool:
        """Whether the fallback may answer: a navigation, or anything without a file's ending, outside of the APIs."""
        if any(path == taken or path.startswith(taken + "/") for taken in self._reserved):
            return False
        accept = _header(scope, b"accept")
        return b"text/html" in accept or "." not in path.rpartition("/")[2]


def _application_path(scope: Scope) -> str:
    """The canonical path inside the application; without a BFF around us, the path as it came."""
    current = scope.get(SCOPE_KEY)
    if current is not None:
        return str(current.path)
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _name(segment: str) -> str | None:
    """A file name from a path segment; None for what is hidden, leads elsewhere, or is no name."""
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    odd = not name or not name.isprintable() or any(letter in name for letter in '/\\:"<>|?*')
    return None if odd or _is_hidden(name) else name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name != ".well-known"


async def _send_file(file: _File, scope: Scope, send: Send) -> None:
    headers: Headers = [
        (b"etag", file.etag),
        # Asked for again each time, answered with 304: nobody can tell from a name whether its content will change.
        (b"cache-control", b"no-cache"),
        (b"last-modified", formatdate(file.modified_at, usegmt=True).encode()),
    ]
    if file.etag in [tag.strip().removeprefix(b"W/") for tag in _header(scope, b"if-none-match").split(b",")]:
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    content_type = _content_type(file.path)
    headers += [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % file.size),
        (b"x-content-type-options", b"nosniff"),
    ]
    if content_type.startswith("text/html"):
        headers += [(b"content-security-policy", b"frame-ancestors 'self'"), (b"referrer-policy", b"same-origin")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    await _send_content(file, send)


async def _send_content(file: _File, send: Send) -> None:
    """Read in a thread, piece by piece; a file that shrank meanwhile cuts the answer short, as it must."""
    pieces = _pieces(file.path, file.size)
    left = file.size
    while left > 0:
        piece = await asyncio.to_thread(next, pieces, b"")
        if not piece:
            return
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    if not file.size:
        await send({"type": "http.response.body", "body": b""})


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(CHUNK, size))):
            size -= len(piece)
            yield piece


def _content_type(path: Path) -> str:
    ending = os.path.splitext(path.name)[1].lower()
    return _CONTENT_TYPES.get(ending) or _BUILT_IN_TYPES.get(ending) or "application/octet-stream"


def _header(scope: Scope, name: bytes) -> bytes:
    return b",".join(value for key, value in scope["headers"] if key == name)


async def _refuse(send: Send, code: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    await send_problem(send, problem(code, headers=headers), trace_id=trace_id())
