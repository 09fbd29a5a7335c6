"""A small application of FastAPI behind a BFF, as a real browser meets it. All that reaches it is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from html import escape

from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse
from playwright.sync_api import BrowserContext, Page
from starlette.requests import HTTPConnection, Request

from coatcheck import BFF, Client, LoginOptions, LogoutOptions, User
from coatcheck.clock import Clock
from coatcheck.fastapi import CurrentUser, PageUser
from coatcheck.sessions.seal import new_key
from coatcheck.stores import MemoryStore
from tests.rig.control_plane import LoggedRequest, RegisteredClient
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import ASGIApp, serve
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import Application
from tests.scenarios.observed import KEY, Observed
from tests.scenarios.scene import MovableClock

ME = "fetch('/me', {headers: {'X-CSRF': '1'}}).then(r => r.status === 200 ? r.json() : r.status)"
"""What a script of a page asks: the user's `sub`, or the status of the refusal."""

Server = Callable[[ASGIApp, int], AbstractContextManager[object]]


@dataclass
class Shop:
    """The application while it is served at `url`."""

    provider: OIDCProvider
    client: RegisteredClient
    bff: BFF
    observed: Observed
    application: Application
    clock: MovableClock = field(default_factory=MovableClock)

    @property
    def url(self) -> str:
        return self.application.url

    @property
    def home(self) -> str:
        return f"{self.url}/"

    def authorizations(self) -> list[LoggedRequest]:
        """The logins that browsers have brought to the provider."""
        asked = self.provider.log(client_id=self.client.client_id, path="/auth")
        return [request for request in asked if request.headers.get("sec-fetch-dest") == "document"]

    def redeemed(self) -> int:
        """How many codes the provider was asked to redeem."""
        return len(self.provider.log(client_id=self.client.client_id, grant_type="authorization_code"))

    def agent(self) -> UserAgent:
        """Another browser, an attacker's, say."""
        return UserAgent(self.url)

    def who(self, page: Page) -> object:
        """Who is logged in in this tab: a `sub`, or 401."""
        return page.evaluate(ME)

    def ticket(self, context: BrowserContext) -> str | None:
        """The value of the session cookie in a profile."""
        name = self.bff._settings.cookies.session
        return next((cookie["value"] for cookie in context.cookies() if cookie["name"] == name), None)


@contextmanager
def shop(
    provider: OIDCProvider,
    *,
    prompt: str | None = None,
    login: LoginOptions = LoginOptions(),  # noqa: B008  # a frozen value
    logout: LogoutOptions = LogoutOptions(),  # noqa: B008  # a frozen value
    add: Callable[[BFF], None] = lambda bff: None,
    rest: ASGIApp | None = None,
    server: Server | None = None,
    store: Callable[[Clock], MemoryStore] = MemoryStore,
    backchannel: bool = False,
) -> Iterator[Shop]:
    """
    Register the application, and serve it.

    *prompt* is sent with each login; *login* and *logout* have their options; *add* adds remote APIs; *rest* answers
    what the application does not know; *server* serves an application at a port; *store* makes the session store; with
    *backchannel* the provider is told where to say that a user has left.
    """
    application = Application.at_free_port()
    told = {"backchannel_logout_uri": f"{application.url}/bff/backchannel"} if backchannel else {}
    client = provider.add_client("basic", **application.addresses, **told)
    clock = MovableClock()
    bff = BFF(
        Client(
            issuer=provider.issuer,
            client_id=client.client_id,
            client_secret=client.client_secret,
            scope="openid profile",
            authorization_params={"prompt": prompt} if prompt else {},
        ),
        public_url=application.url,
        keys=[new_key()],
        sessions=store(clock),
        login=login,
        logout=logout,
        clock=clock,
    )
    add(bff)
    app = handlers()
    if rest is not None:
        app.mount("/", rest)
    bff.install(app)
    observed = Observed(app)
    with (server or _by_uvicorn)(observed, application.port):
        with UserAgent(application.url) as first:
            # In development mode the first login of all asks the provider whether the redirect URI is registered.
            first.navigate("/bff/login", stop_at=provider.issuer)
        observed.exchanges.clear()
        provider.clear_log()
        yield Shop(provider, client, bff, observed, application, clock)


def handlers() -> FastAPI:
    """One handler of each kind: a page and a call for users, a socket for users, and two for anybody."""
    app = FastAPI(openapi_url=None)

    @app.get("/", response_class=HTMLResponse)
    async def home() -> str:
        return "<!doctype html><title>home</title><a id=page href=/page>in</a>"

    @app.api_route("/public", methods=["GET", "POST"])
    async def public() -> dict[str, bool]:
        return {"public": True}

    @app.api_route("/me", methods=["GET", "POST"])
    async def me(request: Request, user: CurrentUser) -> str:
        return _learned(request, user)

    @app.api_route("/page", methods=["GET", "POST"], response_class=HTMLResponse)
    @app.get("/page/{name}", response_class=HTMLResponse)
    async def page(request: Request, user: PageUser, name: str = "page") -> str:
        return f"<!doctype html><title>{escape(name)} of {escape(_learned(request, user))}</title>"

    @app.websocket("/live")
    async def live(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept()
        await websocket.send_text(_learned(websocket, user))
        await websocket.close()

    return app


def _learned(connection: HTTPConnection, user: User) -> str:
    connection.scope[KEY].user = user.sub
    return user.sub


def _by_uvicorn(app: ASGIApp, port: int) -> AbstractContextManager[str]:
    return serve(app, port=port)
