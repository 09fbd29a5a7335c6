"""FastAPI dependencies: who is calling, with the check that belongs to the kind of request."""

from __future__ import annotations

from typing import Annotated

from coatcheck.errors import missing_extra

try:
    from fastapi import Depends
    from starlette.requests import HTTPConnection
except ModuleNotFoundError as error:
    if error.name != "fastapi":
        raise
    raise missing_extra(error, "fastapi") from error

from coatcheck.bff.who import api_user, page_user
from coatcheck.tokens.values import User

__all__ = ["CurrentUser", "PageUser"]


async def _current_user(connection: HTTPConnection) -> User:
    return await api_user(connection.scope)


async def _page_user(connection: HTTPConnection) -> User:
    return await page_user(connection.scope)


CurrentUser = Annotated[User, Depends(_current_user)]
"""The user on whose page a script makes this call: 403 without the CSRF header, 401 when nobody is logged in."""

PageUser = Annotated[User, Depends(_page_user)]
"""The user for whom this handler makes a page: whoever is not logged in is sent to the login and comes back."""
