"""A token as the `auth=` of an httpx2 client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from typing import Protocol, TypeAlias

import httpx2

from coatcheck.errors import CoatcheckError, TokenUnavailable
from coatcheck.tokens.auditing import token_refused
from coatcheck.tokens.values import ClientToken, User, UserToken

HTTPClients: TypeAlias = Mapping[str, httpx2.AsyncClient]
"""HTTP clients by name; `BACK_CHANNEL_HTTP_CLIENT` is the one for token requests."""


class AccessTokenSource(Protocol):
    """What the tokens come from: `Tokens.user_token` or `Tokens.client_token`, with everything else decided."""

    def __call__(self, *, refused: str | None = None) -> Awaitable[UserToken | ClientToken]:
        """Return a token, and not the one (its text) that an API has *refused*."""
        ...


class BlockingAccessTokenSource(Protocol):
    """The same for synchronous code: `BlockingTokens.user_token` or `BlockingTokens.client_token`."""

    def __call__(self, *, refused: str | None = None) -> UserToken | ClientToken:
        """Return a token, and not the one (its text) that an API has *refused*."""
        ...


class TokenAuth(httpx2.Auth):
    """
    Puts an access token into the `Authorization` header of every request, and nowhere else (RFC 6750 2.1).

    After a 401 the token is renewed once and the request sent once more, unless its body was a stream: that is gone.
    An API that refuses new tokens too (the wrong audience, for instance) does not get another one for each request.
    """

    def __init__(self, source: AccessTokenSource, *, user: User | None = None) -> None:
        self._source = source
        self._user = user
        self._renewed_in_vain: str | None = None

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send the request with a token, and once more with a new one when the first was refused."""
        token = await self._source()
        _attach(request, token)
        response = yield request
        refused = _is_refused(response, self._user)
        if not refused or not _is_buffered(request) or token.access_token == self._renewed_in_vain:
            return
        try:
            renewed = await self._source(refused=token.access_token)
        except CoatcheckError:
            return  # the caller gets the 401 of the API, which says more about this request
        _attach(request, renewed)
        response = yield request
        if _is_refused(response, self._user):
            self._renewed_in_vain = renewed.access_token

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Refuse: tokens are renewed by asynchronous code."""
        raise RuntimeError("Tokens.auth(...) works with httpx2.AsyncClient only: for httpx2.Client use BlockingTokens")


class BlockingTokenAuth(httpx2.Auth):
    """`TokenAuth` for `httpx2.Client`: the same promises. Threads may share it."""

    def __init__(self, source: BlockingAccessTokenSource, *, user: User | None = None) -> None:
        self._source = source
        self._user = user
        self._renewed_in_vain: str | None = None

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Send the request with a token, and once more with a new one when the first was refused."""
        token = self._source()
        _attach(request, token)
        response = yield request
        refused = _is_refused(response, self._user)
        if not refused or not _is_buffered(request) or token.access_token == self._renewed_in_vain:
            return
        try:
            renewed = self._source(refused=token.access_token)
        except CoatcheckError:
            return  # the caller gets the 401 of the API, which says more about this request
        _attach(request, renewed)
        response = yield request
        if _is_refused(response, self._user):
            self._renewed_in_vain = renewed.access_token

    def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Refuse: the event loop would stand still while a token is renewed."""
        raise RuntimeError("BlockingTokens.auth(...) works with httpx2.Client only: for httpx2.AsyncClient use Tokens")


def _is_refused(response: httpx2.Response, user: User | None) -> bool:
    """Say whether the API refuses the token, and have the audit log say so, too."""
    if response.status_code != 401:
        return False
    url = response.request.url
    token_refused(f"{url.scheme}://{url.netloc.decode('ascii')}", user=user)
    return True


def _attach(request: httpx2.Request, token: UserToken | ClientToken) -> None:
    if token.token_type.lower() != "bearer":
        # Sent as a bearer token it would look like a stolen one (RFC 9449 7.1).
        raise TokenUnavailable(f"a token of type {token.token_type} needs a proof in each request; use a Bearer token")
    request.headers["authorization"] = f"Bearer {token.access_token}"


def _is_buffered(request: httpx2.Request) -> bool:
    try:
        return request.content is not None
    except httpx2.RequestNotRead:
        return False
