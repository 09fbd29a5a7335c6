"""
The cookies of a browser, as far as a session cookie's fate depends on it.

Like Chromium (and unlike the jars of HTTP client libraries): cookies ignore ports; `Secure` cookies are kept and sent
over plain http on loopback hosts; the prefixes `__Secure-`, `__Host-` and `__Host-Http-` are enforced; SameSite is
honoured with the page that started the request as the only yardstick (redirects in between do not matter). Left out:
the two minutes in which Chromium sends a cookie without a SameSite attribute on a cross-site POST.

RFC 6265bis, sections 5.4 to 5.8.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2


@dataclass(frozen=True, slots=True)
class Cookie:
    """One stored cookie."""

    name: str
    value: str
    domain: str
    path: str
    host_only: bool
    secure: bool
    http_only: bool
    same_site: str
    """`strict`, `lax` or `none`; a cookie that says nothing is `lax`."""
    expires_at: float | None
    """None: until the browser is closed."""


class CookieJar:
    """What one browser profile keeps. Threads may share it."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], Cookie] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Cookie]:
        """Every cookie that has not expired."""
        now = time.time()
        with self._lock:
            return [cookie for cookie in self._cookies.values() if cookie.expires_at is None or cookie.expires_at > now]

    def get(self, name: str, *, domain: str | None = None) -> Cookie | None:
        """The cookie of that name, if there is one."""
        found = [cookie for cookie in self.all() if cookie.name == name and domain in (None, cookie.domain)]
        return found[0] if found else None

    def clear(self) -> None:
        with self._lock:
            self._cookies.clear()

    def delete(self, name: str) -> None:
        """Forget every cookie of that name."""
        with self._lock:
            self._cookies = {key: cookie for key, cookie in self._cookies.items() if cookie.name != name}

    def put(self, cookie: Cookie) -> None:
        """Store without any of the rules: what a test wants the browser to have."""
        with self._lock:
            self._cookies[cookie.name, cookie.domain, cookie.path] = cookie

    def store(self, url: httpx2.URL, set_cookie: Iterable[str]) -> None:
        """Take in the `Set-Cookie` headers of an answer from *url*, dropping those that a browser refuses."""
        for header in set_cookie:
            cookie = parse_set_cookie(header, url)
            if cookie is not None and _acceptable(cookie, url):
                self.put(cookie)

    def header(
        self, url: httpx2.URL, *, initiator: httpx2.URL | None, navigation: bool = True, method: str = "GET"
    ) -> str:
        """The `Cookie` header of a request to *url* that the page *initiator* starts (None: the user)."""
        foreign = initiator is not None and not same_site(initiator, url)
        allowed = {"strict", "lax", "none"}
        if foreign:
            allowed = {"lax", "none"} if navigation and method == "GET" else {"none"}
        chosen = [c for c in self.all() if c.same_site in allowed and _reaches(c, url)]
        chosen.sort(key=lambda cookie: -len(cookie.path))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in chosen)


def parse_set_cookie(header: str, url: httpx2.URL) -> Cookie | None:
    """Read one `Set-Cookie` value; None where it has no name."""
    pair, *rest = header.split(";")
    name, equals, value = pair.partition("=")
    if not equals:
        return None
    attributes = {key.strip().lower(): text.strip() for key, _, text in (part.partition("=") for part in rest)}
    domain = attributes.get("domain", "").lstrip(".").lower()
    path = attributes.get("path", "")
    return Cookie(
        name=name.strip(),
        value=value.strip(),
        domain=domain or url.host,
        path=path if path.startswith("/") else url.path.rpartition("/")[0] or "/",
        host_only=not domain,
        secure="secure" in attributes,
        http_only="httponly" in attributes,
        same_site=attributes.get("samesite", "lax").lower(),
        expires_at=_expiry(attributes),
    )


def is_loopback(host: str) -> bool:
    """Hosts that browsers trust without TLS."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_site(one: httpx2.URL, other: httpx2.URL) -> bool:
    """The same scheme and registrable domain, taken to be the last two labels of a name."""
    return one.scheme == other.scheme and _site(one.host) == _site(other.host)


def same_origin(one: httpx2.URL, other: httpx2.URL) -> bool:
    """The same scheme, host and port."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _site(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ".".join(host.split(".")[-2:])
    return host


def _expiry(attributes: dict[str, str]) -> float | None:
    if "max-age" in attributes:
        return time.time() + int(attributes["max-age"])
    if "expires" in attributes:
        return parsedate_to_datetime(attributes["expires"]).timestamp()
    return None


def _trusted(url: httpx2.URL) -> bool:
    return url.scheme == "https" or is_loopback(url.host)


def _acceptable(cookie: Cookie, url: httpx2.URL) -> bool:
    name = cookie.name.lower()
    host_prefix = name.startswith("__host-")
    if not cookie.host_only and not _within(url.host, cookie.domain):
        return False
    if (cookie.secure or cookie.same_site == "none") and not (cookie.secure and _trusted(url)):
        return False
    if (host_prefix or name.startswith("__secure-")) and not cookie.secure:
        return False
    if host_prefix and not (cookie.host_only and cookie.path == "/"):
        return False
    return cookie.http_only or not name.startswith(("__host-http-", "__http-"))


def _reaches(cookie: Cookie, url: httpx2.URL) -> bool:
    if cookie.secure and not _trusted(url):
        return False
    if not (url.host == cookie.domain or (not cookie.host_only and _within(url.host, cookie.domain))):
        return False
    return url.path == cookie.path or url.path.startswith(cookie.path.rstrip("/") + "/")


def _within(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")
