"""What must not be seen anywhere, known from the wire, and a search for it however it might be written."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from itertools import product
from urllib.parse import quote, quote_plus, unquote_plus

from tests.rig.wiretap import Wiretap

Canaries = Mapping[str, Collection[str]]
"""Kind of secret to the values that really occurred."""

_SAID_TO_PROVIDER = {
    "state": rb"[?&]state=([^& \r\n]+)",
    "nonce": rb"[?&]nonce=([^& \r\n]+)",
    "code": rb"&code=([^&\s]+)",
    "code_verifier": rb"code_verifier=([^&\s]+)",
    "refresh token": rb"refresh_token=([^&\s]+)",
    "authorization": rb"(?i)\r\nauthorization: \S+ (\S+)",
}
_ANSWERED_BY_PROVIDER = {
    "access token": rb'"access_token": ?"([^"]+)"',
    "refresh token": rb'"refresh_token": ?"([^"]+)"',
    "id_token": rb'"id_token": ?"([^"]+)"',
    "code": rb"[?&]code=([^& \r\n]+)",
}
_SAID_TO_APPLICATION = {
    "code": rb"/bff/callback\?(?:\S*&)?code=([^& ]+)",
    "state": rb"[?&]state=([^& \r\n]+)",
    "logout sid": rb"/bff/logout\?sid=([^& ]+)",
    "logout token": rb"logout_token=([^&\s]+)",
}
_ANSWERED_BY_APPLICATION = {
    "login cookie": rb"(?i)\r\nset-cookie: [^=\r\n]+-login-[^=\r\n]+=([^;\r\n]+)",
    "session cookie": rb"(?i)\r\nset-cookie: (?:(?!-login-)[^=\r\n])+=([^;\r\n]+)",
}
_PROBE = "A" * 43
"""`state` and `nonce` of the question whether the redirect URI is registered: nobody's, and always the same."""


def overheard(provider: Wiretap, application: Wiretap) -> dict[str, set[str]]:
    """Every secret that went over the two lines: between anybody and the provider, and from the browser to us."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for patterns, messages in (
        (_SAID_TO_PROVIDER, provider.requests),
        (_ANSWERED_BY_PROVIDER, provider.answers),
        (_SAID_TO_APPLICATION, application.requests),
        (_ANSWERED_BY_APPLICATION, application.answers),
    ):
        for message, (kind, pattern) in product(messages, patterns.items()):
            found[kind] |= {unquote_plus(value.decode("latin-1")) for value in re.findall(pattern, bytes(message))}
    for kind in ("id_token", "logout token"):
        for token in [token for token in found[kind] if token.count(".") == 2]:
            _, payload, signature = token.split(".")
            found[kind] |= {payload, signature}  # its claims and its signature tell as much
            found["sid of the provider"].add(json.loads(base64.urlsafe_b64decode(payload + "=="))["sid"])
    found["logout token"] -= found["access token"] | found["refresh token"] | found["id_token"]  # sent in its place
    for kind in ("state", "nonce"):
        found[kind].discard(_PROBE)
    return dict(found)


def leaks(canaries: Canaries, text: bytes, *, allowed: Iterable[str] = ()) -> list[str]:
    """The kinds of secrets that *text* holds in any spelling, but for those that are *allowed* there."""
    return sorted(
        kind
        for kind, values in canaries.items()
        if kind not in set(allowed) and any(spelling in text for value in values for spelling in spellings(value))
    )


def spellings(secret: str) -> set[bytes]:
    """The ways to write *secret* that a log, a page or a file might have."""
    raw = secret.encode()
    assert len(raw) >= 8, f"{secret!r} is too short to be told from chance"
    found = {
        raw,
        quote(secret, safe="").encode(),
        quote_plus(secret).encode(),
        base64.b64encode(raw).rstrip(b"="),
        base64.urlsafe_b64encode(raw).rstrip(b"="),
        raw.hex().encode(),
    }
    with suppress(ValueError):  # what the secret itself spells: a ticket's 32 bytes, a Basic header's client secret
        found.add(base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True))
    with suppress(ValueError):
        found.add(base64.b64decode(secret + "=" * (-len(secret) % 4), validate=True))
    return found
