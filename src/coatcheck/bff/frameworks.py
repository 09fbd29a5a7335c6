"""What an application of Starlette's or FastAPI's kind has to be told, so that it answers as any other does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from coatcheck.bff.answers import Answer
from coatcheck.bff.before_body import RefusedBeforeBody
from coatcheck.bff.middleware import answer_for
from coatcheck.bff.openapi import name_credentials
from coatcheck.bff.settings import Settings
from coatcheck.bff.who import ANSWERED_ERRORS, current_request


def teach(app: object, *, settings: Settings) -> None:
    """
    Tell *app*, and all applications that are mounted in it, our answers and what their OpenAPI documents have to name.

    An application of another kind needs none of it: it lets our errors escape to the middleware. Starlette would have
    answered 500 by then, and so would each Starlette application that is mounted in another one. What was told already
    is not told again, and a handler that the application has for an error of ours stays.
    """
    for found in _with_mounted(app):
        add_exception_handler = getattr(found, "add_exception_handler", None)
        if add_exception_handler is not None:
            known = getattr(found, "exception_handlers", ())
            for error in ANSWERED_ERRORS:
                if error not in known:
                    add_exception_handler(error, _answer)
            add_exception_handler(RefusedBeforeBody, _raise_reason)
        openapi = getattr(found, "openapi", None)
        if add_exception_handler is not None and callable(openapi) and not isinstance(openapi, _NamedCredentials):
            found.openapi = _NamedCredentials(openapi, settings)  # FastAPI's way to extend its document


async def _answer(request: Any, error: Exception) -> Answer:
    return await answer_for(error, current_request(request.scope))


async def _raise_reason(request: Any, error: RefusedBeforeBody) -> None:
    """
    Go on as if the dependency had raised the reason.

    Starlette looks for handlers around the route and once more around the application: there it finds the one for the
    reason, which may be the application's own.
    """
    raise error.reason


def _with_mounted(app: object) -> Iterator[Any]:
    """
    Yield *app* and everything in it that may be an application.

    Routes and middleware keep what they lead to as `app`; FastAPI keeps a router that was included as
    `original_router`.
    """
    pending, seen = [app], set()
    while pending:
        found = pending.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [getattr(found, "app", None), getattr(found, "original_router", None)]
        routes = getattr(found, "routes", None)
        if isinstance(routes, list | tuple):
            pending += routes


class _NamedCredentials:
    """The `openapi` of one application: its own, with the names that only the BFF knows."""

    def __init__(self, openapi: Callable[[], dict[str, Any]], settings: Settings) -> None:
        self._openapi = openapi
        self._settings = settings

    def __call__(self) -> dict[str, Any]:
        document = self._openapi()
        name_credentials(document, self._settings)
        return document
