"""The end of a login: a code becomes tokens, tokens and claims become a session, and the old session goes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from coatcheck.audit import audit
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.ending import LoginEnded, SessionEnding
from coatcheck.bff.events import BFFEvents, TokensReceived
from coatcheck.bff.problems import logger
from coatcheck.bff.settings import Settings
from coatcheck.bff.transactions import LoginAttempt, StepUp, StepUpRefused
from coatcheck.errors import CoatcheckError, SessionGone
from coatcheck.oauth.authorize import AuthorizationCode, AuthorizationTransaction
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import User, UserToken

MAX_SESSION_STATE = 1000
"""Characters of a `session_state` that are kept. It is a salted hash (OpenID Connect Session Management 1.0)."""

PATIENCE = 5.0
"""Seconds that the authorization server may take to get tokens back while a person waits for their login."""

_SPENT = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""Claims that served to check this one id_token and mean nothing afterwards."""


class Arrival:
    """
    Completes logins: where the tokens go, who hears of them, and which session ends.

    With *save_tokens* False the tokens are given to *events* only.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        sessions: Sessions,
        ending: SessionEnding,
        *,
        save_tokens: bool,
        events: BFFEvents | None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._sessions = sessions
        self._ending = ending
        self._save_tokens = save_tokens
        self._events = events

    async def complete(self, current: CurrentRequest, attempt: LoginAttempt, code: AuthorizationCode) -> list[bytes]:
        """
        Redeem *code* and begin a session, always under a new ticket; return the `Set-Cookie` values.

        Raises:
            StepUpRefused: the login was to strengthen a session that is another user's, or that is over.
            LoginEnded: the user was logged out from outside while they were logging in.
        """
        transaction = attempt.transaction
        redeemed = await self._tokens.redeem(code, transaction)
        token, claims = redeemed.token, redeemed.claims
        user = User(iss=claims["iss"], sub=claims["sub"], sid=_text(claims.get("sid")), claims=claims)
        if attempt.step_up is not None:
            await self._check_step_up(attempt.step_up, user)
        if self._events is not None:
            await self._events.tokens_received(
                TokensReceived(user=user, token=token, client=transaction.client, return_url=transaction.return_url)
            )
        kept = {name: value for name, value in claims.items() if name not in _SPENT}
        session_state = dict(current.parameters).get("session_state")
        if session_state and len(session_state) <= MAX_SESSION_STATE:
            kept["session_state"] = session_state
        handle = await self._sessions.create(
            claims=kept,
            iss=user.iss,
            sub=user.sub,
            sid=user.sid,
            tokens=self._tokens.session_bytes(token, client=transaction.client) if self._save_tokens else b"",
            now=self._settings.clock.time(),
        )
        await self._complete(handle, token, transaction)
        replaced = [
            old.session.id
            for old in await self._old_sessions(current, transaction.ticket_hash)
            if await self._end(old, successor=handle)
        ]
        if attempt.step_up is not None and attempt.step_up.session_id not in replaced:
            # Somebody logged out since it was checked. Of those who end a session one is the first, and it was not us.
            await self._sessions.end(handle)
            await self._give_back(handle)
            raise StepUpRefused("the session that was to be strengthened ended at this moment")
        audit("logged_in", **handle.session.references)
        return handle.set_cookies()

    async def _check_step_up(self, step_up: StepUp, user: User) -> None:
        """What one user has begun in one session is not completed by another, nor after its end."""
        if (user.iss, user.sub) != (step_up.iss, step_up.sub):
            raise StepUpRefused("another user authenticated than the one who is logged in")
        if await self._sessions.find(step_up.session_id, now=self._settings.clock.time()) is None:
            raise StepUpRefused("the session that was to be strengthened has ended meanwhile")

    async def _complete(self, handle: SessionHandle, token: UserToken, transaction: AuthorizationTransaction) -> None:
        """
        Give the tokens to the application's own store, and see that nobody was logged out meanwhile.

        If either fails there is no session. Whoever logs users out looks for sessions after they have said so; this
        session is there now, so if it was not found, what was said is seen here.
        """
        try:
            if self._save_tokens:
                await self._tokens.store_login(User.of(handle), token, client=transaction.client)
            if await self._ending.was_ended(handle.session, began_in=transaction.ticket_hash):
                raise LoginEnded("the user was logged out while the login was under way")
        except BaseException as error:
            await self._sessions.end(handle)
            if isinstance(error, Exception):
                await self._give_back(handle)
            raise

    async def _old_sessions(self, current: CurrentRequest, ticket_hash: str | None) -> list[SessionHandle]:
        """
        Find the session that this browser had: by its cookie, or by what `/login` noted of it.

        The Strict cookie is withheld when the authorization server showed a page; the sealed transaction remembers.
        """
        now = self._settings.clock.time()
        found: list[SessionHandle] = []
        try:
            by_cookie = await self._sessions.open(current.cookies, now=now, slide=False)
            if by_cookie is not None:
                found.append(by_cookie)
            if ticket_hash and (by_cookie is None or by_cookie.session.id != ticket_hash):
                by_note = await self._sessions.find(ticket_hash, now=now)
                if by_note is not None:
                    found.append(by_note)
        except CoatcheckError as error:
            logger.warning("the session before this login could not be looked up, and runs out by itself: %s", error)
        return found

    async def _end(self, old: SessionHandle, *, successor: SessionHandle) -> bool:
        """
        End the session before this one; False if somebody else was faster. Its refresh token is revoked only when
        another user had it: for the same user an authorization server may revoke the whole grant, the new tokens
        included.
        """
        same_user = (old.session.iss, old.session.sub) == (successor.session.iss, successor.session.sub)
        try:
            is_first = await self._ending.end(old, reason="replaced" if same_user else "user_switched")
        except SessionGone:
            return False
        except CoatcheckError as error:
            logger.warning("the session before this login could not be ended, and runs out by itself: %s", error)
            return True
        if is_first and not same_user:
            await self._give_back(old)
        return is_first

    async def _give_back(self, ended: SessionHandle) -> None:
        """Revoke the tokens of a session that is over. The login does not wait for long."""
        with suppress(TimeoutError):  # each token that was not given back in time has a line in the audit log
            async with asyncio.timeout(PATIENCE):
                await self._tokens.revoke_ended(User.of(ended))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
