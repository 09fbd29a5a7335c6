"""An authorization server as the rest of the house sees it: its metadata and keys, fetched when needed and kept."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, InvalidLogoutToken, InvalidMetadata, UnknownKey
from coatcheck.oauth import id_token as id_tokens
from coatcheck.oauth.client import Client
from coatcheck.oauth.jwks import KeySet, jwks_request, parse_jwks
from coatcheck.oauth.logout_token import LogoutToken, read_logout_token
from coatcheck.oauth.messages import Request
from coatcheck.oauth.metadata import Metadata, discover
from coatcheck.single_flight import SingleFlight
from coatcheck.transport import Send, arun

T = TypeVar("T")

FRESH_FOR = timedelta(hours=1)
"""How long metadata and keys are used without asking again."""
USABLE_FOR = timedelta(hours=24)
"""How long they are used while the authorization server does not answer."""
RETRY_INTERVAL = timedelta(seconds=5)
"""After a failure nobody asks again for this long: a server that comes back must not meet a storm."""
RETRY_INTERVAL_WHILE_KEPT = timedelta(seconds=60)
"""The same while something usable is kept: there is no hurry, and each attempt may make callers wait."""
REFETCH_INTERVAL = timedelta(seconds=30)
"""Unknown key ids cause at most one fetch in this time, however many tokens with invented ones arrive."""

logger = logging.getLogger("coatcheck")


class AuthorizationServer:
    """
    The authorization server of one client registration.

    Everything is asked of the configured issuer and of the URLs in its own metadata; nothing in a token or a request
    leads anywhere else. One object may serve several event loops.
    """

    def __init__(self, client: Client, send: Send, clock: Clock) -> None:
        self.client = client
        self._send = send
        self._clock = clock
        self._metadata = _LastGood(f"metadata of {client.issuer}", self._fetch_metadata, clock)
        self._keys = _LastGood(f"key set of {client.issuer}", self._fetch_keys, clock)

    async def metadata(self) -> Metadata:
        """
        Return the metadata: kept for an hour, for a day while the server is down.

        Raises:
            TransportError: the server cannot be reached and nothing usable is kept.
            InvalidMetadata: its document cannot be used, for instance because it names another issuer.

        RFC 8414, section 3; OpenID Connect Discovery 1.0, section 4.
        """
        return await self._metadata.get()

    async def keys(self) -> KeySet:
        """
        Return the key set: kept for an hour, for a day while the server is down, replaced as a whole.

        Raises:
            TransportError, InvalidMetadata: as `metadata`.

        OpenID Connect Core 1.0, section 10.1.1.
        """
        return await self._keys.get()

    async def verify_id_token(
        self,
        id_token: str,
        *,
        nonce: str | None,
        at_login: bool,
        access_token: str | None = None,
        max_age: float | None = None,
        acr_values: str | None = None,
    ) -> dict[str, Any]:
        """
        Verify an ID token with the server's keys; the parameters are those of `oauth.id_token.verify_id_token`.

        A key id that is not in the kept key set may be new: the set is fetched once more, at most every 30 s.

        Raises:
            InvalidIDToken: a check failed.
            TransportError, InvalidMetadata: the keys cannot be had, so nothing was verified.
        """

        def verify(keys: KeySet) -> dict[str, Any]:
            return id_tokens.verify_id_token(
                id_token,
                keys=keys,
                issuer=self.client.issuer,
                client_id=self.client.client_id,
                algorithms=self.client.id_token_signed_response_alg,
                nonce=nonce,
                now=self._clock.time(),
                at_login=at_login,
                access_token=access_token,
                max_age=max_age,
                acr_values=acr_values,
            )

        return await self._by_keys(verify)

    async def verify_logout_token(self, logout_token: str) -> LogoutToken:
        """
        Verify a logout token with the server's keys. Nothing is fetched for one that is wrong in any other way.

        A key id that is not in the kept key set may be new, as in `verify_id_token`.

        Raises:
            InvalidLogoutToken: a check failed; `reason` says which one.
            TransportError, InvalidMetadata: the keys cannot be had, so nothing was verified.

        OpenID Connect Back-Channel Logout 1.0, section 2.6.
        """
        unverified = read_logout_token(
            logout_token,
            issuer=self.client.issuer,
            client_id=self.client.client_id,
            algorithms=self.client.id_token_signed_response_alg,
            now=self._clock.time(),
            require_exp=not self.client.logout_token_without_exp,
        )
        try:
            return await self._by_keys(unverified.verified_by)
        except UnknownKey as error:
            raise InvalidLogoutToken(str(error), reason="unknown_key") from None

    async def front_channel_status(self, url: str) -> int:
        """
        Return the status with which the server answers a URL that is meant for browsers, asked without cookies.

        Raises:
            TransportError: no answer came.
        """
        return (await self._send(Request("GET", url, {"accept": "text/html"}))).status

    async def aclose(self) -> None:
        """Wait for the fetches under way in this event loop."""
        await self._metadata.drain()
        await self._keys.drain()

    async def _by_keys(self, verify: Callable[[KeySet], T]) -> T:
        """Return what *verify* makes of a token; when its key is unknown, of newer keys, if they may be had by now."""
        keys = await self._keys.get()
        with suppress(UnknownKey):
            return verify(keys)
        return verify(await self._keys.newer_than(keys))

    async def _fetch_metadata(self) -> Metadata:
        return await arun(discover(self.client), self._send)

    async def _fetch_keys(self) -> KeySet:
        metadata = await self.metadata()
        if metadata.jwks_uri is None:
            raise InvalidMetadata(
                f"the metadata of {self.client.issuer} has no jwks_uri, so no id_token can be verified: "
                "set it in `endpoints` (OpenID Connect Discovery 1.0, section 3)"
            )
        return parse_jwks(await self._send(jwks_request(metadata.jwks_uri)))


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """What a fetch that started at `at` (monotonic seconds) brought."""

    at: float
    value: T


class _LastGood(Generic[T]):
    """A document that is fetched again when it gets old, and kept while that fails."""

    def __init__(self, what: str, fetch: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._what = what
        self._fetch = fetch
        self._clock = clock
        self._good: _Outcome[T] | None = None
        self._failure: _Outcome[CoatcheckError] | None = None
        self._refetched_at = float("-inf")
        self._flights: SingleFlight[str, T] = SingleFlight()

    async def get(self) -> T:
        """Return the document, young enough; fetch it if need be."""
        kept = self._kept(USABLE_FOR)
        if kept is not None and (self._kept(FRESH_FOR) or self._failed_within(RETRY_INTERVAL_WHILE_KEPT)):
            return kept.value
        if (failure := self._failed_within(RETRY_INTERVAL)) is not None:
            raise failure.value.with_traceback(None)
        return await self._flights.join(self._what, self._refresh)

    async def newer_than(self, known: T) -> T:
        """Return another document than *known*, fetched for the purpose unless that was done a moment ago."""
        if (good := self._good) is not None and good.value is not known:
            return good.value
        if self._what not in self._flights:
            # The time is noted before the answer is known, so that a server which fails is not asked more often.
            if self._within(REFETCH_INTERVAL, self._refetched_at):
                return known
            self._refetched_at = self._clock.monotonic()
        return await self._flights.join(self._what, self._refresh)

    async def drain(self) -> None:
        """Wait for the fetch under way, if there is one in this event loop."""
        await self._flights.drain()

    async def _refresh(self) -> T:
        started_at = self._clock.monotonic()
        try:
            value = await self._fetch()
        except CoatcheckError as error:
            self._failure = _Outcome(self._clock.monotonic(), error)
            if (kept := self._kept(USABLE_FOR)) is None:
                raise
            logger.warning(
                "%s cannot be renewed, the last good one stays in use for up to a day: %s", self._what, error
            )
            return kept.value
        self._good = _Outcome(started_at, value)
        return value

    def _kept(self, period: timedelta) -> _Outcome[T] | None:
        return self._good if self._good is not None and self._within(period, self._good.at) else None

    def _failed_within(self, period: timedelta) -> _Outcome[CoatcheckError] | None:
        return self._failure if self._failure is not None and self._within(period, self._failure.at) else None

    def _within(self, period: timedelta, instant: float) -> bool:
        return self._clock.monotonic() - instant < period.total_seconds()
