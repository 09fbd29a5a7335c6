"""
Who waits for which renewal, and what holds whatever happens.

One flight per grant is under way in an event loop, detached from every request. A caller with a stale token starts it
and leaves (or waits a little, where its response has to carry the new one); a caller with an expired one waits, each
with a deadline of its own. Access tokens that share a refresh token share its flight, one after the other: whoever
joined the flight of another one looks again and goes next.

**Invariants.** For one grant, over all coroutines, event loops, threads, processes and nodes that share a coordination
store, and whatever of them crash, stop, are held up, or meet a store or an authorization server that fails:

- **I1, one at a time.** At most one token request with its refresh token is under way.
- **I2, never twice.** A refresh token of which nobody knows what came of it is sent again only where the rotation
  profile permits it. One that was answered with new tokens is never sent again.
- **I3, never back.** A token that was stored is never replaced by one that was obtained before it.
- **I4, never resurrected.** A session or grant that was ended stays ended; what a late renewal brings it is revoked.
- **I5, nobody else's.** A token is given only to callers of the grant that it was issued to, and of the slot.
- **I6, stored first.** A token leaves a flight when it is stored; while its store is away, only those who were waiting
  already get it, and it is written as soon as the store answers.
- **I7, no third state.** After any single fault the user is logged in or was logged out cleanly, once. Nothing but the
  end of the grant, and an answer that was lost by a provider that permits no second try, logs anybody out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Literal

from coatcheck.clock import Clock
from coatcheck.errors import LoginRequired, SessionGone, StoreUnavailable, TokenUnavailable
from coatcheck.single_flight import SingleFlight
from coatcheck.telemetry import renewals, verdicts, wait_time, waiters
from coatcheck.tokens.auditing import token_renewal_failed, token_renewed
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.lease import HeldLease
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.outcomes import Outcome, Refused, Renewed
from coatcheck.tokens.renewal import Renewer
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters, is_renewed
from coatcheck.tokens.verdicts import NOT_SENT, Verdict, VerdictKind, no_refresh_token, store_unavailable, told

_log = logging.getLogger("coatcheck")

WAITER_DEADLINE = timedelta(seconds=15)
"""Longer than the authorization server may take, so that a waiter hears why a renewal failed."""

_INLINE_PATIENCE = 3.0
"""
Seconds that a caller waits whose token still works, because its response is to carry the new one. What comes later
waits for the browser's next request.
"""

_MAX_ROUNDS = 50
"""Flights of other access tokens of the same grant that one caller waits for at most."""

_SETTLING_SECONDS = 2.0
"""How long a logout waits for a renewal that is under way."""

_LAST_WRITES = 10.0
"""Seconds that a stopping process gives a store that is away."""

_FAILURE_SECONDS = 1.5
"""Seconds for which a failed renewal is the answer to everybody, at least: nobody asks the server again so soon."""
_FOR_GOOD = float("inf")


TokensState = Literal["fresh", "renewing", "unavailable", "login_required"]
"""How it stands with a user's token: it works; it is being renewed, or will be by the next call; it has expired and
cannot be renewed just now; only a login helps."""


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
        background: bool,
    ) -> None:
        self._renewer = renewer
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._waiter_deadline = waiter_deadline.total_seconds()
        self._background = background
        self._closing = 0
        self._flights: SingleFlight[bytes, Outcome] = SingleFlight()
        self._waiting: dict[bytes, int] = {}
        self._failures: ExpiringMemory[tuple[bytes, str, float], Verdict] = ExpiringMemory(4096)

    async def renewed(self, user: User, parameters: UserTokenRequestParameters, token: UserToken) -> UserToken:
        """
        Return a token to use now, given the *token* that is stored and not fresh (or not wanted).

        Raises:
            LoginRequired: only the user can help.
            TokenUnavailable, StoreUnavailable: try again later; the session lives on.
        """
        still_good = self._works(token, parameters)
        if renews_inline(user):
            # The cookie may be behind: what another request renewed waits beside the session.
            try:
                latest = await self._renewer.stored(user, parameters)
            except StoreUnavailable as error:
                if still_good:
                    return token
                raise store_unavailable(error).error(client=parameters.client) from error
            if is_renewed(latest, token, parameters, now=self._clock.time()):
                return latest
            token, still_good = latest, self._works(latest, parameters)
        if still_good and not token.can_be_renewed(self._clock.time()):
            return token
        if token.refresh_token is None:
            raise no_refresh_token(parameters.client).error(client=parameters.client)
        if still_good and self._background and not renews_inline(user):
            self._start(user, parameters, token)
            return token
        result = await self._before_deadline(user, parameters, token, still_good=still_good)
        if isinstance(result, UserToken):
            return result
        if self._works(token, parameters) and result.kind is not VerdictKind.ENDED:
            return token  # unless it has expired while we waited
        raise self._with_backoff(result, parameters, token).error(client=parameters.client)

    def _with_backoff(self, verdict: Verdict, parameters: UserTokenRequestParameters, token: UserToken) -> Verdict:
        """Have the caller told when it may be asked again, where that is known: who comes earlier comes for nothing."""
        refusal = self._endpoint(parameters.client).refusal(self._grant(parameters, token))
        if refusal is None or refusal.retry_after is None or verdict.retry_after is not None:
            return verdict
        return replace(verdict, retry_after=max(refusal.retry_after, timedelta(seconds=_FAILURE_SECONDS)))

    async def state_of(self, user: User, parameters: UserTokenRequestParameters) -> TokensState:
        """Say how it stands with the user's token, without sending anything."""
        try:
            token = await self._store.get_token(user, parameters)
        except (LoginRequired, SessionGone):
            return "login_required"
        except StoreUnavailable:
            return "unavailable"
        if token is None:
            return "login_required"
        now = self._clock.time()
        state = token.state(now)
        if state is TokenState.FRESH:
            return "fresh"
        if not token.can_be_renewed(now):
            return "login_required" if state is TokenState.EXPIRED else "fresh"
        grant = self._grant(parameters, token)
        failure = self._failure(grant, parameters, token)
        if failure is not None and failure.kind in (VerdictKind.ENDED, VerdictKind.NEEDS_USER):
            return "login_required"
        if grant in self._flights:
            return "renewing"
        if state is TokenState.STALE:
            return "fresh"
        refused = failure is not None or self._endpoint(parameters.client).refusal(grant) is not None
        return "unavailable" if refused else "renewing"

    @asynccontextmanager
    async def settled(self, user: User, parameters: UserTokenRequestParameters) -> AsyncIterator[UserToken]:
        """
        Give the token that is stored once no process renews it: the one that is worth revoking. Until the block ends
        none begins to.

        After a moment, the one that is stored then; while its store is away, the one with which the request began.

        Raises:
            LoginRequired: there is none any more.
            StoreUnavailable: nobody can say; a store of the application's own only.
        """
        token = await self._renewer.stored(user, parameters, reload=False)
        endpoint = self._endpoint(parameters.client)
        lease: HeldLease | None = None
        try:
            with suppress(TimeoutError, StoreUnavailable, TokenUnavailable):
                async with asyncio.timeout(_SETTLING_SECONDS):
                    token = await self._renewer.stored(user, parameters)
                    while token.refresh_token and lease is None and self._renewer.latest(endpoint, token) is token:
                        grant = self._grant(parameters, token)
                        if grant in self._flights:
                            await self._flights.landed(grant)
                        else:
                            lease = await self._renewer.hold(endpoint, token)
                        with suppress(LoginRequired):  # ended by somebody else meanwhile, who need not have revoked it
                            token = await self._renewer.stored(user, parameters)
                        if lease is not None and self._grant(parameters, token) != grant:
                            await lease.release()
                            lease = None
            yield self._renewer.latest(endpoint, token)
        finally:
            if lease is not None:
                await lease.release()

    @asynccontextmanager
    async def left_behind(self, user: User, parameters: UserTokenRequestParameters) -> AsyncIterator[UserToken]:
        """
        Give the token that a session had when it was deleted. Nothing is waited for: whatever renews it finds the
        session gone, and revokes itself what it brought.

        Raises:
            LoginRequired: there was none.
            StoreUnavailable: nobody can say; a store of the application's own only.
        """
        token = await self._renewer.stored(user, parameters, reload=False)
        yield self._renewer.latest(self._endpoint(parameters.client), token)

    async def drain(self) -> None:
        """
        Let the renewals under way finish and be written, and begin none meanwhile; call it before the HTTP client and
        the stores are closed.
        """
        self._closing += 1
        try:
            await self._flights.drain()
            await self._renewer.drain(seconds=_LAST_WRITES)
        finally:
            self._closing -= 1

    def _start(self, user: User, parameters: UserTokenRequestParameters, seen: UserToken) -> None:
        """Renew in the background, unless that has just failed."""
        grant = self._grant(parameters, seen)
        if not self._closing and self._failure(grant, parameters, seen) is None:
            self._flights.start(grant, partial(self._fly, user, parameters, seen, grant, unheard=True))

    async def _before_deadline(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, *, still_good: bool
    ) -> UserToken | Verdict:
        began = self._clock.monotonic()
        in_a_hurry = still_good and self._background
        deadline = min(self._waiter_deadline, _INLINE_PATIENCE) if in_a_hurry else self._waiter_deadline
        try:
            async with asyncio.timeout(deadline):
                return await self._wait(user, parameters, seen, still_good=still_good)
        except TimeoutError:
            message = f"the renewal of the token did not finish within {deadline:g} s; it goes on"
            return Verdict(VerdictKind.TRANSIENT, message)
        finally:
            wait_time.record(self._clock.monotonic() - began)

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
            if self._closing and grant not in self._flights:
                return Verdict(VerdictKind.TRANSIENT, "this process is shutting down and renews no more tokens")
            self._waiting[grant] = self._waiting.get(grant, 0) + 1
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
        token = await self._beside(user, outcome) if renews_inline(user) else outcome.token
        if not ours:
            return None
        if outcome.sent:
            return token
        refused = parameters.force_renewal and token.access_token == seen.access_token
        return token if token.state(self._clock.time()) is not TokenState.EXPIRED and not refused else None

    async def _beside(self, user: User, outcome: Renewed) -> UserToken:
        """Have the response of this request carry what another one has renewed, too."""
        try:
            stored = await self._renewer.stored(user, outcome.parameters)
        except StoreUnavailable:
            return outcome.token
        # What was renewed may not be written yet, for want of a store: then an older one is there still.
        return stored if stored.issued_at >= outcome.token.issued_at else outcome.token

    def _works(self, token: UserToken, parameters: UserTokenRequestParameters) -> bool:
        return token.state(self._clock.time()) is not TokenState.EXPIRED and not parameters.force_renewal

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
                _log.error("renewal_failed: a token that still works could not be renewed: %s", told(error))
            raise
        finally:
            waiters.record(self._waiting.pop(grant, 0))
        renewals.add(1, {"outcome": _word(outcome)})
        if isinstance(outcome, Renewed):
            if outcome.sent:
                token_renewed(user, client=parameters.client)
        else:
            token_renewal_failed(user, outcome.verdict, client=parameters.client)
            verdicts.add(1, {"kind": outcome.verdict.kind.value})
            if not outcome.personal:
                self._remember(grant, parameters, seen, outcome.verdict)
            if unheard:
                message = "renewal_failed: a token that still works could not be renewed: %s"
                _log.log(_level(outcome.verdict), message, outcome.verdict.message)
        return outcome

    def _grant(self, parameters: UserTokenRequestParameters, seen: UserToken) -> bytes:
        return self._renewer.grant(self._endpoint(parameters.client), seen)

    # With the instant of the token: a login may bring the same refresh token again, and then everything is new.

    def _failure(self, grant: bytes, parameters: UserTokenRequestParameters, seen: UserToken) -> Verdict | None:
        return self._failures.get((grant, parameters.slot, seen.issued_at), now=self._clock.monotonic())

    def _remember(
        self, grant: bytes, parameters: UserTokenRequestParameters, seen: UserToken, verdict: Verdict
    ) -> None:
        now = self._clock.monotonic()
        self._failures.put((grant, parameters.slot, seen.issued_at), verdict, now=now, until=now + _silence(verdict))


def _level(verdict: Verdict) -> int:
    """Say how loud a failure is that nobody has heard of. That a grant ends is everyday life, here as in an answer."""
    if verdict.code == NOT_SENT:
        return logging.DEBUG
    return logging.INFO if verdict.kind is VerdictKind.ENDED else logging.WARNING


def renews_inline(user: User) -> bool:
    """Whether new tokens travel in the response to this very request: the session is in cookies."""
    return user.session is not None and user.session.renews_inline


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Refused):
        return outcome.verdict.kind.value
    return "renewed" if outcome.sent else "found"


def _silence(verdict: Verdict) -> float:
    """Seconds for which a failure stands for the authorization server; with a new login everything is new."""
    if verdict.kind in (VerdictKind.ENDED, VerdictKind.NEEDS_USER):
        return _FOR_GOOD
    return verdict.silence(at_least=_FAILURE_SECONDS)
