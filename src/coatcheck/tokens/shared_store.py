"""
One grant per user, for every process that asks: the tokens of command-line tools, agents and services.

A grant is one sealed value of an `ExpiringStore`, changed by compare-and-swap. Its name there is a keyed hash, and the
keys rotate as in `sessions/seal.py`: during a deploy some nodes have the keys A, some A and B, some B and A. So a login
writes under the name of the first key, everything else looks under the names of all keys, in an order on which all
nodes agree, and writes where it found something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.codec import decoder
from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.errors import SealBroken, SessionGone, StaleToken, StaleVersion, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.seal import KeyRing, framed
from coatcheck.tokens.stored_grants import Grant, from_bytes, is_replaced, to_bytes
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters

GRANT_LIFETIME = timedelta(days=90)
"""How long a grant is kept from its login on, if nothing else is said."""

_PURPOSE = "shared grant"
_WRITE_ATTEMPTS = 5
_MOST_BYTES = 60 * 1024
"""An expiring value may have 64 KiB, sealed."""
_CLEARED_SECONDS = 600.0
"""How long a cleared grant leaves a trace: longer than any writer that read it before can hold its breath."""


@dataclass(frozen=True, slots=True)
class _SharedGrant:
    """What is stored. Without a *grant* it was cleared; the trace keeps version numbers from being used twice."""

    expires_at: float
    grant: Grant | None = None


_decode = decoder(_SharedGrant).decode


@dataclass(frozen=True, slots=True)
class _Found:
    """A value under one of the names that a grant may have, not yet opened."""

    name: bytes
    value: ExpiringValue


@dataclass(frozen=True, slots=True)
class _Held:
    """A grant that was not cleared, and where it was found."""

    found: _Found
    expires_at: float
    grant: Grant


class SharedUserTokenStore:
    """
    Keeps one grant per user and client registration, whatever the number of sessions, processes and nodes that use it.

    *store* is any `ExpiringStore`, for instance a `SQLiteStore` for the processes of one machine. Everything in it is
    sealed with *keys*: the first seals, all open; drop an old key a *lifetime* after it was the first. The *lifetime*
    of a grant counts from its login; a renewal does not prolong it. A user needs no session: `User(iss, sub)` will do.

    A grant is found by the user and the *name* of the client registration. Tools that are different registrations and
    have the same store and keys must not give both the name `default`, or each would use the tokens of the other: call
    them by different names, or bind the keys, `KeyRing(keys).bound_to("name of the tool")`.
    """

    def __init__(
        self,
        store: ExpiringStore,
        keys: Sequence[str] | KeyRing,
        *,
        lifetime: timedelta = GRANT_LIFETIME,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        self._lifetime = lifetime.total_seconds()
        self._clock = clock
        self._first_hash_key = self._ring.derive(_PURPOSE)
        self._hash_keys = self._ring.derive_all(_PURPOSE)

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        """See `UserTokenStore.get_token`."""
        held = await self._find(user, parameters.client)
        return None if held is None else held.grant.token(parameters.slot)

    async def all_tokens(self, user: User, client: str) -> list[UserToken]:
        """Return every token that the user has of the registration *client*."""
        held = await self._find(user, client)
        return [] if held is None else held.grant.all_tokens()

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        """See `UserTokenStore.store_token`. Raises `SessionGone` when the grant was cleared meanwhile."""
        for _ in range(_WRITE_ATTEMPTS):
            try:
                if replaces is None:
                    return await self._log_in(user, token, parameters)
                return await self._renew(user, token, parameters, replaces)
            except StaleVersion:
                continue  # another slot was written, or somebody logged in or out: look again
        raise StoreUnavailable(f"the grant was changed {_WRITE_ATTEMPTS} times while writing it")

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        """See `UserTokenStore.clear_token`. For every session and process that shares the grant."""
        for _ in range(_WRITE_ATTEMPTS):
            try:
                return await self._clear(user, parameters.client)
            except StaleVersion:
                continue
        raise StoreUnavailable(f"the grant was changed {_WRITE_ATTEMPTS} times while clearing it")

    async def _log_in(self, user: User, token: UserToken, parameters: UserTokenRequestParameters) -> None:
        """
        Replace whatever is there, readable or not, and move to the name of the key that is the first now.

        Others remove only what they have seen: of two logins under different names one always stays.
        """
        found = [each for name in self._names(user, parameters.client) if (each := await self._get(name))]
        home = self._name(self._first_hash_key, user, parameters.client)
        here = next((each for each in found if each.name == home), None)
        grant = Grant().with_token(parameters.slot, token)
        shared = _SharedGrant(self._clock.time() + self._lifetime, grant)
        if here is not None:
            await self._replace(here, shared)
        elif not await self._store.add(home, self._sealed(home, shared), until=shared.expires_at):
            raise StaleVersion("somebody else logged in first")
        for other in found:
            if other.name != home:
                await self._store.discard(other.name, version=other.value.version)

    async def _renew(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, replaces: UserToken
    ) -> None:
        held = await self._find(user, parameters.client)
        if held is None:
            raise SessionGone("the grant was cleared or has run out: nothing was written")
        if not is_replaced(held.grant.token(parameters.slot), replaces):
            raise StaleToken("another token is stored than the one to be replaced")
        grant = held.grant.with_token(parameters.slot, token)
        await self._replace(held.found, _SharedGrant(held.expires_at, grant))

    async def _clear(self, user: User, client: str) -> None:
        trace = _SharedGrant(self._clock.time() + _CLEARED_SECONDS)
        for name in self._names(user, client):
            if found := await self._get(name):
                await self._replace(found, trace)

    async def _find(self, user: User, client: str) -> _Held | None:
        for name in self._names(user, client):
            found = await self._get(name)
            shared = None if found is None else self._opened(found)
            # The end that is sealed counts, too: the one beside it is the database's to change.
            if found and shared and shared.grant is not None and self._clock.time() < shared.expires_at:
                return _Held(found, shared.expires_at, shared.grant)
        return None

    async def _get(self, name: bytes) -> _Found | None:
        value = await self._store.get(name)
        return None if value is None else _Found(name, value)

    async def _replace(self, found: _Found, shared: _SharedGrant) -> None:
        sealed = self._sealed(found.name, shared)
        await self._store.replace(found.name, sealed, version=found.value.version, until=shared.expires_at)

    def _opened(self, found: _Found) -> _SharedGrant | None:
        try:
            data = self._ring.open(found.value.value, purpose=_PURPOSE, aad=(found.name,))
        except SealBroken:
            return None
        except UnknownSealKey as error:
            raise StoreUnavailable(f"the tokens of this user were {error}") from error
        return from_bytes(data, _decode, what="grant")

    def _sealed(self, name: bytes, shared: _SharedGrant) -> bytes:
        data = to_bytes(shared)
        while len(data) > _MOST_BYTES:
            smaller = shared.grant and shared.grant.without_oldest_slot()
            if smaller is None:
                raise StoreUnavailable(f"the tokens of this user need more than {_MOST_BYTES} bytes")
            shared = _SharedGrant(shared.expires_at, smaller)
            data = to_bytes(shared)
        return self._ring.seal(data, purpose=_PURPOSE, aad=(name,))

    def _names(self, user: User, client: str) -> tuple[bytes, ...]:
        return tuple(self._name(key, user, client) for key in self._hash_keys)

    def _name(self, hash_key: bytes, user: User, client: str) -> bytes:
        what = framed((_PURPOSE.encode(), user.iss.encode(), user.sub.encode(), client.encode()))
        return hashlib.blake2b(what, digest_size=32, key=hash_key).digest()
