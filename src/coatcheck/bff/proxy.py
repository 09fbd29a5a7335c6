"""
A remote API: a path of ours whose requests go on to another server, with an access token in place of the cookie.

The order is fixed, and no step begins before the one above has passed: route, CSRF check, session, token, request body,
the session once more if that took long, remote API. A refused request has touched nothing behind the step that refused
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from coatcheck.bff.credentials import CallRefused, Credentials
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.forwarder import (
    Forwarder,
    RequestNotSendable,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from coatcheck.bff.headers import HeaderRefused, RequestHeaderFilter, RequestHeaders
from coatcheck.bff.paths import canonical_path, carries_token, forwardable_query
from coatcheck.bff.problems import ENDS_THE_SESSION, log_problem, problem, send_problem
from coatcheck.bff.public_url import is_loopback
from coatcheck.bff.relay import (
    AnswerCutShort,
    BodyNotDelivered,
    BrowserLeft,
    Outgoing,
    Receive,
    Send,
    StepUpDemanded,
    relay,
)
from coatcheck.bff.step_up import step_up_path
from coatcheck.errors import ConfigurationError, SessionGone, StoreUnavailable, UnknownSealKey
from coatcheck.oauth.challenge import StepUpChallenge
from coatcheck.oauth.url import shown
from coatcheck.tokens.auditing import token_refused
from coatcheck.tokens.results import AccessTokenResult, NoAccessTokenResult
from coatcheck.tokens.retrievers import AccessTokenRetrievalContext, AccessTokenRetriever, DefaultAccessTokenRetriever
from coatcheck.tokens.values import DEFAULT_PARAMETERS, TokenType, User, UserTokenRequestParameters

if TYPE_CHECKING:
    from coatcheck.bff.settings import Settings
    from coatcheck.sessions.sessions import SessionHandle
    from coatcheck.tokens.manager import Tokens

Scope = Mapping[str, Any]

REFUSED_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
"""A tunnel is not a call to an API, and an echo of the request would show the token to the page (RFC 9110 9.3)."""

USUAL_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Known to be fine without another look."""

_METHOD = re.compile(r"[A-Z][A-Z-]*")


class RemoteAPI:
    """
    Everything under *path* is answered by the server at *url*; the rest of the path and the query go on unchanged.

    *timeout* is the longest silence of the remote API, before its answer and within it. *anonymous* lets callers
    without a session use the client's token, or none. *csrf=False* drops the header from the CSRF check, for downloads
    and event streams. Plain http to another machine needs *insecure*.

    Raises:
        ConfigurationError: *url* is no plain http(s) URL, or the settings contradict each other.
    """

    def __init__(
        self,
        path: str,
        url: str,
        *,
        tokens: Tokens,
        forwarder: Forwarder,
        settings: Settings,
        token: TokenType | str = TokenType.USER,
        retriever: AccessTokenRetriever | None = None,
        parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS,
        anonymous: bool = False,
        csrf: bool = True,
        timeout: timedelta = timedelta(seconds=30),
        insecure: bool = False,
    ) -> None:
        self.path = path
        self.token = _token_type(token)
        self.anonymous = anonymous
        self.parameters = parameters
        if anonymous and self.token in (TokenType.USER, TokenType.NONE):
            raise ConfigurationError(
                f"anonymous = true has no meaning with token = {str(self.token)!r} ({path}): "
                "use it with client, user_or_client or user_or_none"
            )
        if timeout <= timedelta(0):
            raise ConfigurationError(f"the timeout of {path} must be longer than zero")
        self._timeout = timeout
        self._base = forwarder.target(_checked_url(url, insecure=insecure)).rstrip("/")
        self._base_has_path = bool(urlsplit(self._base).path)
        self._below = 0 if path == "/" else len(path)
        self._csrf = csrf
        self._credentials = Credentials(
            path, retriever or DefaultAccessTokenRetriever(), forwarder=forwarder, settings=settings
        )
        self._tokens = tokens
        self._forwarder = forwarder
        self._settings = settings
        self._filter = RequestHeaderFilter(csrf_header=settings.csrf.header_name)
        origin = urlsplit(settings.public_url.origin)
        self._forwarded: RequestHeaders = [("x-forwarded-host", origin.netloc), ("x-forwarded-proto", origin.scheme)]

    async def handle(self, scope: Scope, receive: Receive, send: Send, current: CurrentRequest) -> None:
        """Answer one HTTP request whose canonical path, `current.path`, lies under ours."""
        try:
            await self._forward(scope, receive, send, current)
        except CallRefused as refused:
            if refused.problem.code in ENDS_THE_SESSION:
                await current.end_session()
            await self._refuse(refused, send, current)
        except UpstreamError as error:
            await self._refuse(self._upstream_failure(error), send, current)
        except StepUpDemanded as demanded:
            await self._refuse(self._step_up(demanded.challenge), send, current)
        except BodyNotDelivered as error:
            await self._refuse(self._body_failure(error), send, current)
        except AnswerCutShort as cut:
            self._log(self._upstream_failure(cut.cause), current, when="After the answer had begun: ")
        except BrowserLeft:
            pass

    async def _forward(self, scope: Scope, receive: Receive, send: Send, current: CurrentRequest) -> None:
        method: str = scope["method"]
        rest = current.path[self._below :]
        url = self._url(method, rest, scope["query_string"])
        headers, length = self._headers(scope)
        self._check_csrf(current)
        session = await self._session(current)
        result = await self._retrieve(scope, current, session, rest)
        headers += self._forwarded
        client = scope.get("client")
        if client:
            headers.append(("x-forwarded-for", client[0]))
        headers += self._credentials.header_lines(result, method=method, url=url)
        status = await relay(
            Outgoing(method, url, headers, length, self._timeout),
            receive,
            send,
            forwarder=self._forwarder,
            personal=session is not None,
            set_cookies=current.set_cookies,
            before_send=partial(self._confirm, current),
            http_version=scope.get("http_version", "1.1"),
        )
        if status == 401 and not isinstance(result, NoAccessTokenResult):
            token_refused(self.path, user=None if session is None else User.of(session))

    # Route

    def _url(self, method: str, rest: str, query: bytes) -> str:
        if method not in USUAL_METHODS and (method in REFUSED_METHODS or _METHOD.fullmatch(method) is None):
            raise CallRefused(
                problem("method_not_allowed"), f"{method} {self.path}", "Remote APIs are not called with this method."
            )
        url = self._base + (rest or ("" if self._base_has_path else "/"))
        if not query:
            return url
        if not forwardable_query(query):
            raise CallRefused(
                problem("path_refused"),
                f"The query of a call to {self.path} holds quotes, '<', '>', blanks or bytes beyond ASCII, which would "
                "not reach the remote API as they are.",
                "Encode its values, for instance with URLSearchParams.",
            )
        if carries_token(query):
            raise CallRefused(
                problem("token_in_query"),
                f"The query of a call to {self.path} has an access_token or id_token parameter.",
                "Take it out: the access token is attached here, and queries end up in logs.",
            )
        return f"{url}?{query.decode('ascii')}"

    def _headers(self, scope: Scope) -> tuple[RequestHeaders, int | None]:
        try:
            return self._filter(scope["headers"])
        except HeaderRefused as error:
            # Where framing is in doubt nothing more may be read from this connection (RFC 9112 section 6.1).
            refusal = problem("header_refused", headers=((b"connection", b"close"),))
            raise CallRefused(refusal, f"A call to {self.path}: {error}.", "Correct the caller.") from None

    # CSRF check

    def _check_csrf(self, current: CurrentRequest) -> None:
        refusal = current.check_api() if self._csrf else current.check_without_header()
        if refusal is None:
            return
        settings = self._settings
        own = settings.public_url.origin
        if refusal.code == "cross_site":
            origin = b", ".join(current.claims.origin).decode("latin-1") or "not named"
            site = b", ".join(current.claims.site).decode("latin-1") or "not named"
            raise CallRefused(
                refusal,
                f"A call to {self.path} comes from another site (Origin {origin[:200]}, Sec-Fetch-Site {site[:50]}).",
                f"Only pages of {own} may call. If yours stands elsewhere, serve it from there; else somebody tries.",
            )
        header = f"{settings.csrf.header_name.decode()}: {settings.csrf.header_value.decode()}"
        raise CallRefused(
            refusal,
            f"A call to {self.path} does not prove that it comes from a page of {own}.",
            f"Let the page send the header {header} with each call.",
        )

    # Session

    async def _session(self, current: CurrentRequest) -> SessionHandle | None:
        try:
            session = await current.session()
        except (StoreUnavailable, UnknownSealKey) as error:
            raise self._credentials.failed(error, _SEE_STORE) from None
        if session is not None:
            return session
        if current.cookie_presented:
            # Whatever the route allows: a page that believes it is logged in must learn that it is not.
            raise self._login_required("session_expired", "The session cookie leads to no session.")
        if self.token is not TokenType.NONE and not self.anonymous:
            raise self._login_required("session_missing", "There is no session cookie.")
        return None

    async def _confirm(self, current: CurrentRequest) -> None:
        """The cookie stays, as when it leads nowhere from the start: a login may have set a new one meanwhile."""
        try:
            await current.confirm_session()
        except SessionGone:
            raise self._login_required(
                "session_expired", "The session was ended while the call was on its way to the remote API."
            ) from None
        except (StoreUnavailable, UnknownSealKey) as error:
            raise self._credentials.failed(error, _SEE_STORE) from None

    def _login_required(self, code: str, cause: str) -> CallRefused:
        return CallRefused(
            problem(code, login_url=self._settings.login_path),
            f"A call to {self.path}: {cause}",
            "The page sends its user to login_url.",
        )

    # Token

    async def _retrieve(
        self, scope: Scope, current: CurrentRequest, session: SessionHandle | None, rest: str
    ) -> AccessTokenResult:
        context = AccessTokenRetrievalContext(
            asgi=scope,
            user=None if session is None else User.of(session),
            session_id=None if session is None else session.session.id,
            token=self.token,
            anonymous=self.anonymous,
            api=self.path,
            path=rest,
            parameters=self.parameters,
            tokens=self._tokens,
            http_clients=self._tokens.http_clients,
        )
        return await self._credentials.retrieve(context)

    # Answering instead of the remote API

    def _upstream_failure(self, error: UpstreamError) -> CallRefused:
        where = f"The remote API of {self.path} at {self._base}"
        match error:
            case UpstreamTimeout():
                return CallRefused(
                    problem("upstream_timeout"),
                    f"{where} was silent for too long ({error}).",
                    f"Find out why it is slow, or raise the route's timeout ({self._timeout.total_seconds():g} s).",
                )
            case UpstreamUnreachable(sent=False):
                return CallRefused(
                    problem("upstream_unreachable"),
                    f"{where} cannot be reached ({error}).",
                    "Check that it runs, that the URL is right, and that its certificate is trusted here.",
                )
            case RequestNotSendable():
                return CallRefused(
                    problem("header_refused"), f"A call to {self.path} cannot be sent: {error}.", "Correct the caller."
                )
            case _:
                return CallRefused(
                    problem("upstream_unreachable"),
                    f"{where} broke off or answered with something that is not HTTP ({error}).",
                    "Look into its own log: the request may have reached it.",
                )

    def _step_up(self, challenge: StepUpChallenge) -> CallRefused:
        way = step_up_path(self._settings, acr_values=challenge.acr_values, max_age=challenge.max_age)
        return CallRefused(
            problem("step_up_required", login_url=way),
            f"The remote API of {self.path} wants a stronger or more recent login (RFC 9470).",
            "The page sends its user to login_url, and repeats the call.",
        )

    def _body_failure(self, error: BodyNotDelivered) -> CallRefused:
        cause = f"The body of a call to {self.path} did not arrive: {error}."
        return CallRefused(
            problem("body_incomplete"), cause, "Look at the browser, and at proxies in front of this server."
        )

    async def _refuse(self, refused: CallRefused, send: Send, current: CurrentRequest) -> None:
        self._log(refused, current)
        await send_problem(send, refused.problem, trace_id=current.trace_id, set_cookies=current.set_cookies())

    def _log(self, refused: CallRefused, current: CurrentRequest, *, when: str = "") -> None:
        cause = when + refused.cause
        log_problem(refused.problem, cause=cause, remedy=refused.remedy, trace_id=current.trace_id)


_SEE_STORE = "Look after the session store; nobody was logged out."


def _token_type(token: TokenType | str) -> TokenType:
    try:
        return TokenType(token)
    except ValueError:
        allowed = ", ".join(TokenType)
        raise ConfigurationError(f"token = {token!r} is unknown: use one of {allowed}") from None


def _checked_url(url: str, *, insecure: bool) -> str:
    """
    Refuse every URL that could mean another server than it seems to, and a token in clear on the network.

    RFC 6750, section 5.3.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"{shown(url)!r} is no URL") from None
    plain = not parts.query and not parts.fragment and "@" not in parts.netloc and not url.endswith(("?", "#"))
    if parts.scheme not in ("https", "http") or not parts.hostname or not plain:
        raise ConfigurationError(f"{shown(url)!r} must be an http(s) URL without user, query and fragment")
    if canonical_path((parts.path or "/").rstrip("/").encode() or b"/") is None:
        raise ConfigurationError(
            f"{shown(url)!r} must have a plain path, without dot segments, '//' and needless encoding"
        )
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname):
        raise ConfigurationError(
            f"{shown(url)!r} would carry access tokens in clear: use https, or say insecure = true if that network is "
            "yours"
        )
    return url
