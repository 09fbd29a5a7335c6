"""One renewal from its beginning to its end: hold the lease, look again, mark, send, check, write, then hand out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from coatcheck.clock import Clock
from coatcheck.errors import (
    CoatcheckError,
    CookieTooLarge,
    InvalidGrant,
    LeaseLost,
    LoginRequired,
    SessionGone,
    StaleToken,
    StoreUnavailable,
    TokenUnavailable,
)
from coatcheck.oauth.rotation import RotationKind
from coatcheck.oauth.token import TokenSet
from coatcheck.telemetry import lease_wait
from coatcheck.tokens.answered import renewed, rotated
from coatcheck.tokens.auditing import reuse_suspected
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.freshness import TokenState, expiry_margin
from coatcheck.tokens.grant_names import GrantNames
from coatcheck.tokens.lease import HeldLease, Leases
from coatcheck.tokens.outcomes import Outcome, Refused, Renewed
from coatcheck.tokens.refreshed_id_token import OtherSubject, id_token_to_keep
from coatcheck.tokens.rollback import StoreHistory
from coatcheck.tokens.sending import Checkpoints, Due, InDoubt, Sender, decided
from coatcheck.tokens.store import SessionUserTokenStore, UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters, is_renewed
from coatcheck.tokens.verdicts import (
    Verdict,
    VerdictKind,
    ended,
    judge,
    no_refresh_token,
    refresh_token_expired,
    renewal_lost,
    store_unavailable,
)
from coatcheck.tokens.writing import Answer, Writer, too_large

_log = logging.getLogger("coatcheck")

_ATTEMPTS = 3
"""Times that a lease may be lost before anything was sent."""
_REREAD_PAUSES = (0.0, 0.1, 0.4, 1.0)
"""
Seconds before each look at the store before a session ends: somebody who has used the refresh token may be about to
write what came of it, as soon as the store answers.
"""
_SETTLING_PAUSES = (0.1, 0.4, 0.5, 1.0, 1.0, 2.0)
"""
Seconds before each look at a mark that somebody else has left. If that one is alive it knows what came of its sending,
and says so soon after its store is back: it notices within 2 s, tries every half second, and may be slow.
"""


class _MayBeKnown(Exception):
    """Nobody here knows what came of a sending; but the process that sent may, and may be about to say so."""


class Renewer:
    """Renews one grant once. Who waits for it, and how long, is the coordinator's business."""

    def __init__(
        self,
        store: UserTokenStore,
        *,
        clock: Clock,
        leases: Leases,
        names: GrantNames,
        sender: Sender,
        history: StoreHistory,
        checkpoints: Checkpoints,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._leases = leases
        self._names = names
        self._sender = sender
        self._history = history
        self._checkpoint = checkpoints
        self._pause = pause
        self._writer = Writer(store, clock=clock, pause=pause)

    def grant(self, endpoint: TokenEndpoint, token: UserToken) -> bytes:
        """Name the grant of *token*, within this process."""
        return self._names.grant(endpoint.client, token.refresh_token or "")[0]

    async def renew(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, *, endpoint: TokenEndpoint
    ) -> Outcome:
        """
        Renew the token that a caller has *seen*, unless somebody did so already. Failures are returned, not raised.

        When the stored refresh token is another one than *seen* has, nothing is sent: that is another grant name, and
        may have a holder of its own.
        """
        try:
            for _ in range(_ATTEMPTS):
                with suppress(LeaseLost):  # nothing was sent; perhaps a successor has renewed meanwhile
                    try:
                        return await self._renew(user, parameters, seen, endpoint, gives_up=False)
                    except _MayBeKnown:
                        await self._settle(user, parameters, seen, endpoint)
                        return await self._renew(user, parameters, seen, endpoint, gives_up=True)
            held_up = "the lease on the grant was lost before anything was sent: this process is held up, or overloaded"
            return Refused(parameters, Verdict(VerdictKind.TRANSIENT, held_up, reason="held_up"))
        except LoginRequired as error:
            return Refused(parameters, Verdict(VerdictKind.ENDED, str(error), code=error.code), personal=True)
        except StoreUnavailable as error:
            return Refused(parameters, store_unavailable(error))
        except TokenUnavailable as error:
            return Refused(parameters, Verdict(VerdictKind.TRANSIENT, str(error)))

    async def stored(self, user: User, parameters: UserTokenRequestParameters, *, reload: bool = True) -> UserToken:
        """
        Read what is stored now, even if the session was opened long ago. Without *reload*, as when it was opened.

        Raises:
            LoginRequired: there is none any more.
            StoreUnavailable: nobody can say.
        """
        try:
            if user.session is not None and reload:
                await user.session.tokens(reload=True)
            token = await self._store.get_token(user, parameters)
        except SessionGone as error:
            raise LoginRequired("the session ended meanwhile", code="session_ended") from error
        if token is None:
            raise LoginRequired("no token is stored for this user any more", code="login_required")
        return token

    def latest(self, endpoint: TokenEndpoint, token: UserToken) -> UserToken:
        """Return what *token* was renewed to, even if that is not stored yet."""
        unwritten = self._writer.unwritten(self.grant(endpoint, token))
        return token if unwritten is None else unwritten.token

    async def hold(self, endpoint: TokenEndpoint, token: UserToken) -> HeldLease:
        """Take the lease without renewing: until it is released nobody does. Raises as `Leases.take`."""
        return await self._leases.take(self._names.grant(endpoint.client, token.refresh_token or ""))

    async def drain(self, *, seconds: float) -> None:
        """Let what still has to be written get *seconds* more, and give back every lease."""
        await self._writer.drain(seconds=seconds)
        await self._leases.drain(seconds=seconds)

    async def _renew(
        self,
        user: User,
        parameters: UserTokenRequestParameters,
        seen: UserToken,
        endpoint: TokenEndpoint,
        *,
        gives_up: bool,
    ) -> Outcome:
        """Do it once; unless it *gives_up*, raise `_MayBeKnown` where otherwise the session would end."""
        if seen.refresh_token is None:
            return Refused(parameters, no_refresh_token(parameters.client))
        names = self._names.grant(endpoint.client, seen.refresh_token)
        unwritten = self._writer.unwritten(names[0])
        if unwritten is not None:
            return Refused(parameters, unwritten.verdict)
        began = self._clock.monotonic()
        lease = await self._leases.take(names)
        lease_wait.record(self._clock.monotonic() - began)
        try:
            current = await self.stored(user, parameters)
            if current.refresh_token != seen.refresh_token:
                return Renewed(parameters, current)
            if lease.mark is not None and current.issued_at >= lease.mark.sent_at:
                lease.mark = None  # what was sent came back and was written; its holder died before it could say so
            now = self._clock.time()
            if is_renewed(current, seen, parameters, now=now):
                return Renewed(parameters, current)
            if lease.mark is None and self._sender.profiles.known(endpoint.client).kind is not RotationKind.NONE:
                lease.suppose(await self._history.forgotten_mark(names[0], current))
            await self._checkpoint("renewal.lease_held")
            resumed = lease.mark is not None
            due = Due(user, parameters, current, endpoint, lease, names[0], self._kept_until(user), resumed)
            return await self._send(due, gives_up=gives_up) if current.can_be_renewed(now) else await self._dead(due)
        finally:
            if not lease.handed_over:
                await lease.release()

    def _kept_until(self, user: User) -> float | None:
        """In a session tokens end with it; an application's own store may keep them for longer than any session."""
        in_session = user.session if isinstance(self._store, SessionUserTokenStore) else None
        return None if in_session is None else in_session.session.expires_at

    async def _settle(
        self, user: User, parameters: UserTokenRequestParameters, seen: UserToken, endpoint: TokenEndpoint
    ) -> None:
        """Let go of the lease, so that whoever has left its mark there may take it back, and look whether it did."""
        names = self._names.grant(endpoint.client, seen.refresh_token or "")
        for pause in _SETTLING_PAUSES:
            await self._pause(pause)
            lease = await self._leases.take(names)
            await lease.release()
            if lease.mark is None or (await self.stored(user, parameters)).refresh_token != seen.refresh_token:
                return

    async def _send(self, due: Due, *, gives_up: bool) -> Outcome:
        try:
            answer = await self._sender.send(due)
        except LeaseLost:
            raise
        except CoatcheckError as error:
            return await self._refused(due, error)
        sent = due.lease.mark if due.lease.sends else None
        if sent is not None and (isinstance(answer, InDoubt) or rotated(answer, due.token)):
            self._history.spent(due.grant, sent_at=sent.sent_at)
        if isinstance(answer, InDoubt):
            return await self._in_doubt(due, answer, gives_up=gives_up)
        return await self._answered(due, answer)

    async def _in_doubt(self, due: Due, doubt: InDoubt, *, gives_up: bool) -> Outcome:
        """Go on with the access token while it works, and only then say that the renewal is lost."""
        issuer = due.endpoint.client.issuer
        profile = await self._sender.profiles.profile(due.endpoint.client)
        still_good = due.token.state(self._clock.time()) is not TokenState.EXPIRED
        if still_good or profile.kind is RotationKind.NONE:
            decided("wait", profile)
            message = f"nobody knows whether {issuer} has renewed a token: {doubt.what}"
            if profile.kind is not RotationKind.NONE:
                message += "; the old one is used while it works, and then a login may be needed (renewal_lost)"
            return Refused(due.parameters, Verdict(VerdictKind.TRANSIENT, message, retry_after=self._works_for(due)))
        if not gives_up and due.lease.sends == 0:
            raise _MayBeKnown
        latest = await self._renewed_elsewhere(due)
        if latest is None:
            latest = await self._cleared(due)
        if latest is not None and latest.refresh_token != due.token.refresh_token:
            return Renewed(due.parameters, latest)
        decided("lost", profile)
        return Refused(due.parameters, renewal_lost(issuer, doubt.what, client=due.parameters.client))

    def _works_for(self, due: Due) -> timedelta | None:
        """Say how long the access token still works: until then nothing more can be found out."""
        token, now = due.token, self._clock.time()
        if token.expires_at is None or token.state(now) is TokenState.EXPIRED:
            return None
        return timedelta(seconds=token.expires_at - expiry_margin(token.expires_at - token.issued_at) - now)

    async def _dead(self, due: Due) -> Outcome:
        """Send nothing: the refresh token has reached its announced end, and the grant ends with the access token."""
        verdict = refresh_token_expired(due.endpoint.client.issuer)
        if due.token.state(self._clock.time()) is not TokenState.EXPIRED:
            kept = replace(verdict, kind=VerdictKind.TRANSIENT, retry_after=self._works_for(due))
            return Refused(due.parameters, kept)
        latest = await self._cleared(due)
        if latest is not None and latest.refresh_token != due.token.refresh_token:
            return Renewed(due.parameters, latest)
        return Refused(due.parameters, verdict)

    # What comes back

    async def _refused(self, due: Due, error: CoatcheckError) -> Outcome:
        if isinstance(error, InvalidGrant):
            latest = await self._renewed_elsewhere(due)
            if latest is None:
                self._suspect(due)
                latest = await self._cleared(due)
            if latest is not None and latest.refresh_token != due.token.refresh_token:
                return Renewed(due.parameters, latest)
        return Refused(due.parameters, judge(error, issuer=due.endpoint.client.issuer))

    def _suspect(self, due: Due) -> None:
        """Say so if the newest refresh token was refused though it was sent only once."""
        client = due.endpoint.client
        if due.lease.sends == 1 and self._sender.profiles.known(client).kind is not RotationKind.NONE:
            age = self._clock.time() - due.token.issued_at
            reuse_suspected(due.user, client=due.parameters.client, age=age)

    async def _renewed_elsewhere(self, due: Due) -> UserToken | None:
        """Return what another process wrote in the place of the token that was due, or None."""
        for pause in _REREAD_PAUSES:
            if pause:
                await self._pause(pause)
            latest = await self.stored(due.user, due.parameters)
            if latest.refresh_token != due.token.refresh_token:
                return latest
        return None

    async def _cleared(self, due: Due) -> UserToken | None:
        """Forget the grant; return what is stored all the same, because somebody wrote it in this very moment."""
        await self._store.clear_token(due.user, due.parameters)
        with suppress(LoginRequired):
            return await self.stored(due.user, due.parameters)
        return None

    async def _answered(self, due: Due, answer: TokenSet) -> Outcome:
        answered_at = self._clock.time()
        await self._checkpoint("renewal.answered")
        try:
            id_token = await id_token_to_keep(answer, due.token, due.user, due.endpoint.server)
        except OtherSubject as error:
            due.lease.mark = None
            try:
                await self._store.clear_token(due.user, due.parameters)
            finally:
                await self._writer.discard(answer.refresh_token, due.token, due.endpoint)
            return Refused(due.parameters, ended(str(error), reason="other_subject"))
        token = renewed(due.token, answer, id_token, due.parameters)
        ours = not await self._may_be_meant_for_another(due)
        if not ours:
            token = replace(due.token, refresh_token=token.refresh_token, id_token=id_token)
        outcome = await self._write(due, token, sent=ours)
        await self._sender.profiles.learn(due.endpoint.client, kept=not rotated(answer, due.token))
        return self._in_time(outcome, answered_at)

    def _in_time(self, outcome: Outcome, answered_at: float) -> Outcome:
        """Hold a token that has expired since it arrived for one that was found: this process was held up."""
        if isinstance(outcome, Refused) or outcome.token.state(self._clock.time()) is not TokenState.EXPIRED:
            return outcome
        arrived_good = outcome.token.state(answered_at) is not TokenState.EXPIRED
        return replace(outcome, sent=outcome.sent and not arrived_good)

    async def _may_be_meant_for_another(self, due: Due) -> bool:
        """
        Say whether the answer may be the one to the lost request before ours, which may have been for another API.

        That is what a grace is: the same tokens once more, whatever the second request asks for. Its refresh token is
        kept, and what renews next with that one gets an access token of its own.
        """
        if not due.resumed:
            return False
        return (await self._sender.profiles.profile(due.endpoint.client)).kind is RotationKind.GRACE

    async def _write(self, due: Due, token: UserToken, *, sent: bool) -> Outcome:
        """Write before use: nobody gets a token that is not stored, but for those who wait while the store is away."""
        overtaken = partial(self._is_overtaken, due, token)
        answer = Answer(due.user, due.parameters, token, due.token, due.endpoint, due.grant, overtaken)
        await self._checkpoint("renewal.before_write")
        try:
            await self._writer.write(answer)
        except StoreUnavailable as error:
            _log.error("tokens_unwritten: renewed tokens are kept in memory until they can be written: %s", error)
            due.lease.handed_over = True
            self._writer.write_later(answer, due.lease)
            return Renewed(due.parameters, token, sent=sent)
        except CookieTooLarge as error:
            return Refused(due.parameters, too_large(error))
        except StaleToken:
            # Somebody else's renewal won; what it wrote is newer than what we hold.
            due.lease.mark = None
            return Renewed(due.parameters, await self.stored(due.user, due.parameters))
        except (SessionGone, LoginRequired):
            due.lease.mark = None
            gone = ended("the session ended while its token was renewed", reason="session_ended")
            return Refused(due.parameters, gone, personal=True)
        await self._checkpoint("renewal.written")
        due.lease.mark = None
        return Renewed(due.parameters, token, sent=sent)

    async def _is_overtaken(self, due: Due, token: UserToken) -> bool:
        """
        Say whether somebody else has written a newer access token beside the refresh token that both have kept.

        A store may compare nothing but refresh tokens, and those are the same. Raises as `stored`.
        """
        if token.refresh_token != due.token.refresh_token or due.lease.is_held:
            return False
        return (await self.stored(due.user, due.parameters)).access_token != due.token.access_token
