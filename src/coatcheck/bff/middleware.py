"""
The one ASGI middleware: every request passes here, in this order.

1. The gate: a path has one reading, or the request is refused; development mode is for this machine. The path of
   `public_url` is taken off.
2. Our own endpoints (`/bff/...`).
3. Remote APIs.
4. The application, which finds the `CurrentRequest` in its scope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from coatcheck.bff.answers import Answer, AnswerInstead, ASGIApp, Receive, Scope, problem_answer, redirect
from coatcheck.bff.before_body import RefusedBeforeBody, checked_receive
from coatcheck.bff.csrf import Protection
from coatcheck.bff.current import SCOPE_KEY, CurrentRequest
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.form import SenderLeft, read_form
from coatcheck.bff.gate import keep_to_loopback, refuse_two_readings
from coatcheck.bff.own_headers import Send, with_hsts
from coatcheck.bff.paths import RouteTable, canonical_path
from coatcheck.bff.problems import ENDS_THE_SESSION, EXPECTED, Problem, log_problem, logger, problem, problem_for
from coatcheck.bff.proxy import RemoteAPI
from coatcheck.bff.refusals import Refused
from coatcheck.bff.settings import Settings
from coatcheck.bff.step_up import step_up_path
from coatcheck.bff.who import ANSWERED_ERRORS, here, to_login
from coatcheck.errors import (
    CoatcheckError,
    LoginRequired,
    SessionGone,
    StepUpRequired,
)
from coatcheck.sessions.sessions import Sessions
from coatcheck.tokens.manager import Tokens

_LOGIN_HELPS = frozenset({"session_missing", "session_expired", *ENDS_THE_SESSION})


class EndpointHandler(Protocol):
    """Answers the requests for one of our own paths."""

    async def __call__(self, current: CurrentRequest) -> ASGIApp:
        """Return the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    A path of our own. *methods* says for each method what keeps other sites from using it.

    *hides_query*: its query holds codes or states, which no access log should keep. *reads_form*: a POST brings its
    parameters in a form.
    """

    handler: EndpointHandler
    methods: Mapping[str, Protection]
    hides_query: bool = False
    reads_form: bool = False


class BFFMiddleware:
    """
    Stands in front of *app*. `BFF.install` and `BFF.wrap` make it.

    *application* is what was installed or wrapped. It is looked at once more when the first request comes: whatever was
    mounted in it after `install` is there by then.
    """

    def __init__(self, app: ASGIApp, *, desk: Desk, application: object) -> None:
        self._app = app
        self._desk = desk
        self._whole = application
        self._taught = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._taught:
            self._taught = True
            self._desk.teach(self._whole)
        if scope["type"] == "lifespan":
            await _lifespan(self._app, self._desk, scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk = self._desk
        settings = desk.settings
        if settings.hsts:
            send = with_hsts(send, settings.hsts)
        whole_path = canonical_path(_raw_path(scope))
        if whole_path is None:
            return await self._refuse(scope, receive, send, problem("path_refused"), *_AMBIGUOUS)
        if settings.development:
            try:
                keep_to_loopback(scope, origin=settings.public_url.origin)
            except Refused as refused:
                return await self._turn_away(scope, receive, send, refused)
        path = settings.public_url.strip(whole_path)
        current = desk.current(scope, path)
        ours = path.startswith(desk.endpoints_below)
        remote_api = None if ours else desk.remote_apis.match(path)
        if remote_api is not None:
            if scope["type"] == "http":
                return await remote_api.handle(scope, receive, send, current)
            return await send({"type": "websocket.close", "code": 1008})
        try:
            refuse_two_readings(scope["headers"])
        except Refused as refused:
            return await self._turn_away(scope, receive, send, refused)
        if ours:
            return await self._endpoint(current, path, scope, receive, send)
        await self._application(current, scope, receive, send)

    async def _endpoint(self, current: CurrentRequest, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one of our own paths. What stands below `/bff/` and is none is 404, never the application's page."""
        endpoint = self._desk.endpoints.get(path)
        if endpoint is None or scope["type"] != "http":
            return await self._refuse(scope, receive, send, problem("not_found"), f"There is no {path}.", "")
        protection = endpoint.methods.get(scope["method"])
        if protection is None:
            allow = ", ".join(endpoint.methods)
            refusal = problem("method_not_allowed", headers=((b"allow", allow.encode()),))
            return await self._refuse(scope, receive, send, refusal, f"{scope['method']} {path}.", f"Use {allow}.")
        if endpoint.hides_query:
            # Servers write their access log from this very object when the answer starts (uvicorn does): the
            # parameters are read now, and then there is nothing left to log.
            _ = current.parameters
            scope["query_string"] = b""
        if scope["method"] == "POST" and endpoint.reads_form:
            try:
                current.add_form(await read_form(scope["headers"], receive))
            except SenderLeft:
                return
            except Refused as refused:
                return await self._turn_away(scope, receive, send, refused)
        current.may_be_exempt = protection.exempts
        answer = await endpoint.handler(current)
        await answer(scope, receive, send)

    async def _application(self, current: CurrentRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; its answer carries our cookies, and an error of ours becomes the answer."""
        started = False

        async def send_with_cookies(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _personal(message, current)
            elif message["type"] in ("websocket.accept", "websocket.close"):
                started = True
            await send(message)

        inner = {**scope, SCOPE_KEY: current, **_below(self._desk.settings, current, scope)}
        try:
            await self._app(inner, checked_receive(inner, receive), send_with_cookies)
        except (*ANSWERED_ERRORS, RefusedBeforeBody) as error:
            if started:
                raise
            answer = await answer_for(error, current)
            await answer(scope, receive, send_with_cookies)

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
        """Refuse what came to the gate. Nothing more is read from its connection (RFC 9112 section 6.1)."""
        diagnosis = refused.diagnosis
        headers = ((b"connection", b"close"),) if scope.get("http_version", "").startswith("1") else ()
        refusal = problem(diagnosis.code, headers=headers)
        await self._refuse(scope, receive, send, refusal, diagnosis.cause, diagnosis.remedy)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refusal: Problem, cause: str, remedy: str
    ) -> None:
        trace_id = self._desk.current(scope, "").trace_id
        log_problem(refusal, cause=cause, remedy=remedy, trace_id=trace_id)
        await problem_answer(refusal, trace_id=trace_id)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the middleware hands requests to. The endpoints stand below *endpoints_below* (`/bff/`)."""

    settings: Settings
    sessions: Sessions
    endpoints: Mapping[str, Endpoint]
    endpoints_below: str
    remote_apis: RouteTable[RemoteAPI]
    tokens: Tokens
    ending: SessionEnding
    teach: Callable[[object], None]
    close: Close

    def current(self, scope: Scope, path: str) -> CurrentRequest:
        """Return what is known of a request for *path*."""
        return CurrentRequest(
            scope, path, settings=self.settings, sessions=self.sessions, tokens=self.tokens, ending=self.ending
        )


class Close(Protocol):
    """Closes what was opened in this event loop."""

    async def __call__(self) -> None:
        """Close it."""
        ...


async def answer_for(error: BaseException, current: CurrentRequest) -> Answer:
    """Turn an error that a handler let escape into its answer, with one log line."""
    if isinstance(error, RefusedBeforeBody):
        error = error.reason
    if isinstance(error, AnswerInstead):
        return error.answer
    if not isinstance(error, CoatcheckError):
        raise error
    if isinstance(error, LoginRequired) and error.code in ENDS_THE_SESSION:
        await current.end_session()
    login_url = _login_url(error, current)
    to_a_login = current.is_page and isinstance(error, LoginRequired) and error.code in _LOGIN_HELPS
    refusal = problem_for(error, login_url=login_url)
    if not (to_a_login and refusal.code in EXPECTED):
        log_problem(
            refusal,
            cause=f"{current.method} {current.path}: {error}.",
            remedy=_REMEDIES.get(refusal.code, ""),
            trace_id=current.trace_id,
        )
    if isinstance(error, StepUpRequired) and current.is_page and login_url is not None:
        return redirect(login_url)
    return to_login(current) if to_a_login else problem_answer(refusal, trace_id=current.trace_id)


def _login_url(error: CoatcheckError, current: CurrentRequest) -> str | None:
    """Where a login would help, if one would; a page comes back to itself."""
    if isinstance(error, StepUpRequired):
        return_url = here(current) if current.is_page else None
        return step_up_path(current.settings, acr_values=error.acr_values, max_age=error.max_age, return_url=return_url)
    return current.settings.login_path if isinstance(error, LoginRequired | SessionGone) else None


_REMEDIES = {
    "store_unavailable": "See that the session store runs and that the key ring is whole; nobody was logged out.",
    "token_unavailable": "See what the authorization server says; the session lives on.",
}


def _personal(message: MutableMapping[str, Any], current: CurrentRequest) -> None:
    """
    Add what the answer of the application must carry.

    An answer with our cookie is `no-store`, whatever the application said: a cache that kept it would hand one user's
    session to another (CVE-2025-48947). One that may depend on the user is too, unless the application chose otherwise.
    """
    cookies = current.set_cookies()
    if not cookies and not current.session_was_asked:
        return
    headers = [(name.lower(), value) for name, value in message.get("headers", ())]
    if cookies:
        headers = [line for line in headers if line[0] not in (b"cache-control", b"expires")]
        headers += [(b"set-cookie", value) for value in cookies]
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    if not any(name == b"vary" and b"cookie" in value.lower() for name, value in headers):
        headers.append((b"vary", b"cookie"))
    message["headers"] = headers


def _below(settings: Settings, current: CurrentRequest, scope: Scope) -> dict[str, Any]:
    """
    Tell the application where it stands when `public_url` has a path: `root_path` is that path, `path` begins with it.

    So it is in ASGI, and frameworks build right addresses from it, whether or not a proxy in front took the path off.
    """
    prefix = settings.public_url.path
    if not prefix:
        return {}
    path: str = settings.public_url.strip(scope["path"])
    return {"root_path": prefix, "path": prefix + path, "raw_path": (prefix + current.path).encode("ascii")}


def _raw_path(scope: Scope) -> bytes:
    """The path as it stood in the request; from a server that does not say, as a careful client would write it."""
    raw_path: bytes | None = scope.get("raw_path")
    return raw_path.partition(b"?")[0] if raw_path is not None else quote(scope["path"], safe=_PATH_CHARACTERS).encode()


_PATH_CHARACTERS = "/!$&'()*+,;=:@[]^|"


_AMBIGUOUS = (
    "The path of a request can be read in two ways (dot segments, double slashes, needless or broken encoding).",
    "Nothing to do for requests of strangers; a page of yours should build its addresses with the URL class.",
)


async def _lifespan(app: ASGIApp, desk: Desk, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass the lifespan on, and close what we opened after the application has closed. It may have no lifespan."""
    listened = False

    async def heard() -> MutableMapping[str, Any]:
        nonlocal listened
        listened = True
        return await receive()

    async def send_and_close(message: MutableMapping[str, Any]) -> None:
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await desk.close()
        await send(message)

    try:
        await app(scope, heard, send_and_close)
    except Exception as error:
        if listened:
            raise
        logger.debug("the application has no lifespan of its own: %s", type(error).__name__)
    if listened:
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await desk.close()
    await send({"type": "lifespan.shutdown.complete"})
