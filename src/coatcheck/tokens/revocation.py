"""Giving tokens back to their authorization server (RFC 7009). It is polite, and never worth failing for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeAlias

from coatcheck.audit import audit, session_reference, user_reference
from coatcheck.clock import Clock
from coatcheck.errors import LoginRequired, OAuthError
from coatcheck.oauth.logout import TokenTypeHint
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.shared_store import SharedUserTokenStore
from coatcheck.tokens.store import SessionUserTokenStore, UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import told

_log = logging.getLogger("coatcheck")

_AT_ONCE = 8
"""Requests of one logout that are under way at a time; nearly all have two."""

_UNSUPPORTED = "unsupported_token_type"

Reading: TypeAlias = Callable[[User, UserTokenRequestParameters], AbstractAsyncContextManager[UserToken]]
"""Gives what is stored for a user and a registration, as long as its block lasts."""


class Revocation:
    """
    Gives back what the users of sessions that end have of the registrations behind *endpoints*, and has a *store* of
    the application's own forget it.

    *refresh_token* and *access_token* say which kinds; but a refresh token that is to stay keeps its access tokens,
    because some authorization servers end the whole grant with any of them (RFC 7009 2.1). Access tokens are all that
    still work, not the newest only: one for another API would work there for as long as ever. An authorization server
    that cannot revoke them says so once, and this process asks it no more.
    """

    def __init__(
        self,
        endpoints: Mapping[str, TokenEndpoint],
        store: UserTokenStore,
        *,
        refresh_token: bool,
        access_token: bool,
        clock: Clock,
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._refresh_token = refresh_token
        self._access_token = access_token
        self._clock = clock
        self._unsupported: set[str] = set()

    async def revoke(self, user: User, read: Reading) -> None:
        """Revoke and clear what *read* gives, of all registrations at once. Whatever goes wrong is told to the log."""
        async with asyncio.TaskGroup() as tasks:
            for endpoint in self._endpoints.values():
                tasks.create_task(self._one_registration(user, endpoint, read))

    async def _one_registration(self, user: User, endpoint: TokenEndpoint, read: Reading) -> None:
        parameters = UserTokenRequestParameters(client=endpoint.name)
        try:
            async with read(user, parameters) as token:
                try:
                    await self._give_back(user, endpoint, token)
                finally:  # also when nobody waits for the authorization server any more
                    if not isinstance(self._store, SessionUserTokenStore):
                        await self._store.clear_token(user, parameters)
        except LoginRequired:
            return  # there is none any more
        except Exception as error:  # a store of the application may raise anything; the logout goes on
            _log.warning("the tokens of a session that ends cannot be revoked or cleared: %s", told(error))

    async def _give_back(self, user: User, endpoint: TokenEndpoint, token: UserToken) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        access_tokens = await self._access_tokens(user, endpoint, token)

        async def one(text: str, kind: TokenTypeHint) -> None:
            async with slots:
                reason = await revoke_quietly(endpoint, text, kind=kind, user=user)
                if kind == "access_token" and reason == _UNSUPPORTED:
                    self._unsupported.add(endpoint.name)

        # Side by side, because a person waits. Where the refresh token takes the access tokens along, the requests for
        # these find nothing more to do, and that is a success (RFC 7009 2.2).
        async with asyncio.TaskGroup() as tasks:
            if self._refresh_token and token.refresh_token:
                tasks.create_task(one(token.refresh_token, "refresh_token"))
            for text in access_tokens:
                tasks.create_task(one(text, "access_token"))

    async def _access_tokens(self, user: User, endpoint: TokenEndpoint, token: UserToken) -> list[str]:
        """Return every access token of the grant that still works. Other stores than ours show one."""
        stays = bool(token.refresh_token) and not self._refresh_token
        if stays or not self._access_token or endpoint.name in self._unsupported:
            return []
        all_tokens = [token]
        if isinstance(self._store, (SessionUserTokenStore, SharedUserTokenStore)):
            all_tokens += await self._store.all_tokens(user, endpoint.name)
        now = self._clock.time()
        working = [each for each in all_tokens if each.expires_at is None or now < each.expires_at]
        return list(dict.fromkeys(each.access_token for each in working if each.access_token))


async def revoke_quietly(
    endpoint: TokenEndpoint, token: str, *, kind: TokenTypeHint = "refresh_token", user: User | None = None
) -> str | None:
    """Revoke *token*, which is the *user*'s; a failure is told to the log. Return why it failed, or None."""
    failed = partial(_note, "token_revocation_failed", endpoint, kind, user)
    try:
        if not await endpoint.revoke(token, token_type_hint=kind):
            failed(reason := "no_revocation_endpoint")
            return reason
    except asyncio.CancelledError:
        failed("too_slow")
        raise
    except Exception as error:
        reason = error.error if isinstance(error, OAuthError) else type(error).__name__
        failed(reason)
        if kind == "refresh_token":
            _log.warning(
                "a refresh token could not be revoked at %s: %s. Nobody here can use it any more; where that is not "
                "enough, end the user's grant at the authorization server.",
                endpoint.client.issuer,
                told(error),
            )
        else:
            _log.info(
                "an access token could not be revoked at %s: %s. Nobody here can use it any more; it runs out by "
                "itself.",
                endpoint.client.issuer,
                told(error),
            )
        return reason
    _note("token_revoked", endpoint, kind, user)
    return None


def _note(
    event: str, endpoint: TokenEndpoint, kind: TokenTypeHint, user: User | None, reason: str | None = None
) -> None:
    session = None if user is None or user.session is None else user.session.session
    audit(
        event,
        kind=kind,
        reason=reason,
        iss=endpoint.client.issuer,
        client=endpoint.name,
        session=None if session is None else session_reference(session.id),
        user=None if user is None else user_reference(user.iss, user.sub),
    )
