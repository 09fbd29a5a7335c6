"""Return URLs made of the pieces that open redirects are made of, and what has to hold for each that is accepted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from random import Random
from urllib.parse import unquote, urljoin, urlsplit

from playwright.sync_api import Page

from coatcheck.bff.public_url import parse_public_url
from coatcheck.bff.return_url import checked_return_url
from tests.rig.node import node_binary

ORIGIN = "https://shop.example"
OURS = parse_public_url(f"{ORIGIN}/store")

Parser = Callable[[Sequence[str]], list[str]]
"""Resolves references against `ORIGIN`; the absolute URLs, or an empty text where it finds none."""

PIECES = (
    *("/", "/", "/", "/", "//", "\\", ".", "..", ";", "?", "#", "@", ":", "&", "=", "%", " ", "\t", "\n", "\0"),
    *("a", "b", "ü", "store", "bff", "BFF", "logout", "https:", "javascript:", "evil.example", "[::1]", ":443"),
    *("%2f", "%2F", "%5c", "%2e", "%25", "%09", "%0d%0a", "%20", "%23", "%3f", "%252f", "%62ff", "%C3%BC", "%ff"),
    *("\u2028", "\u202e", "\ufeff", "\u2044", "\u2215", "\uff0f", "\uff3c", "\u3002", "\u00a0", "\ud800"),
    *("[", "]", "|", "^", "{", "}", "'", '"', "<", ">", "`", "~", "$", "!", "*", "+", ","),
)

_RESOLVE = "urls => urls.map(url => { try { return new URL(url, ORIGIN).href } catch { return '' } })".replace(
    "ORIGIN", repr(ORIGIN)
)


def accepted(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Generate *count* texts; yield those that are accepted, each with the URL that it became."""
    random = Random(seed)
    for _ in range(count):
        text = "/" * (random.random() < 0.9) + "".join(random.choices(PIECES, k=random.randrange(8)))
        url = checked_return_url(text, public_url=OURS)
        if url is not None:
            yield text, url


def complaints(pairs: Sequence[tuple[str, str]], parsers: dict[str, Parser]) -> list[str]:
    """Say of which of *pairs* something does not hold, in whose eyes."""
    found = [f"{text!r} became {url!r}: {what}" for text, url in pairs for what in _wrong(text, url)]
    urls = [url for _, url in pairs]
    for name, parse in parsers.items():
        for url, href in zip(urls, parse(urls), strict=True):
            # A browser writes an apostrophe of a query as %27, and nothing else anew: it goes where we looked.
            if href.replace("'", "%27") != (ORIGIN + url).replace("'", "%27"):
                found.append(f"{url!r} is {href!r} to {name}")
    return found


def chromium(page: Page) -> Parser:
    """What `new URL()` of a real browser says."""

    def parse(urls: Sequence[str]) -> list[str]:
        hrefs: list[str] = page.evaluate(_RESOLVE, list(urls))
        return hrefs

    return parse


def node(urls: Sequence[str]) -> list[str]:
    """What `new URL()` of Node.js says."""
    script = f"console.log(JSON.stringify(({_RESOLVE})(JSON.parse(require('fs').readFileSync(0, 'utf8')))))"
    done = subprocess.run(
        [node_binary(), "-e", script],
        input=json.dumps(list(urls)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    hrefs: list[str] = json.loads(done.stdout)
    return hrefs


def python(urls: Sequence[str]) -> list[str]:
    """What `urllib.parse` says. It drops empty parameters, queries and fragments, which are put back."""
    return [_with_what_is_empty(url, urljoin(f"{ORIGIN}/bff/callback?code=x", url)) for url in urls]


def _with_what_is_empty(url: str, joined: str) -> str:
    ours, theirs = urlsplit(ORIGIN + url), urlsplit(joined)
    same = ours._replace(path=ours.path.removesuffix(";")) == theirs._replace(path=theirs.path.removesuffix(";"))
    return ORIGIN + url if same else joined


def _wrong(text: str, url: str) -> Iterator[str]:
    if not (url.isascii() and url.isprintable() and " " not in url and len(url) <= 2000):
        yield "it is not one short line of ASCII"
    if checked_return_url(url, public_url=OURS) != url:
        yield "it is not accepted as it is"
    if unquote(url.partition("#")[2]) != unquote(text.partition("#")[2]):
        yield "the fragment is another"
    path = url.partition("#")[0].partition("?")[0]
    while True:
        inside = path.casefold()
        while inside.startswith("/store/"):
            inside = inside.removeprefix("/store")
        if inside == "/bff" or inside.startswith("/bff/"):
            yield "it is an endpoint of ours"
        if (decoded := unquote(path)) == path:
            return
        path = decoded
