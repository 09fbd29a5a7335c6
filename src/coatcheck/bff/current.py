"""What one request knows of itself. It stands in the ASGI scope under `coatcheck`, and it guards the session."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import parse_qsl

from coatcheck.bff import csrf
from coatcheck.bff.problems import Problem, problem
from coatcheck.bff.settings import Settings
from coatcheck.errors import SessionGone, StoreUnavailable
from coatcheck.sessions.cookie import Cookies, parse_cookies
from coatcheck.sessions.session import EndReason
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.telemetry import trace_id
from coatcheck.tokens.values import User

if TYPE_CHECKING:
    from coatcheck.tokens.manager import Tokens

SCOPE_KEY: Final = "coatcheck"
"""Where the ASGI scope carries the `CurrentRequest`."""

CONFIRM_AFTER = 1.0
"""
Seconds for which it is believed that a session lives, once it was looked up. Nearly all calls have gone out by then, so
that one look-up is all they cost; a slow upload or a slow renewal costs a second one.
"""


class EndsSessions(Protocol):
    """What ends the session of a request: `SessionEnding`."""

    async def end(self, handle: SessionHandle, *, reason: EndReason) -> object:
        """See `SessionEnding.end`."""
        ...


class CurrentRequest:
    """
    One request at the counter: its path, its cookies, and (after the CSRF check) its session.

    `session()` and `user()` work only after a check of this request has passed: a handler that asks for neither a
    `CurrentUser` nor a `PageUser` cannot learn who the user is. Everything is computed once and on demand.
    """

    __slots__ = (
        "_checked",
        "_claims",
        "_cookies",
        "_looked_up_at",
        "_parameters",
        "_session",
        "_set_cookies",
        "_trace_id",
        "ending",
        "form",
        "is_all_form",
        "is_page",
        "may_be_exempt",
        "path",
        "scope",
        "sessions",
        "settings",
        "tokens",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        path: str,
        *,
        settings: Settings,
        sessions: Sessions,
        tokens: Tokens,
        ending: EndsSessions,
    ) -> None:
        self.scope = scope
        self.path = path
        """The path inside the application: canonical, and without the path of `public_url`."""
        self.settings = settings
        self.sessions = sessions
        self.ending = ending
        self.tokens = tokens
        """Those of the BFF that the request came through. They know a user's token only after a check, too."""
        self.form: tuple[tuple[str, str], ...] = ()
        """The fields of the form in the body, where the endpoint reads one."""
        self.is_all_form = False
        """Whether all parameters came in a form."""
        self.is_page = False
        """Whether a page is being made for the user: then a login can begin by itself."""
        self.may_be_exempt = False
        """Whether the endpoint that is asked for brings its own proof: its `Protection` says so, nothing else can."""
        self._checked = False
        self._looked_up_at = 0.0
        self._claims: csrf.Claims | None = None
        self._cookies: Cookies | None = None
        self._parameters: tuple[tuple[str, str], ...] | None = None
        self._session: SessionHandle | _Unasked | None = _UNASKED
        self._set_cookies: list[bytes] = []
        self._trace_id: str | None = None

    @property
    def method(self) -> str:
        """The request method; `GET` for a WebSocket handshake."""
        return str(self.scope.get("method", "GET"))

    @property
    def trace_id(self) -> str:
        """What the log line and the answer of this request have in common."""
        if self._trace_id is None:
            self._trace_id = trace_id()
        return self._trace_id

    @property
    def claims(self) -> csrf.Claims:
        """What the request says about where it comes from."""
        if self._claims is None:
            self._claims = csrf.read_claims(self.scope["headers"], self.settings.csrf)
        return self._claims

    @property
    def cookies(self) -> Cookies:
        """The cookies of the request, by our own parser."""
        if self._cookies is None:
            self._cookies = parse_cookies(self.scope["headers"])
        return self._cookies

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The parameters of the query and then of the form, in order. An absurd number of them counts as none."""
        if self._parameters is None:
            text = bytes(self.scope["query_string"]).decode("ascii", "replace")
            try:
                self._parameters = tuple(parse_qsl(text, keep_blank_values=True, max_num_fields=100))
            except ValueError:
                self._parameters = ()
        return self._parameters

    def add_form(self, fields: tuple[tuple[str, str], ...]) -> None:
        """Let *fields* of the request body count as parameters, too: one that is in both places is there twice."""
        self.form = fields
        self.is_all_form = not self.parameters
        self._parameters = (*self.parameters, *fields)

    def parameter(self, name: str) -> str | None:
        """
        Return the parameter *name*, or None if there is none.

        Raises:
            ValueError: it is there more than once; first or last, either would be a guess.
        """
        values = [value for parameter, value in self.parameters if parameter == name]
        if len(values) > 1:
            raise ValueError(f"the parameter {name} is there {len(values)} times")
        return values[0] if values else None

    def header(self, name: bytes) -> bytes | None:
        """Return the header *name* (lower case), or None unless it is there exactly once."""
        values = [value for header, value in self.scope["headers"] if header == name]
        return values[0] if len(values) == 1 else None

    @property
    def is_in_frame(self) -> bool:
        """Whether the browser wants to show the answer inside another page (W3C Fetch Metadata, `Sec-Fetch-Dest`)."""
        return any(name == b"sec-fetch-dest" and value in _FRAMES for name, value in self.scope["headers"])

    @property
    def is_prefetch(self) -> bool:
        """Whether the browser merely looks ahead, and a person may never come (`Sec-Purpose`, and its older names)."""
        return any(name in _PURPOSES and b"prefetch" in value.lower() for name, value in self.scope["headers"])

    @property
    def is_navigation(self) -> bool:
        """Whether the browser goes somewhere, now, for all that it says: it neither fetches nor looks ahead."""
        return self.claims.may_be_navigation and not self.is_prefetch

    @property
    def wants_page(self) -> bool:
        """Whether a person is waiting for a page, rather than a script for data."""
        mode = self.header(b"sec-fetch-mode")
        if mode is not None:
            return mode == b"navigate"
        return b"text/html" in (self.header(b"accept") or b"")

    def check_api(self) -> Problem | None:
        """Check that our own page's script is calling, and open the way to the session if so."""
        if self.scope["type"] == "websocket":
            return self._verdict(csrf.check_websocket(self.claims, self.settings.csrf))
        return self._verdict(csrf.check_api(self.claims, self.settings.csrf))

    def check_without_header(self) -> Problem | None:
        """The same for a route with `csrf=False`: no header, but still nobody else's site."""
        if self.scope["type"] == "websocket":
            return self.check_api()
        return self._verdict(csrf.check_without_header(self.claims, self.settings.csrf, method=self.method))

    def check_same_origin(self) -> Problem | None:
        """Check that a page of ours asks, which cannot send the header: `EventSource` sends none."""
        return self._verdict(csrf.check_same_origin(self.claims, self.settings.csrf))

    def check_page(self) -> Literal["own", "foreign", "none"]:
        """Say whose navigation this is (`csrf.navigation`), and open the way to the session for our own."""
        if self.scope["type"] == "websocket":  # a GET without Sec-Fetch-* in some browsers, but never a navigation
            return "none"
        if not self.wants_page:  # a browser without Sec-Fetch-* tells its navigations by what they accept
            return "none"
        kind = csrf.navigation(self.claims, method=self.method)
        if kind == "own":
            self._checked = self.is_page = True
        return kind

    def exempt(self) -> None:
        """
        Open the way to the session without a check: for the endpoints that bring their own proof.

        Raises:
            RuntimeError: this path is none of them.
        """
        if not self.may_be_exempt:
            raise RuntimeError(f"{self.path} is not exempt from the CSRF check")
        self._checked = True

    @property
    def cookie_presented(self) -> bool:
        """Whether the browser sent our session cookie, whatever it is worth."""
        return self.sessions.presented(self.cookies)

    @property
    def no_session(self) -> str:
        """The code for a request without a session: it brought a cookie that leads nowhere, or none."""
        return "session_expired" if self.cookie_presented else "session_missing"

    async def session(self, *, slide: bool = True) -> SessionHandle | None:
        """
        Return the session of this request, or None.

        Raises:
            StoreUnavailable, UnknownSealKey: nobody can say; answer 503, never "not logged in".
            RuntimeError: no check of this request has passed.
        """
        if not self._checked:
            raise RuntimeError("the session was asked for before the CSRF check of this request had passed")
        if isinstance(self._session, _Unasked):
            self._looked_up_at = self.settings.clock.monotonic()
            self._session = await self.sessions.open(self.cookies, now=self.settings.clock.time(), slide=slide)
            if self._session is None and self.cookies.duplicated(self.settings.cookies.session):
                # Two cookies of our name: somebody planted one. Neither counts, and both go. (A single cookie that
                # leads nowhere stays: this answer might arrive after that of a login in another tab.)
                self._set_cookies += self.sessions.expire_cookies(self.cookies)
        return self._session

    async def confirm_session(self) -> None:
        """
        Look again whether the session lives, if it was last looked up more than a second ago. Call it right before a
        token of it leaves this process: somebody may have logged out while a body or a token was waited for.

        While its store is away it goes on, as far as this process knows: it lived when the request began, whoever ends
        it needs the store, too, and those who have waited for a renewal are served while that is being written.

        Raises:
            SessionGone: it was ended meanwhile.
            UnknownSealKey: nobody can say.
        """
        handle, clock = self._session, self.settings.clock
        if handle is None or isinstance(handle, _Unasked):
            return
        now = clock.monotonic()
        if now - self._looked_up_at < CONFIRM_AFTER:
            return
        try:
            if await self.sessions.reopen(handle, now=clock.time()) is None:
                raise SessionGone("the session has ended")
        except StoreUnavailable:
            await handle.tokens()
        self._looked_up_at = now

    @property
    def session_was_asked(self) -> bool:
        """Whether the answer to this request may depend on who is logged in."""
        return not isinstance(self._session, _Unasked)

    async def user(self) -> User | None:
        """Return who is logged in, or None. The same conditions as `session`."""
        handle = await self.session()
        if handle is None:
            return None
        return User.of(handle)

    async def end_session(self) -> None:
        """
        Delete the session, whose grant the authorization server has ended, and have the answer expire its cookie.

        When the store does not answer, the session stays until it does: its tokens say themselves that they ended.
        """
        if self._session is not None and not isinstance(self._session, _Unasked):
            with suppress(StoreUnavailable):
                await self.ending.end(self._session, reason="grant_ended")

    def add_cookie(self, set_cookie: bytes) -> None:
        """Remember a `Set-Cookie` value that the answer to this request must carry."""
        self._set_cookies.append(set_cookie)

    def set_cookies(self) -> list[bytes]:
        """Hand out the `Set-Cookie` values that the answer must carry, once. An answer with any is `no-store`."""
        cookies, self._set_cookies = self._set_cookies, []
        if self._session is not None and not isinstance(self._session, _Unasked):
            cookies += self._session.set_cookies()
        return cookies

    def _verdict(self, verdict: csrf.Verdict | None) -> Problem | None:
        if verdict is not None:
            return problem(verdict)
        self._checked = True
        return None


_PURPOSES = (b"sec-purpose", b"purpose", b"x-moz")
_FRAMES = (b"iframe", b"frame", b"embed", b"object", b"fencedframe")


class _Unasked:
    """The session has not been asked for yet; None already means that there is none."""


_UNASKED: Final = _Unasked()
