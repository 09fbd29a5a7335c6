"""What the cookie parser is compared with: a reading letter by letter, a browser with planted cookies, a count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coatcheck.sessions import parse_cookies

Pair = tuple[bytes, bytes]


def letter_by_letter(headers: Iterable[bytes]) -> list[Pair]:
    """Read `Cookie` headers one byte after the other: to `;` goes a pair, to its first `=` the name."""
    pairs: list[Pair] = []
    for header in headers:
        name, value = bytearray(), None
        for byte in header + b";":
            if byte == 0x3B:
                if value is not None and without_blanks(name):
                    pairs.append((without_blanks(name), without_blanks(value)))
                name, value = bytearray(), None
            elif byte == 0x3D and value is None:
                value = bytearray()
            elif value is None:
                name.append(byte)
            else:
                value.append(byte)
    return pairs


def without_blanks(text: bytes | bytearray) -> bytes:
    """Take off what RFC 6265bis calls WSP, at both ends."""
    first, last = 0, len(text)
    while first < last and text[first] in (0x20, 0x09):
        first += 1
    while first < last and text[last - 1] in (0x20, 0x09):
        last -= 1
    return bytes(text[first:last])


@dataclass(frozen=True, slots=True)
class Planter:
    """Who sets a cookie: `evil.example.com`, or somebody who speaks as `shop.example.com` itself."""

    sibling: bool
    secure_origin: bool
    script: bool


SIBLING = Planter(sibling=True, secure_origin=True, script=False)
MAN_IN_THE_MIDDLE = Planter(sibling=False, secure_origin=False, script=False)
SCRIPT = Planter(sibling=False, secure_origin=True, script=True)


@dataclass(frozen=True, slots=True)
class Planted:
    """One cookie of the browser's jar."""

    name: bytes
    value: bytes
    domain: bytes
    path: bytes


def plant(line: bytes, planter: Planter) -> Planted | None:
    """
    Keep the cookie of a `Set-Cookie` line as a browser does, or ignore it as a browser does.

    Cookies that would not be sent to `https://shop.example.com/bff/user` do not matter and are ignored, too.

    RFC 6265bis, sections 5.6 and 5.7.
    """
    if any(byte <= 0x08 or 0x0A <= byte <= 0x1F or byte == 0x7F for byte in line):
        return None
    pair, *attributes = line.split(b";")
    name, value = pair.split(b"=", 1) if b"=" in pair else (b"", pair)
    name, value = without_blanks(name), without_blanks(value)
    given = {key.lower(): argument for key, argument in map(_attribute, attributes)}
    domain, path = given.get(b"domain", b"").lstrip(b".").lower(), given.get(b"path", b"/")
    secure, http_only = b"secure" in given, b"httponly" in given
    if not name + value or len(name + value) > 4096:
        return None
    if (secure and not planter.secure_origin) or (http_only and planter.script):
        return None
    if domain not in ((b"example.com",) if planter.sibling else (b"", b"example.com", b"shop.example.com")):
        return None
    path = path if path.startswith(b"/") else b"/"
    if path not in (b"/", b"/bff", b"/bff/", b"/bff/user"):
        return None
    for_this_host = domain == b"" and path == b"/"
    for prefix in (b"__host-http-", b"__host-", b"__http-", b"__secure-"):
        if not name and value.lower().startswith(prefix):
            return None
        if name.lower().startswith(prefix):
            may_be_so = secure and (http_only or b"http-" not in prefix) and (for_this_host or b"host-" not in prefix)
            if not may_be_so:
                return None
    return Planted(name, value, domain, path)


def _attribute(text: bytes) -> Pair:
    key, _, argument = text.partition(b"=")
    return without_blanks(key), without_blanks(argument)


def sent(jar: Iterable[Planted]) -> bytes:
    """The `Cookie` header of these cookies (RFC 6265bis 5.8.3)."""
    return b"; ".join((cookie.name + b"=" if cookie.name else b"") + cookie.value for cookie in jar)


class Counted(bytes):
    """Counts the bytes that its methods go through: those that `parse_cookies` calls, and a dictionary."""

    work = 0

    def split(self, separator: bytes | None = None, maxsplit: int = -1) -> list[Counted]:  # type: ignore[override]
        Counted.work += len(self)
        return [Counted(part) for part in super().split(separator, maxsplit)]

    def partition(self, separator: bytes) -> tuple[Counted, Counted, Counted]:  # type: ignore[override]
        Counted.work += len(self)
        first, middle, last = super().partition(separator)
        return Counted(first), Counted(middle), Counted(last)

    def strip(self, letters: bytes | None = None) -> Counted:  # type: ignore[override]
        Counted.work += len(self)
        return Counted(super().strip(letters))

    def __hash__(self) -> int:
        Counted.work += len(self)
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.work += len(self)
        return super().__eq__(other)


def work(header: bytes) -> int:
    """How many bytes are gone through to read *header*."""
    Counted.work = 0
    parse_cookies([(b"cookie", Counted(header))])
    return Counted.work
