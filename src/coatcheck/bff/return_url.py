"""Where a browser may be sent back to: a path on our own origin, and nothing that could be read as anything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

from coatcheck.bff.public_url import PublicURL

MAX_LENGTH = 2000
"""Characters. A longer one would not fit beside the rest of a login into a cookie."""


def checked_return_url(text: str, *, public_url: PublicURL, endpoints: str = "/bff") -> str | None:
    """
    Return *text* as it may be written into a `Location` or a page, or None if a browser must not be sent there.

    Accepted is a path of our own origin with exactly one leading slash, with query and fragment. Characters that URLs
    do not have are percent-encoded first, so that what is checked is what is emitted. Everything is judged again after
    each decoding, because somebody behind us may decode once more than we do. Our own endpoints are refused: a
    return to `/bff/logout` would be a forged logout.

    RFC 9700 4.11.1.
    """
    if _FORBIDDEN.search(text) or not text.startswith("/"):
        return None
    try:
        url = quote(text, safe=_URL_CHARACTERS)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    if len(url) > MAX_LENGTH or _BAD_PERCENT.search(url):
        return None
    path = re.split("[?#]", url, maxsplit=1)[0]
    own, ours = public_url.path.casefold(), endpoints.casefold()  # not every server in front minds the case
    for level in _decodings(path):
        if level is None or _AMBIGUOUS.search(level) or _FORBIDDEN_DECODED.search(level):
            return None
        if any(_is_endpoint(inside, ours) for inside in _inside(level.casefold(), own)):
            return None
    rest = next(iter(_decodings(url[len(path) :])))
    if rest is None or _FORBIDDEN_DECODED.search(rest):
        return None
    return url


def _decodings(text: str) -> Iterator[str | None]:
    """Yield *text* decoded once, twice ... until it no longer changes; None if it is not UTF-8 or never ends."""
    for _ in range(_MAX_DECODINGS):
        try:
            decoded = unquote(text, errors="strict")
        except UnicodeDecodeError:
            yield None
            return
        yield decoded
        if decoded == text:
            return
        text = decoded
    yield None


def _inside(path: str, own: str) -> Iterator[str]:
    """Yield *path* without our *own* path in front of it, as often as it is there: a proxy may take one more off."""
    yield path
    while own and path.startswith(own + "/"):
        path = path[len(own) :]
        yield path


def _is_endpoint(path: str, endpoints: str) -> bool:
    return path == endpoints or path.startswith(endpoints + "/")


_MAX_DECODINGS = 4
_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%"  # RFC 3986 reserved and "%"; quote() itself knows the unreserved ones
_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_FORBIDDEN = re.compile(rf"[{_CONTROLS} \\]")
_FORBIDDEN_DECODED = re.compile(rf"[{_CONTROLS}]")
_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
# Empty segments, dot segments (for some servers "..;" is one), backslashes, a leading space: each parser has its own
# idea of these.
_AMBIGUOUS = re.compile(r"//|\\|/\.{1,2}(?=[/;]|$)|^/ ")
