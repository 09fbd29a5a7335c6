"""Who is here: the value that a live session is, its claims, and what can be said of sessions from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from coatcheck.audit import session_reference, user_reference
from coatcheck.codec import decoder

_decode_members = decoder(dict[str, Any]).decode


class Claims(Mapping[str, Any]):
    """
    The claims of a session, read-only, decoded from JSON when first looked at.

    Most requests go to a remote API and need the token, not the claims; those never pay for the decoding.
    """

    __slots__ = ("_json", "_members")

    def __init__(self, json: bytes) -> None:
        self._json = json
        self._members: dict[str, Any] | None = None

    def _decoded(self) -> dict[str, Any]:
        members = self._members
        if members is None:
            members = self._members = _decode_members(self._json)
        return members

    def __getitem__(self, name: str) -> Any:
        return self._decoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())

    def __repr__(self) -> str:
        return f"<Claims, {len(self._json)} bytes>"


class Session(NamedTuple):
    """
    One login of one user in one browser, as it was when it was loaded.

    *id* names the session inside the server: it is derived from the ticket and cannot be turned back into it. It is fit
    for a dictionary key; do not write it to a log in full. Instants are seconds since the epoch; *expires_at* is the
    absolute end, which nothing moves; *seen_at* is the last use that counted, and *idle_timeout* (seconds) is how long
    the session outlives it.

    A named tuple, because one is made for each request and a frozen dataclass takes three times as long to make.
    """

    id: str
    iss: str
    sub: str
    sid: str | None
    claims: Mapping[str, Any]
    created_at: float
    expires_at: float
    seen_at: float
    idle_timeout: float

    def __repr__(self) -> str:
        return f"Session(iss={self.iss!r}, sub={self.sub!r}, sid={self.sid!r}, expires_at={self.expires_at!r})"

    @property
    def dead_at(self) -> float:
        """The instant from which this session is no session, unless it is used before."""
        return min(self.expires_at, self.seen_at + self.idle_timeout)

    @property
    def issued_at(self) -> float:
        """When the id_token of the login was issued, by the clock of the authorization server (`iat`)."""
        issued_at = self.claims.get("iat")
        return float(issued_at) if isinstance(issued_at, int | float) else self.created_at

    @property
    def references(self) -> dict[str, str]:
        """What the audit log says of a session: whose it is and which, without saying it."""
        return {"iss": self.iss, "session": session_reference(self.id), "user": user_reference(self.iss, self.sub)}


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """
    The sessions of one issuer that are about *sub*, or that its session *sid* led to; with both, both have to fit.

    Raises:
        ValueError: neither is given, or one of them is empty. All sessions of an issuer cannot be meant: nothing finds
            them; and no user and no session is called nothing.
    """

    iss: str
    sub: str | None = None
    sid: str | None = None

    def __post_init__(self) -> None:
        if "" in (self.sub, self.sid) or (self.sub is None and self.sid is None):
            raise ValueError("say whose sessions: give sub, sid, or both")


EndReason: TypeAlias = Literal[
    "logout",
    "backchannel_logout",
    "frontchannel_logout",
    "revoked",
    "replaced",
    "user_switched",
    "grant_ended",
    "expired",
]
"""
What ended a session: the user, the authorization server (by either channel), an administrator or a job, another login
of this browser by the same user or by another one, the end of the user's grant, or time.
"""
