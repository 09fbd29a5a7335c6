"""FastAPI dependencies: who is calling, with the check that belongs to the kind of request."""

from __future__ import annotations

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

from coatcheck.bff.openapi import FROM_PAGE, FROM_SCRIPT
from coatcheck.bff.who import api_access_token, api_session, api_user, page_user
from coatcheck.sessions.session import Session
from coatcheck.tokens.values import User, UserToken

__all__ = ["CurrentSession", "CurrentUser", "CurrentUserWithoutHeader", "PageUser", "UserAccessToken"]


class _Credential(SecurityBase):
    """
    Has FastAPI write into the OpenAPI document that an operation needs the session. It checks nothing itself.

    The names of cookie and header are those of one BFF: `coatcheck.bff.openapi` puts them in.
    """

    def __init__(self, scheme_name: str) -> None:
        self.scheme_name = scheme_name
        self.model = APIKey.model_validate({"in": "cookie", "name": scheme_name})

    async def __call__(self, connection: HTTPConnection) -> None:
        """Nothing is to be done here."""


_SCRIPT: Final = Depends(_Credential(FROM_SCRIPT))
_PAGE: Final = Depends(_Credential(FROM_PAGE))


async def _current_user(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> User:
    return await api_user(connection.scope)


async def _current_user_without_header(connection: HTTPConnection, _: Annotated[None, _PAGE]) -> User:
    return await api_user(connection.scope, csrf=False)


async def _current_session(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> Session:
    return await api_session(connection.scope)


async def _user_access_token(connection: HTTPConnection, _: Annotated[None, _SCRIPT]) -> UserToken:
    return await api_access_token(connection.scope)


async def _page_user(connection: HTTPConnection, _: Annotated[None, _PAGE]) -> User:
    return await page_user(connection.scope)


CurrentUser = Annotated[User, Depends(_current_user)]
"""The user on whose page a script makes this call: 403 without the CSRF header, 401 when nobody is logged in."""

CurrentSession = Annotated[Session, Depends(_current_session)]
"""The session of that user, as a value: when it began and ends, its claims, its `sid`. The same checks."""

UserAccessToken = Annotated[UserToken, Depends(_user_access_token)]
"""
That user's access token for a call of your own, renewed if it is due; without refresh token and id_token. The same
checks; 503 when no token can be had just now.
"""

PageUser = Annotated[User, Depends(_page_user)]
"""The user for whom this handler makes a page: whoever is not logged in is sent to the login and comes back."""

CurrentUserWithoutHeader = Annotated[User, Depends(_current_user_without_header)]
"""
The user, for what cannot send the CSRF header: an image, a download, an event stream. The browser itself must say that
a page of ours asks. Whatever stands on your own pages gets through, so let such a handler change nothing.
"""
