"""The header lines that every answer of ours carries, and the one (HSTS) that every answer through here carries."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import Any

from coatcheck.bff.public_url import PublicURL
from coatcheck.errors import ConfigurationError

Headers = tuple[tuple[bytes, bytes], ...]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PRIVATE: Headers = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
"""What every answer of our own carries: nobody keeps it, guesses at it, embeds it, or learns where it led from."""


def content_security_policy(*more: str, framed_by: str = "'none'") -> Headers:
    """The policy of something that loads nothing, runs nothing and is framed by nobody, but for what is given."""
    directives = ("default-src 'none'", *more, f"frame-ancestors {framed_by}", "base-uri 'none'", "form-action 'none'")
    return ((b"content-security-policy", "; ".join(directives).encode("ascii")),)


def csp_hash(text: str) -> str:
    """The word of a policy that lets one inline script or style, *text*, through (Content Security Policy 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


OURS: Headers = (*PRIVATE, *content_security_policy())
"""`PRIVATE`, for what is no page: redirects, JSON, refusals."""

SHOWN: Headers = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
"""
What a page that somebody looks at carries, too: whoever opened it in a window has no hold of that window.

Redirects and hops must not say so. A page may let its user log in in a window that it opened, and be told of the end by
`window.opener`; one answer with this policy on the way there, even a redirect, takes the opener away for good.
"""

_HSTS = b"strict-transport-security"
_HSTS_LENGTH = len(_HSTS)

HSTS_VALUE = re.compile(r"max-age=[0-9]+(; ?includeSubDomains)?(; ?preload)?", re.ASCII)
"""What may stand in `Strict-Transport-Security` (RFC 6797 section 6.1), and preload lists' own word."""


def hsts_header(policy: timedelta | str | None, public_url: PublicURL) -> Headers:
    """
    Make the `Strict-Transport-Security` line: an age, a whole value, or None for no line.

    There is none on loopback, whatever *policy* says: it holds for all ports of a host, and there others live, too.

    Raises:
        ConfigurationError: *policy* is no such value, or its age is negative.

    RFC 6797, sections 6.1 and 7.2.
    """
    if policy is None:
        return ()
    value = f"max-age={int(policy.total_seconds())}" if isinstance(policy, timedelta) else policy
    if HSTS_VALUE.fullmatch(str(value)) is None:
        raise ConfigurationError(
            f"{policy!r} is neither a period nor a value such as 'max-age=31536000; includeSubDomains'", path="hsts"
        )
    if not public_url.secure or public_url.loopback:
        return ()
    return ((_HSTS, value.encode("ascii")),)


def with_hsts(send: Send, hsts: Headers) -> Send:
    """
    Add *hsts* to the answer that goes through *send*, unless it has such a line already: the application's own stands.

    One place for all answers, so that none is forgotten. It costs a look at the names of one answer's header lines.
    """

    def send_with_hsts(message: MutableMapping[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            for name, _ in headers:
                if len(name) == _HSTS_LENGTH and name.lower() == _HSTS:
                    break
            else:
                message = {**message, "headers": headers}
                headers += hsts
        return send(message)

    return send_with_hsts
