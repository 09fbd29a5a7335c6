"""What is refused at the door, whatever it asks for: strangers in development mode, and requests with two readings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from coatcheck.bff.public_url import is_loopback
from coatcheck.bff.refusals import Refused

Headers = Iterable[tuple[bytes, bytes]]


def keep_to_loopback(scope: Mapping[str, Any], *, origin: str) -> None:
    """
    Let only requests in that arrived on this machine's own addresses, and that asked for this machine.

    The address alone is not enough. A site may let its own name point to 127.0.0.1; then its page and this server are
    one origin to the browser, and only the `Host` header still tells them apart (DNS rebinding).

    Raises:
        Refused: for development mode only; elsewhere neither address nor `Host` means anything.
    """
    server = scope.get("server")
    if server and server[0] and not server[0].startswith("/") and not _is_here(server[0]):
        raise Refused(
            "not_on_loopback",
            f"A request arrived at {server[0]}, but public_url is on localhost: that is development mode, which "
            "answers on loopback addresses only.",
            "Bind the server to 127.0.0.1; or set public_url to the real https address, and give keys and a session "
            "store.",
        )
    for name, value in scope["headers"]:
        if name == b"host" and not _is_here(_PORT.sub("", value.decode("latin-1"))):
            raise Refused(
                "not_on_loopback",
                f"A request asked for the host {value.decode('latin-1')[:100]!r}, but public_url is on localhost: that "
                "is development mode, which answers to localhost and loopback addresses only.",
                f"Open {origin}. If it was not you, a page of another site tries to reach this server.",
            )


def refuse_two_readings(headers: Headers) -> None:
    """
    Let nothing pass to us or to an application that ends, or is meant for somebody, in two ways.

    Remote APIs have their own check. Not every server refuses these by itself: uvicorn goes by `Transfer-Encoding` and
    serves what follows as the next request, while a proxy in front may have gone by `Content-Length`.

    Raises:
        Refused: more than one `Host`, or both kinds of framing.

    RFC 9112, sections 3.2 and 6.3.
    """
    hosts, framings = 0, set()
    for name, _ in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length" or name == b"transfer-encoding":
            framings.add(name)
    if hosts > 1:
        raise Refused("host_refused", f"A request names {hosts} hosts.", _CORRECT)
    if len(framings) > 1:
        raise Refused("header_refused", "A request has both content-length and transfer-encoding.", _CORRECT)


def _is_here(host: str) -> bool:
    """Whether *host* can only mean this machine. Asked at every request, so it is remembered."""
    known = _known_hosts.get(host)
    if known is None:
        if len(_known_hosts) >= _MAX_KNOWN_HOSTS:
            _known_hosts.clear()
        known = is_loopback(host.lower().removeprefix("[").removesuffix("]"))
        if len(host) <= _LONGEST_KNOWN_HOST:
            _known_hosts[host] = known
    return known


_known_hosts: dict[str, bool] = {}
_MAX_KNOWN_HOSTS = 64
_LONGEST_KNOWN_HOST = 255
_PORT = re.compile(r":[0-9]*\Z")
_CORRECT = "Correct the caller, or the proxy in front. Somebody may be trying to smuggle a request."
