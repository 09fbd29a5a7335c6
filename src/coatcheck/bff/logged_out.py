"""`/bff/logged-out`: the browser returns from the authorization server's logout and goes on to where it wanted."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from coatcheck import base64url, codec
from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.once import UsedOnceByAll
from coatcheck.bff.problems import logger
from coatcheck.bff.return_url import checked_return_url
from coatcheck.bff.settings import Settings
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import SealBroken, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.seal import KeyRing

RETURN_LIFETIME = 15 * 60.0
"""Seconds that the authorization server's logout pages may take."""

_PURPOSE = "logout return"


@dataclass(frozen=True, slots=True)
class _Return:
    return_url: str
    until: float
    id: str


_decode_return = codec.decoder(_Return).decode


class LoggedOut:
    """
    Carries a return URL through the authorization server's logout, in its `state`: sealed, and good for one use.

    *shared* remembers for all processes what was used. While it is away nobody can say, and browsers go to the start
    page: they are logged out by then, wherever they land.
    """

    def __init__(self, settings: Settings, ring: KeyRing, shared: ExpiringStore) -> None:
        self._settings = settings
        self._ring = ring.bound_to(settings.cookies.application_id)
        self._used = UsedOnceByAll(shared, self._ring, purpose="used logouts")

    def state(self, return_url: str) -> str:
        """Return the `state` that leads to *return_url*."""
        until = self._settings.clock.time() + RETURN_LIFETIME
        plaintext = codec.encode(_Return(return_url, until, secrets.token_urlsafe(9)))
        return base64url.encode(self._ring.seal(plaintext, purpose=_PURPOSE))

    async def __call__(self, current: CurrentRequest) -> Answer:
        """`/bff/logged-out`: go on to where the state leads, checked again; otherwise to the start page."""
        return redirect(await self._target(current))

    async def _target(self, current: CurrentRequest) -> str:
        home, now = self._settings.home, self._settings.clock.time()
        try:
            sealed = base64url.decode(current.parameter("state") or "")
            way = _decode_return(self._ring.open(sealed, purpose=_PURPOSE))
        except (SealBroken, UnknownSealKey, ValueError):
            return home
        if not await self._first_use(way, now=now):
            return home
        checked = checked_return_url(
            way.return_url, public_url=self._settings.public_url, endpoints=self._settings.endpoints
        )
        return checked or home

    async def _first_use(self, way: _Return, *, now: float) -> bool:
        try:
            return await self._used.use(way.id, now=now, until=way.until)
        except StoreUnavailable as error:
            logger.info("a browser goes to the start page after its logout instead of where it wanted: %s", error)
            return False
