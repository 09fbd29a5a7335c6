"""Which URLs this package will talk to: https everywhere, http only where no network is crossed."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


def check_url(url: str, *, query: bool = False, loopback_http: bool = True) -> None:
    """
    Refuse a URL that is unsafe to send secrets to, or that two parsers may read differently.

    Accepted: `https://host[:port][/path]`, with a query only when *query* is true; `http://` for a loopback host,
    unless *loopback_http* is false.

    Raises:
        ValueError: says what is wrong with it, as the end of a sentence that begins with the URL's name.

    RFC 8414 section 2, RFC 6749 sections 3.1 and 3.2.
    """
    if not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        raise ValueError(f"is {shown(url)!r}: only visible ASCII characters without backslash may stand in a URL")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"is {shown(url)!r}, which is not a URL") from None
    if not host or not url.startswith(("https://", "http://")):
        raise ValueError(f"is {shown(url)!r}: expected https://HOST/...")
    if parts.scheme == "http" and not (loopback_http and is_loopback(host)):
        raise ValueError(f"is {shown(url)!r}: it must be https (http is for loopback addresses only)")
    if "@" in parts.netloc:
        raise ValueError("has user information before the host: remove it")
    if "#" in url:
        raise ValueError(f"is {shown(url)!r}: remove the fragment")
    if "?" in url and not query:
        raise ValueError(f"is {shown(url)!r}: remove the query")


def shown(url: str) -> str:
    """Return *url* as it may stand in a message: without user information and query, where people write secrets."""
    before, at, after = url.rpartition("@")
    if at:
        url = f"{before.partition(':')[0]}://...@{after}"
    address, mark, _ = url.partition("?")
    return f"{address}?..." if mark else address


def is_loopback(host: str) -> bool:
    """Say whether *host* (a name or an address, without port and brackets) never leaves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
