"""Write before use: new tokens are stored before anybody gets them, and kept for the store while it is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coatcheck.clock import Clock
from coatcheck.errors import (
    CoatcheckError,
    CookieOutdated,
    CookieTooLarge,
    LoginRequired,
    SessionGone,
    StaleToken,
    StoreUnavailable,
)
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.lease import HeldLease
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.revocation import revoke_quietly
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import Verdict, VerdictKind, store_unavailable, told

_log = logging.getLogger("coatcheck")

_PAUSES = (0.05, 0.2, 0.75)
_WAITERS_WAIT = 3.0
"""Seconds of trying after which those who wait already get tokens that are not written yet."""
_LATER = 0.5
"""
Seconds between two attempts from then on: the tokens have to be written soon after the store answers again, before
another process concludes that they were lost.
"""
_REASONS = (StaleToken, SessionGone, LoginRequired, CookieTooLarge, StoreUnavailable)
"""What a store may say. Anything else, a key that the ring lacks for instance, is a fault that may pass."""
_MOST_UNWRITTEN = 10_000
_UNWRITTEN = 24 * 3600.0
"""Seconds for which tokens are kept at least that cannot be written."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The tokens of one renewal on their way into the store, in the place of *current*.

    *is_overtaken* says whether somebody has stored newer ones in a way that the store need not notice.
    """

    user: User
    parameters: UserTokenRequestParameters
    token: UserToken
    current: UserToken
    endpoint: TokenEndpoint
    grant: bytes
    is_overtaken: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A renewed token that is not stored, and what to tell those who ask for it meanwhile."""

    token: UserToken
    verdict: Verdict


class Writer:
    """
    Brings the answers of renewals into the store.

    An answer that cannot be written stays here, with its lease, and is written as soon as the store answers. What is
    kept is bounded: 10,000 answers, each for a day or as long as its session, whichever is longer.
    """

    def __init__(self, store: UserTokenStore, *, clock: Clock, pause: Callable[[float], Awaitable[None]]) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause
        self._unwritten: ExpiringMemory[bytes, Unwritten] = ExpiringMemory(_MOST_UNWRITTEN)
        self._later: set[asyncio.Task[None]] = set()

    def unwritten(self, grant: bytes) -> Unwritten | None:
        """Return what *grant* was renewed to, while that is not stored yet."""
        return self._unwritten.get(grant, now=self._clock.monotonic())

    async def write(self, answer: Answer) -> None:
        """
        Store an answer. It is kept in memory first, and until this has ended.

        Raises:
            StaleToken: something newer is stored, or the browser of this session has newer cookies.
            SessionGone, LoginRequired: the session ended meanwhile; the new refresh token has been revoked.
            CookieTooLarge: it can never be stored; it stays here, so that the spent refresh token is not sent again.
            StoreUnavailable: not yet stored. Call `write_later`.
        """
        self._keep(answer, store_unavailable(StoreUnavailable("a renewed token could not be written yet")))
        try:
            await self._patiently(answer)
        except StoreUnavailable:
            raise
        except CookieTooLarge as error:
            self._keep(answer, too_large(error))
            raise
        except BaseException as error:
            self._unwritten.forget(answer.grant)
            if isinstance(error, (SessionGone, LoginRequired)):
                await self.discard(answer.token.refresh_token, answer.current, answer.endpoint)
            raise
        self._unwritten.forget(answer.grant)

    def write_later(self, answer: Answer, lease: HeldLease) -> None:
        """Keep trying in the background, holding *lease* until it is done."""
        task = asyncio.get_running_loop().create_task(self._persistently(answer, lease))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def discard(self, refresh_token: str | None, current: UserToken, endpoint: TokenEndpoint) -> None:
        """Revoke a new refresh token that nobody will use. The old one is the authorization server's to retire."""
        if refresh_token is not None and refresh_token != current.refresh_token:
            await revoke_quietly(endpoint, refresh_token)

    async def drain(self, *, seconds: float) -> None:
        """Give what is not written yet *seconds* more, then give up on it."""
        loop = asyncio.get_running_loop()
        under_way = [task for task in self._later if task.get_loop() is loop]
        if not under_way:
            return
        _, lost = await asyncio.wait(under_way, timeout=seconds)
        for task in lost:
            task.cancel()
        if lost:
            await asyncio.wait(lost)
            _log.error(
                "tokens_lost: %d renewed tokens could not be written before the end: their store does not answer",
                len(lost),
            )

    async def _patiently(self, answer: Answer) -> None:
        gives_up_at = self._clock.monotonic() + _WAITERS_WAIT
        for pause in _PAUSES:
            try:
                return await self._store_it(answer)
            except StoreUnavailable:
                if self._clock.monotonic() >= gives_up_at:
                    raise
                await self._pause(pause)
        await self._store_it(answer)

    async def _persistently(self, answer: Answer, lease: HeldLease) -> None:
        try:
            while self.unwritten(answer.grant) is not None:
                await asyncio.sleep(0)
                await self._pause(_LATER)
                try:
                    await self._store_it(answer)
                except StoreUnavailable:
                    continue
                except (SessionGone, LoginRequired):
                    await self.discard(answer.token.refresh_token, answer.current, answer.endpoint)
                except CoatcheckError as error:
                    _log.info("renewed tokens are not written any more: %s", error)
                else:
                    _log.info("tokens_written: renewed tokens that were kept in memory are in their store")
                lease.mark = None
                return
            _log.error(
                "tokens_lost: renewed tokens were never written: their store did not answer until their session ended"
            )
        finally:
            self._unwritten.forget(answer.grant)
            await lease.release()

    async def _store_it(self, answer: Answer) -> None:
        try:
            if await answer.is_overtaken():
                raise StaleToken("somebody else has renewed it while this process was held up")
            await self._store.store_token(answer.user, answer.token, answer.parameters, replaces=answer.current)
        except CookieOutdated as error:
            raise StaleToken("the browser has had newer tokens for long") from error  # trying again would not help
        except _REASONS:
            raise
        except Exception as error:  # whatever else a store may raise, what it could not keep must not be lost
            raise StoreUnavailable(f"the store of users' tokens raised {told(error)}") from error

    def _keep(self, answer: Answer, verdict: Verdict) -> None:
        session = answer.user.session
        # A store of the application's own may keep a grant for longer than the session that has renewed it.
        remaining = 0.0 if session is None else session.session.expires_at - self._clock.time()
        now = self._clock.monotonic()
        until = now + max(remaining, _UNWRITTEN)
        self._unwritten.put(answer.grant, Unwritten(answer.token, verdict), now=now, until=until)


def too_large(error: CookieTooLarge) -> Verdict:
    """The renewed token does not fit where sessions are kept, and never will."""
    return Verdict(VerdictKind.MISCONFIGURED, str(error))
