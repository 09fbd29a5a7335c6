"""A grant as it is stored: what the access tokens of one client registration share, those tokens, and its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from coatcheck.codec import DecodeError, encode
from coatcheck.errors import StoreUnavailable
from coatcheck.tokens.values import UserToken

T = TypeVar("T")

_FORMAT = b"\x01"
"""The first byte of what is stored. A later format begins with another byte."""

_MOST_SLOTS = 32
"""Access tokens of one grant, beside that of the login and the newest: each takes a kilobyte or more."""
_KEPT_AFTER_EXPIRY = 60.0
"""Seconds: longer than a renewal takes, which looks for the token that it replaces."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One access token."""

    access_token: str = field(repr=False)
    token_type: str
    issued_at: float
    expires_at: float | None
    scope: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """
    What the access tokens of one client registration share, and those tokens by slot.

    *received_at* is when the refresh token came, 0 in rows of older versions; *expires_at* is its announced end.
    """

    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    dpop_key: str | None = field(default=None, repr=False)
    slots: dict[str, Slot] = field(default_factory=dict, repr=False)
    ended: bool = False
    received_at: float = 0.0
    expires_at: float | None = None

    def token(self, slot_name: str) -> UserToken | None:
        """Return the access token of a slot with what is shared; None when there is nothing to renew it with either."""
        slot = self.slots.get(slot_name)
        if slot is not None:
            return UserToken(
                access_token=slot.access_token,
                token_type=slot.token_type,
                issued_at=slot.issued_at,
                expires_at=slot.expires_at,
                scope=slot.scope,
                refresh_token=self.refresh_token,
                id_token=self.id_token,
                dpop_key=self.dpop_key,
                refresh_token_expires_at=self.expires_at,
            )
        if self.refresh_token is None:
            return None
        return UserToken.from_refresh_token(
            self.refresh_token,
            id_token=self.id_token,
            dpop_key=self.dpop_key,
            issued_at=self.received_at or max((slot.issued_at for slot in self.slots.values()), default=0.0),
            refresh_token_expires_at=self.expires_at,
        )

    def all_tokens(self) -> list[UserToken]:
        """Return the access tokens of all slots, each with what is shared."""
        return [token for name in self.slots if (token := self.token(name)) is not None]

    def with_token(self, slot_name: str, token: UserToken) -> Grant:
        """Put *token* into a slot, and what it brings for all slots into the grant."""
        slot = Slot(token.access_token, token.token_type, token.issued_at, token.expires_at, token.scope)
        slots = {**self._worth_keeping(token.issued_at), slot_name: slot} if token.access_token else self.slots
        return Grant(
            token.refresh_token,
            token.id_token,
            token.dpop_key,
            slots,
            received_at=self.received_at if token.refresh_token == self.refresh_token else token.issued_at,
            expires_at=token.refresh_token_expires_at,
        )

    def without_oldest_slot(self) -> Grant | None:
        """Drop the oldest access token: the refresh token brings another. None when only one is left."""
        if len(self.slots) < 2:
            return None
        oldest = min(self.slots, key=lambda name: self.slots[name].issued_at)
        return replace(self, slots={name: slot for name, slot in self.slots.items() if name != oldest})

    def _worth_keeping(self, now: float) -> dict[str, Slot]:
        """
        Leave out access tokens that nobody asks for any more; whoever does gets a new one by the refresh token.

        An application may ask for a scope of its own in each request. The token of the login stays: it says what was
        granted.
        """
        if self.refresh_token is None:
            return self.slots
        others = [
            name for name, slot in self.slots.items() if name and (slot.expires_at or now) + _KEPT_AFTER_EXPIRY >= now
        ]
        newest = sorted(others, key=lambda name: self.slots[name].issued_at)[-_MOST_SLOTS:]
        return {name: slot for name, slot in self.slots.items() if not name or name in newest}


def is_replaced(stored: UserToken | None, replaces: UserToken) -> bool:
    """Say whether what is *stored* is the token that a renewal *replaces*."""
    return (
        stored is not None
        and stored.access_token == replaces.access_token
        and stored.refresh_token == replaces.refresh_token
    )


def to_bytes(value: object) -> bytes:
    """Return what is stored, before it is sealed."""
    return _FORMAT + encode(value)


def from_bytes(data: bytes, decode: Callable[[bytes], T], *, what: str) -> T:
    """
    Read what `to_bytes` wrote.

    Raises:
        StoreUnavailable: a newer version wrote it, or it is damaged. Nothing may be overwritten.
    """
    if data[:1] != _FORMAT:
        raise StoreUnavailable(
            f"the tokens of this {what} are in format {data[0]}, written by a newer coatcheck: "
            f"finish the update, or let the {what}s run out"
        )
    try:
        return decode(data[1:])
    except DecodeError as error:
        raise StoreUnavailable(f"the tokens of this {what} cannot be read") from error
