"""
Cookies: their names, their one set of attributes, and a parser that reads bytes as browsers write them.

The parser is our own because lenient ones are doors: they strip Unicode spaces, honour `$Version`, unquote, decode or
split at commas, and so let a name that a browser never protected turn into `__Host-...` on the server.

draft-ietf-httpbis-rfc6265bis.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, TypeAlias

from coatcheck import base64url
from coatcheck.errors import ConfigurationError, CookieTooLarge
from coatcheck.sessions.seal import framed

SameSite: TypeAlias = Literal["Strict", "Lax", "None"]

COOKIE_LIMIT = 4096
"""Bytes of one `Set-Cookie` value, attributes included, that every browser accepts."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PREFIX = "__Host-Http-coatcheck-"


def application_id(issuer: str, client_id: str, public_url: str) -> str:
    """
    Name one application in 8 characters, in cookie names, derived keys and the store's partition.

    Neither ports nor paths keep cookies apart: two applications on one host need different names.
    """
    digest = sha256(
        framed((b"coatcheck application", *(_.encode() for _ in (issuer, client_id, public_url.rstrip("/")))))
    )
    return b32encode(digest.digest()[:5]).decode("ascii").lower()


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """
    What the cookies of one application are called, and who sends its session cookie along.

    *same_site* is for the session: `Strict`, or `Lax` for applications whose pages are rendered from the session when
    somebody follows a link from another site. Sessions inside foreign pages (`None`) are not offered. `Secure`,
    `HttpOnly`, `Path=/` and the absence of `Domain` are not choices: the name's prefix makes browsers insist on them.

    Raises:
        ConfigurationError: an application id that does not fit into a cookie's name, or another *same_site*.
    """

    application_id: str
    same_site: SameSite = "Strict"
    session: str = field(init=False)

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9]{1,32}", self.application_id) is None:
            raise ConfigurationError(f"the application id {self.application_id!r} is not 1 to 32 letters and digits")
        if self.same_site not in ("Strict", "Lax"):
            raise ConfigurationError(f"SameSite of the session cookie is {self.same_site!r}: use Strict or Lax")
        object.__setattr__(self, "session", _PREFIX + self.application_id)

    def login(self, state_hash: str) -> str:
        """Return the name of the correlation cookie of one login, told from the others by a hash of its `state`."""
        return f"{self.session}-login-{state_hash}"

    @property
    def logins(self) -> str:
        """The name of the cookie that counts the logins of the last minute."""
        return f"{self.session}-logins"


class Cookies:
    """The cookies of one request. A name that occurs twice has no value: nobody can tell who planted which."""

    __slots__ = ("_duplicated", "_values")

    def __init__(self, values: dict[bytes, bytes], duplicated: set[bytes]) -> None:
        self._values = values
        self._duplicated = duplicated

    def get(self, name: str) -> str | None:
        """Return the value; None when it is absent, occurs twice, or has characters that our cookies never have."""
        value = self._values.get(name.encode())
        if value is None or not base64url.is_base64url(value):
            return None
        return value.decode("ascii")

    def duplicated(self, name: str) -> bool:
        """Say whether the browser sent more than one cookie of this name (cookie tossing: take it as no cookie)."""
        return name.encode() in self._duplicated

    def presented(self, name: str) -> bool:
        """Say whether the browser sent this name at all, once or more often, with whatever value."""
        raw = name.encode()
        return raw in self._values or raw in self._duplicated

    def starting_with(self, prefix: str) -> list[str]:
        """Return the names that start with *prefix* and could be ours."""
        raw = prefix.encode()
        names = [*self._values, *self._duplicated]
        return [name.decode() for name in names if name.startswith(raw) and _NAME.fullmatch(name.decode("latin-1"))]


def parse_cookies(headers: Iterable[tuple[bytes, bytes]]) -> Cookies:
    """
    Read every `Cookie` header of an ASGI *headers* list (HTTP/2 may split it). Never fails, takes linear time.

    Pairs end at `;`, names at the first `=`; spaces and tabs around both are dropped, nothing else is. A pair without a
    name is skipped: `=__Host-x=1` is a cookie without a name, not the cookie `__Host-x`.
    """
    values: dict[bytes, bytes] = {}
    duplicated: set[bytes] = set()
    for header, content in headers:
        if header != b"cookie":
            continue
        for pair in content.split(b";"):
            name, equals, value = pair.partition(b"=")
            name = name.strip(b" \t")
            if not equals or not name:
                continue
            if name in values or name in duplicated:
                duplicated.add(name)
                values.pop(name, None)
            else:
                values[name] = value.strip(b" \t")
    return Cookies(values, duplicated)


def set_cookie(name: str, value: str, *, same_site: SameSite = "Strict", max_age: int | None = None) -> bytes:
    """
    Return the value of a `Set-Cookie` header. Without *max_age* (seconds) the cookie ends with the browser's session.

    Raises:
        ValueError: *name* or *value* has a character that could end the cookie and begin something else.
        CookieTooLarge: more than 4096 bytes.
    """
    if _NAME.fullmatch(name) is None or not base64url.is_base64url(value.encode()):
        raise ValueError(f"the cookie {name!r} may only hold base64url")
    line = f"{name}={value}{_attributes(same_site, max_age)}".encode("ascii")
    if len(line) > COOKIE_LIMIT:
        raise CookieTooLarge(f"the cookie {name} takes {len(line)} of {COOKIE_LIMIT} bytes: use a session store")
    return line


def delete_cookie(name: str, *, same_site: SameSite = "Strict") -> bytes:
    """
    Return the value of a `Set-Cookie` header that deletes a cookie.

    It repeats all attributes: a browser ignores any `__Host-` line without them, a deletion too (CVE-2025-55162).
    """
    return set_cookie(name, "", same_site=same_site, max_age=0)


def room_in_cookie(name: str, *, same_site: SameSite) -> int:
    """Say how many characters of value fit into the cookie *name* without `Max-Age`."""
    return COOKIE_LIMIT - len(name) - 1 - len(_attributes(same_site, None))


def _attributes(same_site: SameSite, max_age: int | None) -> str:
    # `Secure` is unconditional: behind a TLS proxy the request looks like http, and browsers accept it on localhost.
    end = "" if max_age is None else f"; Max-Age={max_age:d}"
    return f"; Path=/; Secure; HttpOnly; SameSite={same_site}{end}"
