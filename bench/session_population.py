"""The sessions of `bench.sessions`: row by row what the package itself would have written, and known by number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256

from coatcheck import base64url
from coatcheck.sessions import (
    CookiePolicy,
    Cookies,
    KeyRing,
    ServerSideSessions,
    SessionFilter,
    SessionRow,
    SessionStore,
    new_key,
)
from coatcheck.sessions.vault import Vault

ISSUER = "https://idp.example"
POLICY = CookiePolicy("benchben")
PER_SUB = 4
HOUR = 3600.0
LIFETIME, IDLE_TIMEOUT = 36 * HOUR, 12 * HOUR
SEALED_BYTES = 1024
_SEAL = len(Vault(KeyRing([new_key()]), POLICY.application_id).seal(b"", "tokens", b""))
"""Bytes that a seal adds."""

CLAIMS = {
    "name": "Jane Doe",
    "given_name": "Jane",
    "family_name": "Doe",
    "preferred_username": "j.doe",
    "email": "janedoe@example.com",
    "email_verified": True,
    "zoneinfo": "Europe/Berlin",
    "groups": ["sales", "managers"],
}


@dataclass(frozen=True, slots=True)
class Population:
    """
    *size* sessions that are alive at *now* (seconds since the epoch), four of each user; claims and tokens are 1 KiB.

    The four were written far apart. From one hour after *now* on the sessions die evenly over nine hours: those with
    odd numbers end, those with even numbers idle away. None was used within the last two hours, so each would slide.
    """

    size: int
    now: float
    ring: KeyRing = field(default_factory=lambda: KeyRing([new_key()]))

    @property
    def subs(self) -> int:
        """How many users there are."""
        return self.size // PER_SUB

    def rows(self) -> Iterator[SessionRow]:
        """All of them, one after the other."""
        vault = self._vault()
        return (self._row(vault, number) for number in range(self.size))

    def cookies(self, number: int) -> Cookies:
        """What the browser of one session sends."""
        return Cookies({POLICY.session.encode(): _ticket(number).encode()}, set())

    def key(self, number: int) -> bytes:
        return self._vault().key(_ticket(number))

    def sub_key(self, sub: int) -> bytes:
        return self._vault().index_key("sub", ISSUER, _sub(sub))

    def who(self, sub: int) -> SessionFilter:
        """One user, as a logout names them."""
        return SessionFilter(ISSUER, sub=_sub(sub))

    def sid_key(self, number: int) -> bytes:
        return self._vault().index_key("sid", ISSUER, _sid(number))

    def sessions(self, store: SessionStore) -> ServerSideSessions:
        """As a process that has just started: it has opened none of them yet."""
        return ServerSideSessions(
            store,
            self.ring,
            POLICY,
            lifetime=timedelta(seconds=LIFETIME),
            idle_timeout=timedelta(seconds=IDLE_TIMEOUT),
        )

    def when_dead(self, share: float) -> float:
        """The instant at which about this share of all sessions is dead."""
        return self.now + HOUR + share * 9 * HOUR

    def dead(self, share: float) -> int:
        """How many are dead at that instant."""
        return sum(_spread(number) <= share for number in range(self.size))

    def _vault(self) -> Vault:
        return Vault(self.ring, POLICY.application_id)

    def _row(self, vault: Vault, number: int) -> SessionRow:
        dies_at = self.when_dead(_spread(number))
        ends = number % 2 == 1
        expires_at = dies_at if ends else self.now + 24 * HOUR
        key, sub, sid = vault.key(_ticket(number)), _sub(number % self.subs), _sid(number)
        claims = vault.seal_claims(key, iss=ISSUER, sub=sub, sid=sid, expires_at=expires_at, claims=CLAIMS)
        return SessionRow(
            key=key,
            partition=POLICY.application_id,
            claims=claims,
            claims_version=1,
            tokens=vault.seal(key, "tokens", b"t" * (SEALED_BYTES - len(claims) - _SEAL)),
            tokens_version=1,
            created_at=expires_at - LIFETIME,
            expires_at=expires_at,
            seen_at=self.now - 2 * HOUR if ends else dies_at - IDLE_TIMEOUT,
            idle_timeout=IDLE_TIMEOUT,
            sub_key=vault.index_key("sub", ISSUER, sub),
            sid_key=vault.index_key("sid", ISSUER, sid),
        )


def _ticket(number: int) -> str:
    return base64url.encode(sha256(b"%d" % number).digest())


def _spread(number: int) -> float:
    """A number between zero and one: all of them evenly, and in no order."""
    return number * 2654435761 % 2**32 / 2**32


def _sub(number: int) -> str:
    return f"user-{number}"


def _sid(number: int) -> str:
    return f"session-at-the-provider-{number}"
