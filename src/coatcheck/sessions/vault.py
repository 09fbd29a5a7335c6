"""How the rows of one application are named, sealed and opened: the middle between a store and its sessions."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from coatcheck import base64url
from coatcheck.codec import decoder, encode
from coatcheck.sessions.seal import KeyRing, framed
from coatcheck.sessions.session import Claims, Session
from coatcheck.sessions.store import Part, SessionRow

TICKET_BYTES = 32
TICKET_LENGTH = 43
"""Characters of a ticket: 32 bytes in base64url."""

_REMEMBERED = 2048
_PURPOSE = "session"
_decode_head = decoder(tuple[str, str, str | None, float]).decode


def _index_key(key: bytes, kind: str, iss: str, value: str) -> bytes:
    return hmac.digest(key, framed((kind.encode(), iss.encode(), value.encode())), "sha256")


class Vault:
    """
    Names, seals and opens rows with *ring*, which it binds to the application.

    What it has opened it remembers for a while, because opening is the dearest step of a request: measured, 20 us for
    claims and tokens together, against 4 with memory. Memory never decides whether a session lives: it is only asked
    about bytes that the store has just returned for this very row and part. Newer bytes take the older ones' place, and
    at most 2,048 parts are remembered.
    """

    def __init__(self, ring: KeyRing, application_id: str) -> None:
        self.application_id = application_id
        self._ring = ring.bound_to(application_id)
        self._index_key = self._ring.derive("session index")
        self._index_keys = self._ring.derive_all("session index")
        self._ticket_domain = framed((b"coatcheck ticket", application_id.encode()))
        self._remembered: dict[tuple[bytes, Part], tuple[bytes, bytes]] = {}

    def key(self, ticket: str) -> bytes:
        """Return the key of a ticket's row. A SHA-256 of 256 random bits cannot be searched, so it needs no salt."""
        return sha256(self._ticket_domain + ticket.encode()).digest()

    def index_key(self, kind: str, iss: str, value: str) -> bytes:
        """Return a keyed hash of a `sub` or `sid`: both are short enough to be found by guessing a plain one."""
        return _index_key(self._index_key, kind, iss, value)

    def index_keys(self, kind: str, iss: str, value: str) -> tuple[bytes, ...]:
        """Return that hash by each key of the ring: a session that began before a key rotation has an older one."""
        return tuple(_index_key(key, kind, iss, value) for key in self._index_keys)

    def seal(self, key: bytes, part: Part, data: bytes) -> bytes:
        """Seal one part of the row *key*. It opens in no other row and as no other part."""
        return self._ring.seal(data, purpose=_PURPOSE, aad=(key, part.encode()))

    def seal_claims(
        self, key: bytes, *, iss: str, sub: str, sid: str | None, expires_at: float, claims: Mapping[str, Any]
    ) -> bytes:
        """
        Seal the claims part: one line that says who it is and until when, then all claims. JSON has no raw line ends.

        The row has *expires_at* beside it, for the store to clean up by, and the store's to change.
        """
        return self.seal(key, "claims", encode((iss, sub, sid, expires_at)) + b"\n" + encode(dict(claims)))

    def open_session(self, row: SessionRow) -> Session:
        """
        Return the session of *row*, its claims not yet decoded.

        Raises `SealBroken`, `UnknownSealKey`, or `DecodeError` when a newer version wrote something else.
        """
        # A new value each time, though the bytes may be remembered: what one request does to a list among its claims
        # must not reach the next request.
        head, _, claims = self._open(row.key, "claims", row.claims).partition(b"\n")
        iss, sub, sid, expires_at = _decode_head(head)
        return Session(
            id=base64url.encode(row.key),
            iss=iss,
            sub=sub,
            sid=sid,
            claims=Claims(claims),
            created_at=row.created_at,
            expires_at=min(row.expires_at, expires_at),
            seen_at=row.seen_at,
            idle_timeout=row.idle_timeout,
        )

    def open_tokens(self, row: SessionRow) -> bytes:
        """Return the tokens of *row*. Raises `SealBroken` or `UnknownSealKey`."""
        return self._open(row.key, "tokens", row.tokens)

    def forget(self, key: bytes) -> None:
        """Forget what was opened of a row that is deleted."""
        self._remembered.pop((key, "claims"), None)
        self._remembered.pop((key, "tokens"), None)

    def _open(self, key: bytes, part: Part, sealed: bytes) -> bytes:
        remembered = self._remembered.get((key, part))
        if remembered is not None and remembered[0] == sealed:
            return remembered[1]
        plaintext = self._ring.open(sealed, purpose=_PURPOSE, aad=(key, part.encode()))
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()  # in one step, so that threads may share it; all of it is soon opened again
        self._remembered[key, part] = (sealed, plaintext)
        return plaintext
