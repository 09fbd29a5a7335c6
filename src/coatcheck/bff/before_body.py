"""
The check before the body: a caller who may not act in the user's name sends nothing that anybody reads.

FastAPI reads and parses a body before it calls a dependency. Whoever lacks the CSRF header or the login would be told
what is wrong with their JSON (422), after all of it had been taken in. So the first read of a body makes the checks
which the dependencies of the route make anyway, once more, when the body is there.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from coatcheck.bff.answers import Receive, Scope
from coatcheck.bff.who import ANSWERED_ERRORS


class ChecksCaller:
    """A dependency that checks who is calling."""

    async def check_caller(self, scope: Scope) -> object:
        """
        Make the check of this dependency, and nothing that is dearer.

        Raises:
            one of ANSWERED_ERRORS: the call goes no further.
        """
        raise NotImplementedError


class RefusedBeforeBody(HTTPException):
    """
    The call was refused for *reason*, one of ANSWERED_ERRORS, before its body was read.

    An HTTPException, because FastAPI takes any other error on the way to a body for a fault of the body (400). Its
    status is one for which applications have no handler here: ours is found by the class.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(500)
        self.reason = reason


def checked_receive(scope: Scope, receive: Receive) -> Receive:
    """
    Return a *receive* whose first use makes the checks of the route that was chosen meanwhile, as *scope* tells.

    Raises:
        RefusedBeforeBody: from that use, once.
    """
    asked = False

    async def receive_when_checked() -> MutableMapping[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            for dependency in _checks(scope):
                try:
                    await dependency.check_caller(scope)
                except ANSWERED_ERRORS as error:
                    raise RefusedBeforeBody(error) from error
        return await receive()

    return receive_when_checked if scope["type"] == "http" else receive


def _checks(scope: Scope) -> Iterator[ChecksCaller]:
    """
    Yield the checks among the dependencies of the route that FastAPI has chosen.

    Tests that override dependencies get none: what they put in place of ours is asked when its turn comes.
    """
    if getattr(scope.get("app"), "dependency_overrides", None):
        return
    pending = [getattr(_chosen(scope), "dependant", None)]
    while pending:
        dependant = pending.pop()
        call = getattr(dependant, "call", None)
        if isinstance(call, ChecksCaller):
            yield call
        pending += getattr(dependant, "dependencies", ())


def _chosen(scope: Scope) -> object:
    """The route; or, with the dependencies that `include_router` added, the context that FastAPI keeps of it."""
    route = scope.get("route")
    context = scope.get("fastapi", {}).get("effective_route_context")
    return context if getattr(context, "original_route", None) is route else route
