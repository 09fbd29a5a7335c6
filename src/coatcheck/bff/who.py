"""Who is calling: the only ways for a handler to learn it, each with the check that belongs to it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any, Final

from coatcheck.bff.answers import Answer, AnswerInstead, problem_answer, redirect
from coatcheck.bff.current import SCOPE_KEY, CurrentRequest
from coatcheck.bff.pages import hop, message_page
from coatcheck.bff.problems import Problem, log_problem
from coatcheck.bff.public_url import path_with_query
from coatcheck.bff.return_url import checked_return_url
from coatcheck.errors import LoginRequired, SessionGone, StoreUnavailable, TokenUnavailable, UnknownSealKey
from coatcheck.sessions.session import Session
from coatcheck.tokens.values import DEFAULT_PARAMETERS, User, UserToken, UserTokenRequestParameters

ANSWERED_ERRORS: Final = (
    LoginRequired,
    SessionGone,
    TokenUnavailable,
    StoreUnavailable,
    UnknownSealKey,
    AnswerInstead,
)
"""What a handler may let escape: each has its answer. Everything else is the application's own business."""


def current_request(scope: MutableMapping[str, Any]) -> CurrentRequest:
    """
    Return what the BFF knows of the request with the ASGI *scope*.

    Raises:
        RuntimeError: the request did not come through the BFF: `bff.install(app)` or `bff.wrap(app)` is missing.
    """
    current = scope.get(SCOPE_KEY)
    if not isinstance(current, CurrentRequest):
        raise RuntimeError("this request did not come through a BFF: call bff.install(app), or serve bff.wrap(app)")
    return current


async def api_user(scope: MutableMapping[str, Any], *, csrf: bool = True) -> User:
    """
    Return the user whose page's script makes this call. *scope* is the request's ASGI scope: `request.scope`.

    *csrf* False is for what cannot send the CSRF header: an image, a download, an event stream. The browser must then
    say that a page of ours asks, or the person at it; older ones that say nothing are refused. Links of other sites and
    sibling hosts do not get in, but whatever stands on your own pages does, so let such a handler change nothing.

    Raises:
        AnswerInstead: 403, the call does not prove that a page of ours makes it.
        LoginRequired: nobody is logged in; the middleware answers 401. Let both pass, they are the answer.

    RFC 10017 section 6.1.3.3.2.
    """
    return await _user(_checked(scope, csrf=csrf))


async def api_session(scope: MutableMapping[str, Any], *, csrf: bool = True) -> Session:
    """
    Return the session in which `api_user` would find its user: when it began and ends, its claims, its `sid`.

    It is a value, as the session was when this request opened it. Nothing leads from it to tokens or cookies.

    Raises:
        AnswerInstead, LoginRequired: as `api_user`.
    """
    current = _checked(scope, csrf=csrf)
    await _user(current)
    handle = await current.session()
    assert handle is not None  # noqa: S101  # there is a user
    return handle.session


async def api_access_token(
    scope: MutableMapping[str, Any], parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS, *, csrf: bool = True
) -> UserToken:
    """
    Return the access token of the user that `api_user` would find, renewed if it is due, for a call to an API.

    It comes without the refresh token and the id_token, which no API has any business with: `Tokens.user_token` has
    them.

    Raises:
        AnswerInstead, LoginRequired: as `api_user`; and LoginRequired when only a login brings another token.
        TokenUnavailable: no token can be had just now; the middleware answers 503.
    """
    current = _checked(scope, csrf=csrf)
    token = await current.tokens.user_token(await _user(current), parameters)
    return replace(token, refresh_token=None, id_token=None)


async def page_user(scope: MutableMapping[str, Any]) -> User:
    """
    Return the user for whom a page is made, logging them in first if need be.

    A navigation that another site started goes through one hop of our own first, because the browser withholds the
    Strict cookie from it; the handler never sees the parameter that marks it. A request that is no navigation is judged
    like a call of `api_user`.

    Raises:
        AnswerInstead: the hop, or the redirect to the login. Let it pass, it is the answer.
    """
    current = current_request(scope)
    match current.check_page():
        case "none":
            return await api_user(scope)
        case "foreign":
            raise AnswerInstead(_by_our_own_hop(current))
        case _:
            if _has_hopped(current):
                raise AnswerInstead(redirect(here(current)))
            try:
                return await _user(current)
            except LoginRequired:
                raise AnswerInstead(to_login(current)) from None


def to_login(current: CurrentRequest) -> Answer:
    """Send the browser to the login, and from there back to this page."""
    return redirect(path_with_query(current.settings.login_path, {"returnUrl": here(current)}))


def _by_our_own_hop(current: CurrentRequest) -> Answer:
    """
    Have our own page start the navigation again, once.

    A window that inherits a sandbox (a link in a framed preview) has no origin, so every navigation in it comes from
    another site, ours too: without the mark it would go round for ever.
    """
    page = here(current)
    if _has_hopped(current):
        return message_page("Open this page?", "Another site sent you here.", link=(page, "Open it"))
    return hop(f"{page}{'&' if '?' in page else '?'}{_HOPPED}")


def _has_hopped(current: CurrentRequest) -> bool:
    query = current.scope["query_string"]
    return bool(query == _HOPPED.encode() or query.endswith(b"&" + _HOPPED.encode()))


def _checked(scope: MutableMapping[str, Any], *, csrf: bool) -> CurrentRequest:
    current = current_request(scope)
    refusal = current.check_api() if csrf else current.check_without_header()
    if refusal is not None:
        raise AnswerInstead(_forbidden(current, refusal))
    return current


async def _user(current: CurrentRequest) -> User:
    user = await current.user()
    if user is None:
        raise LoginRequired(f"{current.path} is for users who are logged in", code=current.no_session)
    return user


def here(current: CurrentRequest) -> str:
    """The address of this page without the mark of our hop, if it is one that a browser may be sent back to."""
    settings = current.settings
    query = bytes(current.scope["query_string"]).decode("ascii", "replace")
    if _has_hopped(current):
        query = query[: -len(_HOPPED)].removesuffix("&")
    text = settings.public_url.path + current.path + (f"?{query}" if query else "")
    return checked_return_url(text, public_url=settings.public_url, endpoints=settings.endpoints) or settings.home


def _forbidden(current: CurrentRequest, refusal: Problem) -> Answer:
    rules = current.settings.csrf
    log_problem(
        refusal,
        cause=f"{current.method} {current.path} does not prove that a page of {rules.origin.decode()} makes the call.",
        remedy=f"Let the page send the header {rules.header_name.decode()}: {rules.header_value.decode()}.",
        trace_id=current.trace_id,
    )
    return problem_answer(refusal, trace_id=current.trace_id)


_HOPPED = "bff-hop=1"
"""Stands at the end of the query between our hop and the page, which never sees it."""
