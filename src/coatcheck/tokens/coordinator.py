"""
Who waits for which renewal.

One flight per grant is under way in an event loop, detached from every request. A caller with a stale token starts it
and leaves; a caller with an expired one waits, each with a deadline of its own. Access tokens that share a refresh
token share its flight, one after the other: whoever joined the flight of another one looks again and goes next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

from coatcheck.clock import Clock
from coatcheck.errors import StaleToken
from coatcheck.single_flight import SingleFlight
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.renewal import Outcome, Refused, Renewer, renews_inline
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import Verdict, VerdictKind, no_refresh_token, told

_log = logging.getLogger("coatcheck")

WAITER_DEADLINE = timedelta(seconds=15)
"""Longer than the authorization server may take, so that a waiter hears why a renewal failed."""

_MAX_ROUNDS = 50
"""Flights of other access tokens of the same grant that one caller waits for at most."""

_SETTLING_SECONDS = 2.0
"""How long a logout waits for a renewal that is under way."""

_FAILURE_SECONDS = 1.5
_FOR_GOOD = float("inf")


class RenewalCoordinator:
    """Brings every caller a usable token, and the authorization server one request."""

    def __init__(
        self,
        renewer: Renewer,
        store: UserTokenStore,
        endpoint: Callable[[str], TokenEndpoint],
        *,
        clock: Clock,
        waiter_deadline: timedelta,
    ) -> None:
        self._renewer = renewer
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._waiter_deadline = waiter_deadline.total_seconds()
        self._flights: SingleFlight[bytes, Outcome] = SingleFlight()
        self._failures: ExpiringMemory[tuple[bytes, str, float], Verdict] = ExpiringMemory(4096)

    async def renewed(self, user: User, parameters: UserTokenRequestParameters, token: UserToken) -> UserToken:
        """
        Return a token to use now, given the *token* that is stored and not fresh (or not wanted).

        Raises:
            LoginRequired: only the user can help.
            TokenUnavailable, StoreUnavailable: try again later; the session lives on.
        """
        still_good = token.state(self._clock.time()) is not TokenState.EXPIRED and not parameters.force_renewal
        if token.refresh_token is None:
            if still_good:
                return token
            raise no_refresh_token(parameters.client).error(client=parameters.client)
        if still_good and not renews_inline(user):
            self._start(user, parameters, token)
            return token
        result = await self._before_deadline(user, parameters, token, still_good=still_good)
        if isinstance(result, UserToken):
            return result
        if still_good and result.kind is not VerdictKind.ENDED:
            return token
        raise result.error(client=parameters.client)

    async def settled(self, user: User, parameters: UserTokenRequestParameters) -> UserToken:
        """
        Return the token that is stored once no renewal of it is under way: the one that is worth revoking.

        After a moment, or when it is not renewed, the one that is stored now. Raises as `Renewer.stored`.
        """
        token = await self._renewer.stored(user, parameters)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING_SECONDS):
                while (grant := self._grant(parameters, token)) in self._flights:
                    await self._flights.landed(grant)
                    token = await self._renewer.stored(user, parameters)
        return self._renewer.latest(parameters.client, token)

    async def drain(self) -> None:
        """Wait for the renewals under way; call it before the HTTP client is closed."""
        await self._flights.drain()

    def _start(self, user: User, parameters: UserTokenRequestParameters, seen: UserToken) -> None:
        """Renew in the background, unless that has just failed."""
        grant = self._grant(parameters, seen)
        if self._failure(grant, parameters, seen) is None:
            self._flights.start(grant, partial(self._fly, user, parameters, seen, grant, unheard=True))

    async def _before_deadline(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, *, still_good: bool
    ) -> UserToken | Verdict:
        try:
            async with asyncio.timeout(self._waiter_deadline):
                return await self._wait(user, parameters, seen, still_good=still_good)
        except TimeoutError:
            return Verdict(
                VerdictKind.TRANSIENT,
                f"the renewal of the token did not finish within {self._waiter_deadline:g} s; it goes on",
            )

    async def _wait(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, *, still_good: bool
    ) -> UserToken | Verdict:
        for _ in range(_MAX_ROUNDS):
            if seen.refresh_token is None:
                return no_refresh_token(parameters.client)
            grant = self._grant(parameters, seen)
            failure = self._failure(grant, parameters, seen)
            if failure is not None:
                return failure
            outcome = await self._flights.join(
                grant, partial(self._fly, user, parameters, seen, grant, unheard=still_good)
            )
            result = await self._result(user, parameters, seen, outcome)
            if result is not None:
                return result
            seen = await self._renewer.stored(user, parameters)
        return Verdict(VerdictKind.TRANSIENT, f"the token was not renewed in {_MAX_ROUNDS} attempts")

    async def _result(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, outcome: Outcome
    ) -> UserToken | Verdict | None:
        """Say what a flight, perhaps somebody else's, means for this caller; None: look again at what is stored."""
        ours = outcome.parameters.slot == parameters.slot
        if isinstance(outcome, Refused):
            concerns_us = ours or outcome.verdict.kind in (VerdictKind.ENDED, VerdictKind.TRANSIENT)
            return outcome.verdict if concerns_us and not outcome.personal else None
        if renews_inline(user):
            await self._keep(user, outcome.token, outcome.parameters)
        if not ours:
            return None
        refused = parameters.force_renewal and outcome.token.access_token == seen.access_token
        usable = outcome.token.state(self._clock.time()) is not TokenState.EXPIRED and not refused
        return outcome.token if outcome.sent or usable else None

    async def _keep(self, user: User, token: UserToken, parameters: UserTokenRequestParameters) -> None:
        """Write a token that another request has renewed into this request's own cookie as well."""
        held = await self._store.get_token(user, parameters)
        if held is not None and held != token:
            with suppress(StaleToken):  # this request has done so already, for another call
                await self._store.store_token(user, token, parameters, replaces=held)

    async def _fly(
        self,
        user: User,
        parameters: UserTokenRequestParameters,
        seen: UserToken,
        grant: bytes,
        *,
        unheard: bool,
    ) -> Outcome:
        """Be the flight. *unheard*: the caller has a token that still works, so a failure is told to the log only."""
        try:
            outcome = await self._renewer.renew(user, parameters, seen, endpoint=self._endpoint(parameters.client))
        except Exception as error:
            if unheard:
                _log.error("a token that still works could not be renewed: %s", told(error))
            raise
        if isinstance(outcome, Refused):
            if not outcome.personal:
                self._remember(grant, parameters, seen, outcome.verdict)
            if unheard:
                _log.warning("a token that still works could not be renewed: %s", outcome.verdict.message)
        return outcome

    def _grant(self, parameters: UserTokenRequestParameters, seen: UserToken) -> bytes:
        return self._renewer.grant_key(parameters.client, seen.refresh_token or "")

    # With the instant of the token: a login may bring the same refresh token again, and then everything is new.

    def _failure(self, grant: bytes, parameters: UserTokenRequestParameters, seen: UserToken) -> Verdict | None:
        return self._failures.get((grant, parameters.slot, seen.issued_at), now=self._clock.monotonic())

    def _remember(
        self, grant: bytes, parameters: UserTokenRequestParameters, seen: UserToken, verdict: Verdict
    ) -> None:
        now = self._clock.monotonic()
        self._failures.put((grant, parameters.slot, seen.issued_at), verdict, now=now, until=now + _silence(verdict))


def _silence(verdict: Verdict) -> float:
    """Seconds for which a failure stands for the authorization server; with a new login everything is new."""
    if verdict.kind in (VerdictKind.ENDED, VerdictKind.NEEDS_USER):
        return _FOR_GOOD
    return verdict.silence(at_least=_FAILURE_SECONDS)
