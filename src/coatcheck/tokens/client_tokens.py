"""Access tokens of the client itself: in memory, fetched once per key, never used past their life (RFC 6749 4.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, TokenUnavailable
from coatcheck.oauth.messages import Form
from coatcheck.single_flight import SingleFlight
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import DEFAULT_LIFETIME, TokenState, expiry_margin
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.values import ClientToken, nothing, slot_name
from coatcheck.tokens.verdicts import Verdict, VerdictKind, judge

_log = logging.getLogger("coatcheck")

_MAX_TOKENS = 10_000
_FAILURE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTokenRequest:
    """Which of the client's tokens is meant. The values of *context* must be hashable."""

    scope: str | None = None
    resource: tuple[str, ...] = ()
    form_parameters: Form = field(default=(), repr=False)
    context: Mapping[str, Any] = field(default_factory=nothing)

    def key(self, client: str) -> Hashable:
        """Everything that changes the answer."""
        return client, slot_name(self.scope, self.resource, self.form_parameters), frozenset(self.context.items())


class ClientTokens:
    """
    One token per registration, scope set, resource set and set of extra parameters.

    A stale token is used and replaced in the background. A failure is remembered for a second, and never as a token. A
    refresh token in the answer is ignored (RFC 6749 4.4.3).
    """

    def __init__(self, *, clock: Clock, waiter_deadline: timedelta) -> None:
        self._clock = clock
        self._waiter_deadline = waiter_deadline.total_seconds()
        self._tokens: ExpiringMemory[Hashable, ClientToken] = ExpiringMemory(_MAX_TOKENS)
        self._failures: ExpiringMemory[Hashable, Verdict] = ExpiringMemory(_MAX_TOKENS)
        self._flights: SingleFlight[Hashable, ClientToken | Verdict] = SingleFlight()

    async def token(
        self, endpoint: TokenEndpoint, request: ClientTokenRequest, *, force_renewal: bool = False
    ) -> ClientToken:
        """
        Return a token that works now; with *force_renewal* one that is new.

        Raises:
            TokenUnavailable: none can be had; the message says why.
        """
        key = request.key(endpoint.name)
        now = self._clock.time()
        held = None if force_renewal else self._tokens.get(key, now=now)
        if held is not None and held.state(now) is TokenState.FRESH:
            return held
        failure = self._failures.get(key, now=self._clock.monotonic())
        fetch = partial(self._fetch, endpoint, request, key, unheard=held is not None)
        if held is not None:
            if failure is None:
                self._flights.start(key, fetch)
            return held
        result = failure or await self._before_deadline(key, fetch)
        if isinstance(result, Verdict):
            raise TokenUnavailable(result.message, retry_after=result.retry_after)
        return result

    async def drain(self) -> None:
        """Wait for the requests under way."""
        await self._flights.drain()

    async def _before_deadline(
        self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, ClientToken | Verdict]]
    ) -> ClientToken | Verdict:
        try:
            async with asyncio.timeout(self._waiter_deadline):
                return await self._flights.join(key, fetch)
        except TimeoutError:
            return Verdict(VerdictKind.TRANSIENT, f"no token of the client's own within {self._waiter_deadline:g} s")

    async def _fetch(
        self, endpoint: TokenEndpoint, request: ClientTokenRequest, key: Hashable, *, unheard: bool
    ) -> ClientToken | Verdict:
        try:
            answer = await endpoint.client_credentials(
                scope=request.scope,
                resource=request.resource,
                extra=request.form_parameters,
                context=request.context,
            )
        except CoatcheckError as error:
            return self._refused(endpoint, key, error, unheard=unheard)
        token = ClientToken(
            access_token=answer.access_token,
            token_type=answer.token_type,
            issued_at=answer.requested_at,
            expires_at=answer.requested_at + DEFAULT_LIFETIME if answer.expires_at is None else answer.expires_at,
            scope=answer.scope,
        )
        until = token.expires_at - expiry_margin(token.expires_at - token.issued_at)
        self._tokens.put(key, token, now=self._clock.time(), until=until)
        return token

    def _refused(self, endpoint: TokenEndpoint, key: Hashable, error: CoatcheckError, *, unheard: bool) -> Verdict:
        verdict = judge(error, issuer=endpoint.client.issuer)
        now = self._clock.monotonic()
        self._failures.put(key, verdict, now=now, until=now + verdict.silence(at_least=_FAILURE_SECONDS))
        if unheard:
            _log.warning("the client's own token still works but could not be replaced: %s", verdict.message)
        return verdict
