"""The conformance suite: stores that keep the rules pass it, and each broken rule is found."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from coatcheck.sessions import CookiePolicy, CookieSessions, KeyRing, ServerSideSessions, new_key
from coatcheck.stores import MemoryStore
from coatcheck.testing.token_stores import (
    USER_TOKEN_STORE_CHECKS,
    UserTokenStoreCheck,
    check_user_token_store,
    somebody,
)
from coatcheck.tokens import SessionUserTokenStore, User, UserToken, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.scene import TableUserTokenStore

every_check = pytest.mark.parametrize("check", USER_TOKEN_STORE_CHECKS, ids=lambda check: check.__name__)


@every_check
async def test_the_default_store_conforms_in_server_side_sessions(check: UserTokenStoreCheck) -> None:
    clock = HandClock()
    sessions = ServerSideSessions(MemoryStore(clock), KeyRing([new_key()]), CookiePolicy("abcdefgh"), clock=clock)
    await check(SessionUserTokenStore, lambda: _with_session(sessions, clock))


@every_check
async def test_the_default_store_conforms_in_cookie_sessions(check: UserTokenStoreCheck) -> None:
    clock = HandClock()
    sessions = CookieSessions(
        KeyRing([new_key()]), CookiePolicy("abcdefgh"), clock=clock, coordination=MemoryStore(clock)
    )
    await check(SessionUserTokenStore, lambda: _with_session(sessions, clock))


@every_check
async def test_a_store_of_thirty_lines_conforms(check: UserTokenStoreCheck) -> None:
    table = TableUserTokenStore()
    await check(lambda: table, somebody)


async def _with_session(sessions: ServerSideSessions | CookieSessions, clock: HandClock) -> User:
    sub = secrets.token_hex(8)
    handle = await sessions.create(claims={}, iss="https://i.example", sub=sub, sid=None, tokens=b"", now=clock.time())
    return User("https://i.example", sub, session=handle)


class Overwriting(TableUserTokenStore):
    """Compares nothing."""

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        self.rows[user.iss, user.sub, parameters.client] = token


class Racing(TableUserTokenStore):
    """Compares and stores in two steps, as a SELECT followed by an UPDATE does."""

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        before = dict(self.rows)
        await super().store_token(user, token, parameters, replaces=replaces)
        self.rows = before
        await asyncio.sleep(0)
        self.rows[user.iss, user.sub, parameters.client] = token


class Resurrecting(TableUserTokenStore):
    """Inserts where an update finds nothing."""

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        known = (user.iss, user.sub, parameters.client) in self.rows
        await super().store_token(user, token, parameters, replaces=replaces if known else None)


class OneForAll(TableUserTokenStore):
    """Forgets whose token it is."""

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        return next(reversed(self.rows.values()), None)


class OneForAllRegistrations(TableUserTokenStore):
    """Ignores `parameters.client`."""

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        return await super().get_token(user, UserTokenRequestParameters())

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        await super().store_token(user, token, UserTokenRequestParameters(), replaces=replaces)


class Forgetful(TableUserTokenStore):
    """Drops the refresh token, as a table without that column does."""

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        token = await super().get_token(user, parameters)
        return token and UserToken(access_token=token.access_token, issued_at=token.issued_at)


class Unforgetting(TableUserTokenStore):
    """Keeps what was cleared."""

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        pass


@pytest.mark.parametrize(
    "broken", [Overwriting, Racing, Resurrecting, OneForAll, OneForAllRegistrations, Forgetful, Unforgetting]
)
async def test_a_store_that_breaks_a_rule_is_found(broken: type[TableUserTokenStore]) -> None:
    table = broken()
    with pytest.raises(AssertionError, match="must"):
        await check_user_token_store(lambda: table)
