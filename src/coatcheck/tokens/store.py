"""Where users' tokens are kept: the protocol, and the default that keeps them in the session."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from coatcheck.codec import decoder
from coatcheck.errors import LoginRequired, SessionGone, StaleToken, StaleVersion, StoreUnavailable
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.stored_grants import Grant, from_bytes, is_replaced, to_bytes
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import ended_code

_WRITE_ATTEMPTS = 5


class UserTokenStore(Protocol):
    """
    Keeps one token per user and client registration, or more finely. Try yours with `coatcheck.testing.token_stores`.

    A store must be atomic where it says so; everything else, above all renewing only once, is done for it. Every method
    may raise `StoreUnavailable`.
    """

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        """
        Return the token as the last finished write left it, expired or not; None when there is none.

        A store that keeps tokens per scope or resource, and has none for these *parameters* yet, returns
        `UserToken.from_refresh_token(...)` if it knows the registration's refresh token.
        """
        ...

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        """
        Store *token* only if *replaces* is still what is stored, in one atomic step; else raise `StaleToken`.

        It is enough to compare `refresh_token`. None is a login: it replaces whatever an earlier login left. When what
        *replaces* names was deleted meanwhile, it stays deleted: raise `SessionGone` (or `StaleToken`).
        """
        ...

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        """Forget every token of the user and `parameters.client`: the grant is over. Not an error if there is none."""
        ...


_Grants = dict[str, Grant]
"""By the name of the client registration."""

_decode_grants = decoder(_Grants).decode


class SessionUserTokenStore:
    """
    The default: tokens live in the user's session, sealed with it, and end with it.

    There is one access token for each registration, scope, resource and set of form parameters; those of one
    registration share its refresh token, its id_token and its DPoP key.
    """

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        """See `UserTokenStore.get_token`; as it was when the request began."""
        data, _ = await _handle(user).tokens()
        return _remembered_token(data, parameters.client, parameters.slot)

    async def all_tokens(self, user: User, client: str) -> list[UserToken]:
        """Return every token of the registration *client*; as they were when they were last read."""
        data, _ = await _handle(user).tokens()
        grant = _read(data).get(client)
        return [] if grant is None else grant.all_tokens()

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        """See `UserTokenStore.store_token`. Raises `SessionGone` when the session was ended meanwhile."""
        handle = _handle(user)
        for attempt in range(_WRITE_ATTEMPTS):
            data, version = await handle.tokens(reload=attempt > 0)
            grants = _read(data)
            if replaces is not None and not is_replaced(_token(grants, parameters.client, parameters.slot), replaces):
                if attempt == 0:
                    continue  # compared with a copy from the beginning of the request
                raise StaleToken("another token is stored than the one to be replaced")
            grant = grants.get(parameters.client) if replaces is not None else None
            grants[parameters.client] = (grant or Grant()).with_token(parameters.slot, token)
            try:
                return await handle.replace_tokens(to_bytes(grants), version=version)
            except StaleVersion:
                continue  # another slot or registration was written; look again whether this one was
        raise StoreUnavailable(f"the tokens of the session were changed {_WRITE_ATTEMPTS} times while writing them")

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        """
        See `UserTokenStore.clear_token`. The session remembers that this grant has ended.

        What somebody else renewed since this handle was read is another grant, and stays.
        """
        handle = _handle(user)
        refresh_token: str | None = None
        for attempt in range(_WRITE_ATTEMPTS):
            try:
                data, version = await handle.tokens(reload=attempt > 0)
                grants = _read(data)
                held = grants.get(parameters.client, Grant()).refresh_token
                if attempt == 0:
                    refresh_token = held
                elif held != refresh_token:
                    return
                grants[parameters.client] = Grant(ended=True)
                return await handle.replace_tokens(to_bytes(grants), version=version)
            except StaleVersion:
                continue
            except SessionGone:
                return
        raise StoreUnavailable(f"the tokens of the session were changed {_WRITE_ATTEMPTS} times while clearing them")


def session_bytes(token: UserToken, *, client: str = "default") -> bytes:
    """Return what a new session starts with when *token* came with the login."""
    return to_bytes({client: Grant().with_token("", token)})


def _handle(user: User) -> SessionHandle:
    if user.session is None:
        raise LoginRequired("this user has no session, and tokens are kept in sessions: give Tokens a store")
    return user.session


@lru_cache(maxsize=1024)
def _remembered_token(data: bytes, client: str, slot: str) -> UserToken | None:
    """Decode a token once for all the calls that carry it: that is half of what a fresh token costs in a call."""
    return _token(_read(data), client, slot)


def _token(grants: _Grants, client: str, slot: str) -> UserToken | None:
    grant = grants.get(client)
    if grant is None:
        return None
    if grant.ended:
        message = "the authorization server has ended the grant of this session"
        raise LoginRequired(message, code=ended_code(client))
    return grant.token(slot)


def _read(data: bytes) -> _Grants:
    return from_bytes(data, _decode_grants, what="session") if data else {}
