"""May a refresh token be sent again of which nobody knows what became of it? The profile says, or what was learned."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coatcheck import codec
from coatcheck.clock import Clock
from coatcheck.coordination import ExpiringStore, SentMark
from coatcheck.errors import SealBroken, StaleVersion, StoreUnavailable, UnknownSealKey
from coatcheck.oauth.client import Client
from coatcheck.oauth.rotation import Rotation, RotationKind, parse_rotation
from coatcheck.sessions.seal import KeyRing
from coatcheck.tokens.grant_names import GrantNames

_log = logging.getLogger("coatcheck")

_REMEMBERED = 90 * 24 * 3600.0
"""Seconds for which it stays known that refresh tokens of a registration are kept."""
_PURPOSE = "rotation profile"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is stored: refresh tokens were kept, which is believed until an instant (seconds since the epoch)."""

    until: float


_decode_kept = codec.decoder(_Kept).decode


def may_send_again(profile: Rotation, mark: SentMark, *, now: float) -> bool:
    """
    Say whether a refresh token may be sent again after *mark*, whose answer nobody knows.

    A provider's grace begins when it handles the first request, so not before that one was sent. Its last tenth is left
    for the second request to arrive in, and for clocks that differ.

    RFC 9700 section 4.14.2.
    """
    match profile.kind:
        case RotationKind.NONE:
            return True
        case RotationKind.GRACE:
            return mark.sends < 2 and mark.sent_at <= now < mark.sent_at + profile.grace * 0.9
    return False


class RotationProfiles:
    """
    The rotation profile of each registration. What is learned is shared, so that a process which starts anew knows it.

    *names* names a registration in *store*, once for each key of *ring*. What is written there is sealed: whoever could
    write "refresh tokens are kept" for a provider that spends them would have one sent twice, which ends its grant.
    """

    def __init__(self, store: ExpiringStore, names: GrantNames, ring: KeyRing, *, clock: Clock) -> None:
        self._store = store
        self._names = names
        self._ring = ring
        self._clock = clock
        self._configured: dict[str, Rotation] = {}
        self._kept: dict[tuple[str, str], bool] = {}

    def known(self, client: Client) -> Rotation:
        """Return the profile as far as this process knows it."""
        profile = self._configured.get(client.rotation)
        if profile is None:
            profile = self._configured[client.rotation] = parse_rotation(client.rotation)
        if profile.kind is RotationKind.LEARN and self._kept.get(_name(client)):
            return Rotation(RotationKind.NONE)
        return profile

    async def profile(self, client: Client) -> Rotation:
        """
        Return the profile, with what other processes have learned.

        Raises:
            StoreUnavailable: nobody can say what they have learned.
        """
        known = self.known(client)
        if known.kind is not RotationKind.LEARN or _name(client) in self._kept:
            return known
        kept = [await self._believes(name) for name in self._names.registration(client)]
        return Rotation(RotationKind.NONE) if any(kept) else known

    async def learn(self, client: Client, *, kept: bool) -> None:
        """Note whether a refresh has kept its refresh token. Only news are written down; a failure costs only them."""
        name = _name(client)
        if self.known(client).kind is RotationKind.LEARN or name in self._kept:
            news = self._kept.get(name) != kept
            self._kept[name] = kept
            if news:
                try:
                    await self._write(client, kept=kept)
                except StoreUnavailable as error:
                    self._kept.pop(name)  # the next refresh tries again
                    _log.debug("what was learned about refresh tokens of %s is not written: %s", client.issuer, error)

    async def _believes(self, name: bytes) -> bool:
        """Say whether it was learned, and by us, that refresh tokens are kept. What cannot be opened says nothing."""
        found = await self._store.get(name)
        if found is None:
            return False
        try:
            kept = _decode_kept(self._ring.open(found.value, purpose=_PURPOSE, aad=(name,)))
        except (SealBroken, UnknownSealKey, codec.DecodeError):
            return False
        return self._clock.time() < kept.until

    async def _write(self, client: Client, *, kept: bool) -> None:
        key = self._names.registration(client)[0]
        until = self._clock.time() + _REMEMBERED
        sealed = self._ring.seal(codec.encode(_Kept(until)), purpose=_PURPOSE, aad=(key,))
        if not kept:
            for each in self._names.registration(client):
                await self._store.discard(each)
        elif not await self._store.add(key, sealed, until=until):
            held = await self._store.get(key)
            if held is not None:
                try:
                    await self._store.replace(key, sealed, version=held.version, until=until)
                except StaleVersion:
                    return  # another process has just written the same


def _name(client: Client) -> tuple[str, str]:
    return client.issuer, client.client_id
