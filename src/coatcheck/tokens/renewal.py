"""One renewal from its beginning to its end: look again, send, check, write, and only then hand out."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from coatcheck.clock import Clock
from coatcheck.errors import (
    CoatcheckError,
    CookieTooLarge,
    InvalidGrant,
    LoginRequired,
    SessionGone,
    StaleToken,
    StoreUnavailable,
)
from coatcheck.oauth.token import TokenSet
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.refreshed_id_token import OtherSubject, id_token_to_keep
from coatcheck.tokens.revocation import revoke_quietly
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import Verdict, VerdictKind, ended, judge, no_refresh_token, store_unavailable

Checkpoints = Callable[[str], Awaitable[None]]
"""Awaited at named places of a renewal, so that tests can stop there. In production it does nothing."""

_UNWRITTEN = 24 * 3600.0
"""Seconds for which tokens that could not be written are kept for the next attempt, where no session says how long."""
_WRITE_PAUSES = (0.05, 0.2, 0.75)
_MOST_GENERATIONS = 100
"""Renewals that an old cookie may be behind."""
_REREAD_PAUSES = (0.0, 0.1, 0.4, 1.0)
"""Seconds before each look at the store after `invalid_grant`."""


async def no_checkpoint(name: str) -> None:
    """Pass every checkpoint."""


class RenewalLease(Protocol):
    """Lets one holder at a time renew a grant. It is taken before the store is read again."""

    def hold(self, grant: bytes) -> AbstractAsyncContextManager[None]:
        """Wait for the lease on *grant* and give it back at the end of the block."""
        ...


class LocalLease:
    """No lease beyond this event loop, where there is one flight per grant anyway."""

    def hold(self, grant: bytes) -> AbstractAsyncContextManager[None]:
        """Return at once."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Renewed:
    """
    A flight ended with *token*, the access token that *parameters* mean.

    *sent* says that it is the answer to a request of this flight; otherwise it was found, and may be old.
    """

    parameters: UserTokenRequestParameters
    token: UserToken
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A flight for the access token that *parameters* mean ended with a *verdict*.

    *personal* says that it is about the session for which the flight started, not about the grant.
    """

    parameters: UserTokenRequestParameters
    verdict: Verdict
    personal: bool = False


Outcome: TypeAlias = Renewed | Refused


class Renewer:
    """Renews one grant once. Who waits for it, and how long, is the coordinator's business."""

    def __init__(
        self,
        store: UserTokenStore,
        *,
        clock: Clock,
        lease: RenewalLease,
        checkpoints: Checkpoints,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._checkpoint = checkpoints
        self._pause = pause
        self._hash_key = secrets.token_bytes(32)
        self._successors: ExpiringMemory[bytes, Renewed] = ExpiringMemory(10_000)

    def grant_key(self, client: str, refresh_token: str) -> bytes:
        """Name a grant by what renews it, without keeping that anywhere."""
        return hashlib.blake2b(f"{client}\0{refresh_token}".encode(), digest_size=32, key=self._hash_key).digest()

    async def renew(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, *, endpoint: TokenEndpoint
    ) -> Outcome:
        """
        Renew the token that a caller has *seen*, unless somebody did so already. Failures are returned, not raised.

        When the stored refresh token is another one than *seen* has, nothing is sent: that is another grant key, and
        may have a holder of its own.
        """
        grant = self.grant_key(parameters.client, seen.refresh_token or "")
        try:
            async with self._lease.hold(grant):
                current = await self.stored(user, parameters)
                if current.refresh_token != seen.refresh_token or self._is_newer(current, seen, parameters):
                    return Renewed(parameters, current)
                successor = self._successor(grant, current, parameters)
                if successor is not None:
                    current = await self.stored(user, successor.parameters)  # it may be for another access token
                    return await self._write(user, current, replace(successor, sent=False), grant, endpoint)
                return await self._send(user, parameters, current, grant, endpoint)
        except LoginRequired as error:
            return Refused(parameters, Verdict(VerdictKind.ENDED, str(error), code=error.code), personal=True)
        except StoreUnavailable as error:
            return Refused(parameters, store_unavailable(error))
        except CookieTooLarge as error:
            return Refused(parameters, Verdict(VerdictKind.MISCONFIGURED, str(error)))

    async def stored(self, user: User, parameters: UserTokenRequestParameters) -> UserToken:
        """Read what is stored now, even if the session was opened long ago."""
        try:
            if user.session is not None:
                await user.session.tokens(reload=True)
            token = await self._store.get_token(user, parameters)
        except SessionGone as error:
            raise LoginRequired("the session ended meanwhile", code="session_ended") from error
        if token is None:
            raise LoginRequired("no token is stored for this user any more", code="login_required")
        return token

    def latest(self, client: str, token: UserToken) -> UserToken:
        """Return what *token* was renewed to, as far as is known here: the cookie that brought it may be an old one."""
        for _ in range(_MOST_GENERATIONS):
            known = self._successors.get(self.grant_key(client, token.refresh_token or ""), now=self._clock.monotonic())
            if known is None or known.token.refresh_token == token.refresh_token:
                break
            token = known.token
        return token

    def _is_newer(self, current: UserToken, seen: UserToken, parameters: UserTokenRequestParameters) -> bool:
        if current.state(self._clock.time()) is not TokenState.FRESH:
            return False
        return not parameters.force_renewal or current.access_token != seen.access_token

    def _successor(self, grant: bytes, current: UserToken, parameters: UserTokenRequestParameters) -> Renewed | None:
        """Return what this refresh token was renewed to already, if it must not, or need not, be sent again."""
        known = self._successors.get(grant, now=self._clock.monotonic())
        if known is None:
            return None
        if known.token.refresh_token != current.refresh_token:
            return known
        if known.parameters.slot == parameters.slot and self._is_newer(known.token, current, parameters):
            return known if known.token.issued_at >= current.issued_at else None
        return None

    async def _send(
        self,
        user: User,
        parameters: UserTokenRequestParameters,
        current: UserToken,
        grant: bytes,
        endpoint: TokenEndpoint,
    ) -> Outcome:
        if current.refresh_token is None:
            return Refused(parameters, no_refresh_token(parameters.client))
        await self._checkpoint("renewal.before_send")
        try:
            answer = await endpoint.refresh(
                current.refresh_token,
                scope=parameters.scope,
                resource=parameters.resource,
                extra=parameters.form_parameters,
                assertion=parameters.client_assertion,
                context=parameters.context,
            )
        except CoatcheckError as error:
            return await self._refused(user, parameters, current, error, endpoint)
        await self._checkpoint("renewal.answered")
        try:
            id_token = await id_token_to_keep(answer, current, user, endpoint.server)
        except OtherSubject as error:
            await self._store.clear_token(user, parameters)
            await self._discard(answer.refresh_token, current, endpoint)
            return Refused(parameters, ended(str(error)))
        renewed = Renewed(parameters, _renewed(current, answer, id_token, parameters), sent=True)
        return await self._write(user, current, renewed, grant, endpoint)

    async def _refused(
        self,
        user: User,
        parameters: UserTokenRequestParameters,
        current: UserToken,
        error: CoatcheckError,
        endpoint: TokenEndpoint,
    ) -> Outcome:
        if isinstance(error, InvalidGrant):
            latest = await self._renewed_elsewhere(user, parameters, current)
            if latest is None:
                await self._store.clear_token(user, parameters)
                with suppress(LoginRequired):  # it is cleared, unless somebody wrote in this very moment
                    latest = await self.stored(user, parameters)
            if latest is not None and latest.refresh_token != current.refresh_token:
                return Renewed(parameters, latest)
        return Refused(parameters, judge(error, issuer=endpoint.client.issuer))

    async def _renewed_elsewhere(
        self, user: User, parameters: UserTokenRequestParameters, current: UserToken
    ) -> UserToken | None:
        """
        Return what another process wrote in the place of *current*, or None.

        It may have used the refresh token a moment before us, and be about to write what it got: whoever looked only
        once would end a session that has just been renewed.
        """
        for pause in _REREAD_PAUSES:
            if pause:
                await self._pause(pause)
            latest = await self.stored(user, parameters)
            if latest.refresh_token != current.refresh_token:
                return latest
        return None

    async def _write(
        self, user: User, current: UserToken, renewed: Renewed, grant: bytes, endpoint: TokenEndpoint
    ) -> Outcome:
        """Write before use: nobody gets a token that is not stored."""
        token, parameters = renewed.token, renewed.parameters
        inline = renews_inline(user)
        if renewed.sent:
            self._remember(grant, renewed, user)
        await self._checkpoint("renewal.before_write")
        try:
            await self._store_patiently(user, token, parameters, replaces=current)
        except StaleToken:
            # Somebody else's renewal won; what it wrote is newer than what we hold.
            self._successors.forget(grant)
            return Renewed(parameters, await self.stored(user, parameters))
        except (SessionGone, LoginRequired):
            self._successors.forget(grant)
            await self._discard(token.refresh_token, current, endpoint)
            return Refused(parameters, ended("the session ended while its token was renewed"), personal=True)
        await self._checkpoint("renewal.written")
        if not inline:
            self._successors.forget(grant)
        return renewed

    def _remember(self, grant: bytes, renewed: Renewed, user: User) -> None:
        """
        Keep what the grant was renewed to, for as long as anybody can ask for it.

        A store forgets it as soon as it is written. A cookie may be lost on its way, or overwritten by the response of
        a slower request: as long as the old one lives, the browser may come back with it.
        """
        now = self._clock.monotonic()
        self._successors.put(grant, renewed, now=now, until=now + self._remaining(user))

    def _remaining(self, user: User) -> float:
        if user.session is None:
            return _UNWRITTEN
        session = user.session.session
        return (session.dead_at if renews_inline(user) else session.expires_at) - self._clock.time()

    async def _store_patiently(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken
    ) -> None:
        for pause in _WRITE_PAUSES:
            try:
                return await self._store.store_token(user, token, parameters, replaces=replaces)
            except StoreUnavailable:
                await self._pause(pause)
        await self._store.store_token(user, token, parameters, replaces=replaces)

    async def _discard(self, refresh_token: str | None, current: UserToken, endpoint: TokenEndpoint) -> None:
        """Revoke a new refresh token that nobody will use. The old one is the authorization server's to retire."""
        if refresh_token is not None and refresh_token != current.refresh_token:
            await revoke_quietly(endpoint, refresh_token)


def renews_inline(user: User) -> bool:
    """Whether new tokens travel in the response to this very request: the session is in cookies."""
    return user.session is not None and user.session.renews_inline


def _renewed(
    current: UserToken, answer: TokenSet, id_token: str | None, parameters: UserTokenRequestParameters
) -> UserToken:
    """Put the answer in the place of *current*; what it does not mention stays (RFC 6749 section 6)."""
    return UserToken(
        access_token=answer.access_token,
        token_type=answer.token_type,
        issued_at=answer.requested_at,
        expires_at=answer.expires_at,
        scope=answer.scope if answer.scope is not None else parameters.scope or current.scope,
        refresh_token=answer.refresh_token or current.refresh_token,
        id_token=id_token,
        dpop_key=current.dpop_key,
    )
