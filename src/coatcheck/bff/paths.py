"""
One spelling of a path, for the match and for the wire.

The HTTP client below us tidies URLs (`..`, `%2e%2e`, `\\`, `#`) *after* a route has matched, and servers behind it
decode, collapse and cut. So that every reader of a path sees the same one, anything with a second reading is refused
here, before routing, and what is accepted is forwarded byte for byte. Nothing is ever cleaned up.

RFC 3986, sections 3.3, 3.4 and 6.2.2; WHATWG URL, section 4.4.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from coatcheck.errors import ConfigurationError

T = TypeVar("T")

_SECOND_READING = re.compile(
    rb"""
    [^!$%&'()*+,\-./0-9:;=@A-Z\[\]^_a-z|~]      # rewritten or cut by the URL parser: \ # ? " < > ` { }, non-ASCII
    | //                                        # an empty segment: collapsed by some servers, a host for others
    | /\.{1,2}(?=[/;]|%3[Bb]|$)                 # dot segments, also as "..;", which some servers cut to ".."
    | %(?![0-9A-Fa-f]{2})                       # not an encoded byte
    | %[01][0-9A-Fa-f] | %7[Ff]                 # encoded control characters
    | %2[Ff] | %5[Cc]                           # encoded separators
    | %2[DdEe] | %3[0-9] | %[46][1-9A-Fa-f] | %5[0-9AaFf] | %7[0-9AaEe]   # encoded letters, digits and - . _ ~
    | %25(?:25)*(?:2[EeFf]|5[Cc])               # dots and separators for a server that decodes twice
    """,
    re.VERBOSE,
)

_QUERY_REWRITTEN = re.compile(rb"""[^!$%&()*+,\-./0-9:;=?@A-Z\[\\\]^_`a-z{|}~]""")
"""What the URL parser would encode or drop in a query: quotes, angle brackets, `#`, blanks, controls, non-ASCII."""

_QUERY_SEPARATORS = re.compile(rb"[&;]")

_TOKEN_PARAMETERS = frozenset({b"access_token", b"id_token"})
"""RFC 6750 section 2.3 lets a token travel in a query. Here it never does: queries end up in logs (OAU-31, PRX-35)."""

_ROUTE_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+|/")


def canonical_path(raw_path: bytes, query: bytes = b"") -> str | None:
    """
    Return *raw_path* as text if it has exactly one reading; None means: refuse the request (400 `bad_path`).

    The text is the path as it stands, percent-encoding included. Letters, digits and `-._~` have to stand for
    themselves: `/api/%61dmin` would be `/api/admin` to the server behind us and something else to the match. *query*,
    when given, must be forwardable too.

    RFC 3986, section 6.2.2.
    """
    if not raw_path.startswith(b"/") or _SECOND_READING.search(raw_path) is not None:
        return None
    if b"%" in raw_path and not _is_utf8(unquote_to_bytes(raw_path)):
        return None
    if query and not forwardable_query(query):
        return None
    return raw_path.decode("ascii")


def forwardable_query(query: bytes) -> bool:
    """Tell whether *query* reaches the server behind us byte for byte."""
    return _QUERY_REWRITTEN.search(query) is None


def carries_token(query: bytes) -> bool:
    """Tell whether *query* has an `access_token` or `id_token` parameter, in any spelling."""
    query = query.lower()
    if b"token" not in query and b"%" not in query:
        return False
    names = (part.partition(b"=")[0].replace(b"+", b" ") for part in _QUERY_SEPARATORS.split(query))
    return any(unquote_to_bytes(name).strip().lower() in _TOKEN_PARAMETERS for name in names)


def _is_utf8(data: bytes) -> bool:
    """Overlong forms and stray bytes are where decoders disagree; Python's own decoder refuses both."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class RouteTable(Generic[T]):
    """
    Which target a canonical path belongs to: whole segments, exact case, the longest route first.

    A route may lie below another one (`/api` and `/api/admin`). Two that differ in nothing but case are refused,
    because one of them would hardly ever be what its author meant.
    """

    def __init__(self) -> None:
        self._routes: list[tuple[str, str, T]] = []

    def add(self, path: str, target: T) -> None:
        """
        Let *target* answer for *path* and everything below it.

        Raises:
            ConfigurationError: *path* is not made of plain segments (`/api/orders`), or it is taken already.
        """
        if _ROUTE_PATH.fullmatch(path) is None:
            raise ConfigurationError(
                f"the route {path!r} must be made of plain segments such as /api/orders: "
                "letters, digits and -._~, no '/' at the end"
            )
        for taken, _, _ in self._routes:
            if taken.lower() == path.lower():
                raise ConfigurationError(f"the route {path!r} overlaps {taken!r}: give every route a path of its own")
        self._routes.append((path, path if path == "/" else path + "/", target))
        self._routes.sort(key=lambda route: len(route[0]), reverse=True)

    def match(self, path: str) -> T | None:
        """Find the target for a path that `canonical_path` returned."""
        for exact, below, target in self._routes:
            if path.startswith(below) or path == exact:
                return target
        return None

    def paths(self) -> tuple[str, ...]:
        """The routes, longest first: for start-up checks and listings."""
        return tuple(path for path, _, _ in self._routes)
