"""What a session in cookies is made of, inside the seal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coatcheck.codec import decoder, encode
from coatcheck.sessions.session import Claims, Session


@dataclass(frozen=True, slots=True)
class Head:
    """
    What stands before the claims and the tokens. Instants are seconds since the epoch.

    *tokens_version* is the generation of the tokens: 1 at login, and one more with each renewal. *pending* says that
    these very tokens may still wait in the coordination store (see `pending.py`).
    """

    id: str = field(repr=False)
    iss: str
    sub: str
    sid: str | None
    created_at: float
    expires_at: float
    seen_at: float
    idle_timeout: float
    tokens_version: int
    pending: bool = False

    @property
    def dead_at(self) -> float:
        """The instant from which this session is no session, unless it is used before."""
        return min(self.expires_at, self.seen_at + self.idle_timeout)


_decode_head = decoder(Head).decode


@dataclass(frozen=True, slots=True)
class Contents:
    """All that is sealed. The first two are JSON, which has no raw line ends; the tokens may hold any bytes."""

    head: Head
    claims: bytes = field(repr=False)
    tokens: bytes = field(repr=False)

    def plaintext(self) -> bytes:
        """Return what is to be sealed; `read` is the way back."""
        return b"\n".join((encode(self.head), self.claims, self.tokens))

    def with_tokens(self, tokens: bytes, *, generation: int) -> Contents:
        """Return the same session with *tokens* that wait in the coordination store."""
        return replace(self, head=replace(self.head, tokens_version=generation, pending=True), tokens=tokens)

    def session(self) -> Session:
        """Return who is here. A new value each time: what a request does to the claims is its own business."""
        head = self.head
        return Session(
            id=head.id,
            iss=head.iss,
            sub=head.sub,
            sid=head.sid,
            claims=Claims(self.claims),
            created_at=head.created_at,
            expires_at=head.expires_at,
            seen_at=head.seen_at,
            idle_timeout=head.idle_timeout,
        )


def read(plaintext: bytes) -> Contents:
    """Take the plaintext apart; raises `DecodeError` for what another version may have written."""
    head, _, rest = plaintext.partition(b"\n")
    claims, _, tokens = rest.partition(b"\n")
    return Contents(_decode_head(head), claims, tokens)
