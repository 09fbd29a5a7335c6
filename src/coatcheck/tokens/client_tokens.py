"""Access tokens of the client itself: fetched once per key, never used past their life (RFC 6749 4.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from coatcheck import codec
from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, TokenUnavailable
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Form
from coatcheck.single_flight import SingleFlight
from coatcheck.telemetry import verdicts
from coatcheck.tokens.client_token_cache import (
    FailedFetch,
    HeldToken,
    Outcome,
    SharedClientTokens,
    Wanted,
)
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import DEFAULT_LIFETIME, TokenState
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.values import ClientToken, nothing, slot_name
from coatcheck.tokens.verdicts import Verdict, VerdictKind, judge

_log = logging.getLogger("coatcheck")

_MAX_TOKENS = 10_000
_FAILURE_SECONDS = 1.0
"""Seconds for which a failed request is the answer to everybody, at least."""
_BETWEEN_REFUSALS = 5.0
"""Seconds in which an API that refuses every token costs one more of them, and not one for each of its calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTokenRequest:
    """Which of the client's tokens is meant. The values of *context* must be hashable."""

    scope: str | None = None
    resource: tuple[str, ...] = ()
    form_parameters: Form = field(default=(), repr=False)
    context: Mapping[str, Any] = field(default_factory=nothing, repr=False)

    def key(self, client: str) -> Hashable:
        """Everything that changes the answer."""
        context = frozenset((name, type(value), value) for name, value in self.context.items())  # 1 == True
        return client, slot_name(self.scope, self.resource, self.form_parameters), context

    def description(self, name: str, client: Client) -> bytes | None:
        """
        Return the same for other processes, whose configuration may be another one: with all of the registration.

        It holds secrets and is only ever hashed, with a key. None when the *context* has values that cannot be compared
        across processes: then the token is not shared.
        """
        if any(type(value) not in _COMPARABLE for value in self.context.values()):
            return None
        registration = (
            name,
            client.issuer,
            client.client_id,
            client.client_secret,
            client.client_auth,
            sorted(client.resource),
            sorted(client.token_params.items()),
            sorted(client.endpoints.items()),
        )
        request = slot_name(self.scope, self.resource, self.form_parameters), sorted(self.context.items())
        return codec.encode([registration, request])


_COMPARABLE = (str, int, bool, type(None))


class ClientTokens:
    """
    One token per registration, scope set, resource set and set of extra parameters.

    A stale token is used and replaced in the background. A failure is remembered for a moment, and never as a token. A
    refresh token in the answer is ignored (RFC 6749 4.4.3).

    With *shared* they are those of all processes that have the same store and keys.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        waiter_deadline: timedelta,
        shared: SharedClientTokens | None = None,
    ) -> None:
        self._clock = clock
        self._waiter_deadline = waiter_deadline.total_seconds()
        self._tokens: ExpiringMemory[Hashable, HeldToken] = ExpiringMemory(_MAX_TOKENS)
        self._failures: ExpiringMemory[Hashable, FailedFetch] = ExpiringMemory(_MAX_TOKENS)
        self._flights: SingleFlight[Hashable, Outcome] = SingleFlight()
        self._shared = shared

    async def token(
        self, endpoint: TokenEndpoint, request: ClientTokenRequest, *, refused: str | None = None
    ) -> ClientToken:
        """
        Return a token that works now, and not the one (its text) that an API has *refused*.

        Who refuses the next one too gets another one only after some seconds.

        Raises:
            TokenUnavailable: none can be had; the message says why.
        """
        key = request.key(endpoint.name)
        held = self._held(key, refused)
        if held is not None and held.token.state(self._clock.time()) is TokenState.FRESH:
            return held.token
        failure = self._failures.get(key, now=self._clock.monotonic())
        fetch = partial(self._fetch, endpoint, request, key, refused)
        if held is not None:
            if failure is None:
                self._flights.start(key, fetch)
            return held.token
        outcome = failure or await self._before_deadline(key, fetch)
        if isinstance(outcome, HeldToken) and outcome.token.access_token == refused:
            # The flight of somebody who did not know. One look more, and then our own.
            outcome = self._held(key, refused) or await self._before_deadline(key, fetch)
        if isinstance(outcome, FailedFetch):
            raise TokenUnavailable(outcome.verdict.message, retry_after=outcome.verdict.retry_after)
        return outcome.token

    async def drain(self) -> None:
        """Wait for the requests under way."""
        await self._flights.drain()

    def _held(self, key: Hashable, refused: str | None) -> HeldToken | None:
        """
        Return the token in memory, unless it is the refused one.

        That one stays until another takes its place: other APIs may accept it.
        """
        now = self._clock.time()
        held = self._tokens.get(key, now=now)
        if held is None or held.token.access_token != refused:
            return held
        wait = held.token.issued_at + _BETWEEN_REFUSALS - now
        if held.after_refusal and wait > 0:
            raise TokenUnavailable(
                "the API refuses new tokens, too: compare what it expects (audience, scope) with what was asked for",
                retry_after=timedelta(seconds=wait),
            )
        return None

    async def _before_deadline(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
        try:
            async with asyncio.timeout(self._waiter_deadline):
                return await self._flights.join(key, fetch)
        except TimeoutError:
            message = f"no token of the client's own within {self._waiter_deadline:g} s"
            return FailedFetch(Verdict(VerdictKind.TRANSIENT, message), self._clock.time())

    async def _fetch(
        self, endpoint: TokenEndpoint, request: ClientTokenRequest, key: Hashable, refused: str | None
    ) -> Outcome:
        """Be the flight: ask the other processes, or the authorization server, and remember what comes of it."""
        held = self._tokens.get(key, now=self._clock.time())
        ask = partial(self._ask, endpoint, request, key, refused)
        description = request.description(endpoint.name, endpoint.client) if self._shared is not None else None
        if self._shared is not None and description is not None:
            outcome = await self._shared.fetched(description, Wanted(refused, stale_will_do=held is None), ask)
        else:
            outcome = await ask()
        self._remember(key, outcome)
        return outcome

    def _remember(self, key: Hashable, outcome: Outcome) -> None:
        now = self._clock.time()
        if isinstance(outcome, HeldToken):
            self._tokens.put(key, outcome, now=now, until=outcome.until)
            self._failures.forget(key)
        else:
            # By the clock that nobody sets: a failure must not outlive its seconds.
            since = self._clock.monotonic()
            self._failures.put(key, outcome, now=since, until=since + outcome.until - now)

    async def _ask(
        self, endpoint: TokenEndpoint, request: ClientTokenRequest, key: Hashable, refused: str | None
    ) -> Outcome:
        try:
            answer = await endpoint.client_credentials(
                scope=request.scope,
                resource=request.resource,
                extra=request.form_parameters,
                context=request.context,
                who=key,
            )
        except CoatcheckError as error:
            return self._failed(endpoint, key, error, unheard=refused is None)
        token = ClientToken(
            access_token=answer.access_token,
            token_type=answer.token_type,
            issued_at=answer.requested_at,
            expires_at=answer.requested_at + DEFAULT_LIFETIME if answer.expires_at is None else answer.expires_at,
            scope=request.scope if answer.scope is None else answer.scope,
        )
        return HeldToken(token, after_refusal=refused is not None)

    def _failed(self, endpoint: TokenEndpoint, key: Hashable, error: CoatcheckError, *, unheard: bool) -> FailedFetch:
        verdict = judge(error, issuer=endpoint.client.issuer)
        now = self._clock.time()
        sent = not isinstance(error, TokenUnavailable)  # otherwise a circuit of this process refused
        if sent:
            verdicts.add(1, {"kind": verdict.kind.value})
            if unheard and self._tokens.get(key, now=now) is not None:
                _log.warning("the client's own token still works but could not be replaced: %s", verdict.message)
        return FailedFetch(verdict, now + verdict.silence(at_least=_FAILURE_SECONDS), tell_others=sent)
