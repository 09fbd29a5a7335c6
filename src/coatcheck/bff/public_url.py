"""The address by which browsers know the application: the only source of origins, redirect URIs and `htu`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from coatcheck.errors import ConfigurationError
from coatcheck.oauth import url


@dataclass(frozen=True, slots=True)
class PublicURL:
    """*origin* has no trailing slash and is written as a browser writes it; *path* is empty or `/shop`."""

    origin: str
    path: str
    loopback: bool

    @property
    def secure(self) -> bool:
        """Whether browsers reach the application by https."""
        return self.origin.startswith("https://")

    @property
    def authorities(self) -> tuple[str, ...]:
        """Host and port as they may stand in a `Host` header: the default port may be written out."""
        scheme, _, authority = self.origin.partition("://")
        if re.search(r":\d+$", authority):
            return (authority,)
        return authority, f"{authority}:{443 if scheme == 'https' else 80}"

    def absolute(self, path: str) -> str:
        """The whole URL of *path*, which starts with `/` inside the application."""
        return self.origin + self.path + path

    def hides(self, path: str) -> bool:
        """Whether a route at *path* would never be found behind a proxy that takes our own path off by itself."""
        return bool(self.path) and (path == self.path or path.startswith(self.path + "/"))

    def strip(self, path: str) -> str:
        """Take our own path off *path* if it is there; a proxy in front may have done so already."""
        if not self.path:
            return path
        if path == self.path:
            return "/"
        return path[len(self.path) :] if path.startswith(self.path + "/") else path


def path_with_query(path: str, members: Mapping[str, object]) -> str:
    """*path* with those *members* as its query that are not None, in their order."""
    query = urlencode({name: value for name, value in members.items() if value is not None})
    return f"{path}?{query}" if query else path


def parse_public_url(text: str) -> PublicURL:
    """
    Read and check `public_url`.

    Raises:
        ConfigurationError: it is not an absolute https URL (or http on a loopback host) made of origin and plain path.

    RFC 6749 3.1.2 and RFC 9700 2.6: redirect URIs are https, absolute and without fragment.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(text, "is not a URL") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or text != text.strip():
        raise _wrong(text, "is not an absolute http(s) URL")
    if parts.query or parts.fragment or parts.username is not None or text.endswith(("?", "#")):
        raise _wrong(text, "must not have a query, a fragment or a user")
    if not _HOST.fullmatch(parts.hostname):
        raise _wrong(text, "must name its host in ASCII letters (an internationalised name in its xn-- form)")
    path = parts.path.rstrip("/")
    if path and not _PATH.fullmatch(path):
        raise _wrong(text, "must have a plain path: letters, digits, '-', '_', '.', '~' between single slashes")
    loopback = is_loopback(parts.hostname)
    if parts.scheme == "http" and not loopback:
        raise _wrong(text, "must be https: cookies and codes do not travel in clear (http is for localhost only)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default_port = 443 if parts.scheme == "https" else 80
    suffix = "" if port is None or port == default_port else f":{port}"
    return PublicURL(f"{parts.scheme}://{host}{suffix}", path, loopback)


def is_loopback(host: str) -> bool:
    """Whether *host* can only mean this machine: to browsers the names below `.localhost` do, too (RFC 6761 6.3)."""
    return host.endswith(".localhost") or url.is_loopback(host)


def _wrong(text: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} {what}. Give the address that stands in the browser's address bar, "
        "such as https://app.example.com or http://localhost:8000.",
        path="public_url",
    )


_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+")
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
