"""Who is here: the value that a live session is, and its claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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
