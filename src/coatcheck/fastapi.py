"""
FastAPI dependencies: who is calling, with the check that belongs to the kind of request.

Each has two names: the type of a handler's parameter (`CurrentUser`), and the function behind it (`current_user`), for
`dependencies=[Depends(current_user)]` and for `app.dependency_overrides[current_user]` in tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

from coatcheck.errors import missing_extra

try:
    from fastapi import Depends
    from fastapi.openapi.models import APIKey
    from fastapi.security.base import SecurityBase
    from starlette.requests import HTTPConnection
except ModuleNotFoundError as error:
    if error.name != "fastapi":
        raise
    raise missing_extra(error, "fastapi") from error

from coatcheck.bff import who
from coatcheck.bff.answers import Scope
from coatcheck.bff.before_body import ChecksCaller
from coatcheck.bff.openapi import FROM_PAGE, FROM_SCRIPT
from coatcheck.sessions.session import Session
from coatcheck.tokens.values import User, UserToken

__all__ = [
    "CurrentSession",
    "CurrentUser",
    "CurrentUserWithoutHeader",
    "PageUser",
    "UserAccessToken",
    "current_session",
    "current_user",
    "current_user_without_header",
    "page_user",
    "user_access_token",
]


class _Credential(SecurityBase, ChecksCaller):
    """
    Has FastAPI write into the OpenAPI document that an operation needs the session, and *check* made before the body.

    Called as a dependency it does nothing. The names of cookie and header are those of one BFF:
    `coatcheck.bff.openapi` puts them in.
    """

    def __init__(self, scheme_name: str, check: Callable[[Scope], Awaitable[object]]) -> None:
        self.scheme_name = scheme_name
        self.model = APIKey.model_validate({"in": "cookie", "name": scheme_name})
        self._check = check

    async def __call__(self, connection: HTTPConnection) -> None:
        """Nothing is to be done here."""

    async def check_caller(self, scope: Scope) -> object:
        return await self._check(scope)


_SCRIPT: Final = Depends(_Credential(FROM_SCRIPT, who.api_user))
_WITHOUT_HEADER: Final = Depends(_Credential(FROM_PAGE, partial(who.api_user, csrf=False)))
_PAGE: Final = Depends(_Credential(FROM_PAGE, who.page_user))


async def current_user(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> User:
    """Return what `CurrentUser` stands for."""
    return await who.api_user(connection.scope)


async def current_user_without_header(connection: HTTPConnection, _: Annotated[None, _WITHOUT_HEADER]) -> User:
    """Return what `CurrentUserWithoutHeader` stands for."""
    return await who.api_user(connection.scope, csrf=False)


async def current_session(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> Session:
    """Return what `CurrentSession` stands for."""
    return await who.api_session(connection.scope)


async def user_access_token(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> UserToken:
    """Return what `UserAccessToken` stands for."""
    return await who.api_access_token(connection.scope)


async def page_user(connection: HTTPConnection, _: Annotated[None, _PAGE]) -> User:
    """Return what `PageUser` stands for."""
    return await who.page_user(connection.scope)


CurrentUser = Annotated[User, Depends(current_user)]
"""The user on whose page a script makes this call: 403 without the CSRF header, 401 when nobody is logged in."""

CurrentSession = Annotated[Session, Depends(current_session)]
"""The session of that user, as a value: when it began and ends, its claims, its `sid`. The same checks."""

UserAccessToken = Annotated[UserToken, Depends(user_access_token)]
"""
That user's access token for a call of your own, renewed if it is due; without refresh token and id_token. The same
checks; 503 when no token can be had just now.
"""

PageUser = Annotated[User, Depends(page_user)]
"""The user for whom this handler makes a page: whoever is not logged in is sent to the login and comes back."""

CurrentUserWithoutHeader = Annotated[User, Depends(current_user_without_header)]
"""
The user, for what cannot send the CSRF header: an image, a download, an event stream. The browser itself must say that
a page of ours asks. Whatever stands on your own pages gets through, so let such a handler change nothing.
"""
