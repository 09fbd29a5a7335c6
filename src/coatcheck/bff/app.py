"""`BFF`: one object that ties everything a browser meets, and puts it in front of an application."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from coatcheck.bff.administration import SessionAdministration
from coatcheck.bff.answers import ASGIApp
from coatcheck.bff.arrival import Arrival
from coatcheck.bff.backchannel import BackChannelLogout, serves_backchannel
from coatcheck.bff.callback import Callback
from coatcheck.bff.claims import ClaimsEnricher, ShownClaims
from coatcheck.bff.csrf import Protection
from coatcheck.bff.diagnostics import Diagnostics
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.event_stream import EventStreams
from coatcheck.bff.events import BFFEvents
from coatcheck.bff.forwarder import Forwarder, PyreqwestForwarder
from coatcheck.bff.frameworks import teach
from coatcheck.bff.frontchannel import FrontChannelLogout
from coatcheck.bff.keys import key_ring
from coatcheck.bff.lifetime import SessionLifetime
from coatcheck.bff.live import LiveSessions
from coatcheck.bff.logged_out import LoggedOut
from coatcheck.bff.login import Login, LoginStart
from coatcheck.bff.login_loop import LoginLoop
from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout import Logout, LogoutLink
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.middleware import BFFMiddleware, Desk, Endpoint
from coatcheck.bff.options import check_object, check_registration, check_visible, checked_settings
from coatcheck.bff.paths import RouteTable
from coatcheck.bff.problems import logger
from coatcheck.bff.proxy import RemoteAPI
from coatcheck.bff.session_script import SessionScript
from coatcheck.bff.silent_login import SilentLogin, SilentLoginCallback
from coatcheck.bff.storage import make_storage
from coatcheck.bff.transactions import LoginAttempts
from coatcheck.bff.user import UserEndpoint
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import CoordinationStore
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertionService
from coatcheck.sessions.cookie import SameSite
from coatcheck.sessions.sessions import Sessions
from coatcheck.sessions.store import SessionStore
from coatcheck.tokens.lease import LeaseTimes
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.retrievers import AccessTokenRetriever
from coatcheck.tokens.sending import Checkpoints, no_checkpoint
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import TokenType, UserTokenRequestParameters

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from coatcheck.tokens.auth import HTTPClients


class BFF:
    """
    A Backend-for-Frontend: login, logout, sessions, and remote APIs that are called with the user's tokens.

    *client* is the registration that users log in with; *clients* are others, by name. *public_url* is the address in
    the browser's address bar: redirect URIs and origins come from it and from nowhere else. On localhost it means
    development mode, where a key and an SQLite file are made in `.coatcheck/`; elsewhere *keys* (`coatcheck new-key`)
    and *sessions* have to be given: `"sqlite:///..."`, `"postgresql://..."`, `"redis://..."`, `"cookie"`, `"memory"`,
    or a `SessionStore`. *coordination*, a URL of the same kinds or an object, is where processes agree who renews: the
    session store, unless that cannot, as with cookies; then it is memory, which is good for one process.

    *lifetime* (8 hours) is absolute, *idle_timeout* (1 hour) counts from the last use. *same_site* `"Lax"` lets other
    sites' links arrive logged in. *csrf_header* is the name and value that scripts of ours send, *path_prefix* where
    login, logout and the others stand. With *save_tokens* False only *events* get the tokens of a login;
    *user_token_store* keeps them elsewhere than in the session. *http_clients* replaces clients by name
    (`BACK_CHANNEL_HTTP_CLIENT`), *client_assertions* signs in place of a key. *anonymous_user_status* 200 makes
    `/bff/user` answer `null` instead of 401; it shows the *user_claims* (None: all that say something of the user), or
    what *claims_enricher* makes of them. *login* has what logins may ask for, and silent and third-party logins;
    *logout* has who else ends sessions, and what is revoked and told to whom then. *hsts* is how long browsers shall
    use https only (30 days), a whole value, or None. *development* False forbids development mode on localhost.
    *clock*, *checkpoints*, *lease_times* and *forwarder* are for tests.

    Raises:
        ConfigurationError: the settings cannot work; the message names the setting and says what to do.

    RFC 10017 section 6.1.
    """

    def __init__(
        self,
        client: Client,
        *,
        public_url: str,
        keys: Sequence[str] | None = None,
        clients: Mapping[str, Client] | None = None,
        sessions: str | SessionStore | Sessions | None = None,
        coordination: str | CoordinationStore | None = None,
        lifetime: timedelta = timedelta(hours=8),
        idle_timeout: timedelta = timedelta(hours=1),
        same_site: SameSite = "Strict",
        user_token_store: UserTokenStore | None = None,
        http_clients: HTTPClients | None = None,
        client_assertions: ClientAssertionService | None = None,
        save_tokens: bool = True,
        events: BFFEvents | None = None,
        csrf_header: tuple[str, str] = ("X-CSRF", "1"),
        path_prefix: str = "/bff",
        anonymous_user_status: Literal[401, 200] = 401,
        login: LoginOptions = LoginOptions(),  # noqa: B008  # a frozen value
        logout: LogoutOptions = LogoutOptions(),  # noqa: B008  # a frozen value
        hsts: timedelta | str | None = timedelta(days=30),
        user_claims: Collection[str] | None = None,
        claims_enricher: ClaimsEnricher | None = None,
        development: bool | None = None,
        clock: Clock = SYSTEM_CLOCK,
        checkpoints: Checkpoints = no_checkpoint,
        lease_times: LeaseTimes = LeaseTimes(),  # noqa: B008  # a frozen value
        forwarder: Forwarder | None = None,
    ) -> None:
        check_registration(client, client_assertions)
        if clients is not None and "default" in clients:
            raise ConfigurationError("'default' is the registration that users log in with", path="clients")
        if not save_tokens and events is None:
            raise ConfigurationError("the tokens of a login would be lost: give events=, too", path="save_tokens")
        for at, given, method in (
            ("sessions", sessions, None),
            ("coordination", coordination, None),
            ("user_token_store", user_token_store, "get_token"),
            ("client_assertions", client_assertions, "get_client_assertion"),
            ("events", events, "tokens_received"),
            ("claims_enricher", claims_enricher, "__call__"),
        ):
            check_object(given, method, at=at)
        self._settings = checked_settings(
            client,
            public_url,
            development=development,
            same_site=same_site,
            csrf_header=csrf_header,
            path_prefix=path_prefix,
            anonymous_user_status=anonymous_user_status,
            login=login,
            logout=logout,
            hsts=hsts,
            clock=clock,
        )
        self._forwarder = forwarder if forwarder is not None else PyreqwestForwarder()
        self._remote_apis: RouteTable[RemoteAPI] = RouteTable()
        self._installed = False
        ring = key_ring(keys, development=self._settings.development)
        self._storage = make_storage(
            sessions, coordination, self._settings, ring, lifetime=lifetime, idle_timeout=idle_timeout
        )
        self.tokens = Tokens(
            {**(clients or {}), "default": client},
            store=user_token_store,
            coordination=self._storage.coordination,
            keys=ring,
            sessions=self._storage.searchable,
            http_clients=http_clients,
            client_assertions=client_assertions,
            clock=clock,
            checkpoints=checkpoints,
            lease_times=lease_times,
            revoke_refresh_token=logout.revoke_refresh_token,
            revoke_access_token=logout.revoke_access_token,
        )
        settings, tokens, all_sessions = self._settings, self.tokens, self._storage.sessions
        live = LiveSessions(
            all_sessions,
            self._storage.names,
            self._storage.notifier,
            channel=f"coatcheck:{self.application_id}:endings",
            clock=clock,
            heard=self._storage.tombstones.heard,
        )
        self._live, ending = live, SessionEnding(self._storage, tokens, live, clock=clock)
        self._ending = ending
        self.sessions = SessionAdministration(self._storage, ending, issuer=client.issuer, clock=clock)
        server = tokens.authorization_server()
        lax: SameSite = "Lax" if settings.login.response_mode == "query" else "None"
        attempts = LoginAttempts(
            ring, settings.cookies, issuer=client.issuer, shared=self._storage.coordination, same_site=lax
        )
        start, loop = LoginStart(settings, server, attempts), LoginLoop(settings.cookies, same_site=lax)
        arrival = Arrival(settings, tokens, all_sessions, ending, save_tokens=save_tokens, events=events)
        link, logged_out = LogoutLink(settings, ring), LoggedOut(settings, ring, self._storage.coordination)
        log_out = Logout(settings, tokens, all_sessions, link, logged_out, loop, ending)
        claims = ShownClaims(user_claims, claims_enricher, tokens)
        kept_tokens = tokens if save_tokens or user_token_store else None
        ends = SessionLifetime(kept_tokens)
        user = UserEndpoint(settings, link, claims, ends, kept_tokens)
        by_form = settings.login.response_mode == "form_post"
        endpoints = {
            "/login": Endpoint(
                Login(settings, start, attempts, loop),
                dict.fromkeys(("GET", "POST") if settings.login.third_party else ("GET",), Protection.LOGIN),
                reads_form=True,
            ),
            "/callback": Endpoint(
                Callback(settings, server, attempts, arrival, loop),
                dict.fromkeys(("GET", "POST") if by_form else ("GET",), Protection.TRANSACTION),
                hides_query=True,
                reads_form=True,
            ),
            "/logout": Endpoint(log_out, {"GET": Protection.SID, "POST": Protection.HEADER}, hides_query=True),
            "/logged-out": Endpoint(logged_out, {"GET": Protection.NO_SESSION}, hides_query=True),
            "/user": Endpoint(user, {"GET": Protection.HEADER}),
            "/events": Endpoint(EventStreams(settings, live, ends), {"GET": Protection.SAME_ORIGIN}),
            "/session.js": Endpoint(SessionScript(), {"GET": Protection.NO_SESSION}),
        }
        if serves_backchannel(settings.logout.backchannel, self._storage):
            endpoints["/backchannel"] = Endpoint(
                BackChannelLogout(settings, server, ending, ring, self._storage.coordination),
                {"POST": Protection.LOGOUT_TOKEN},
                hides_query=True,
                reads_form=True,
            )
        if settings.logout.frontchannel:
            front_channel = FrontChannelLogout(settings, ending, self._storage.searchable)
            endpoints["/frontchannel"] = Endpoint(front_channel, {"GET": Protection.FRONT_CHANNEL}, hides_query=True)
        if settings.login.silent:
            endpoints["/silent-login"] = Endpoint(SilentLogin(settings, start), {"GET": Protection.LOGIN})
            endpoints["/silent-login-callback"] = Endpoint(SilentLoginCallback(), {"GET": Protection.NO_SESSION})
        if settings.development:
            diagnostics = Diagnostics(settings, tokens, self._remote_apis.paths)
            endpoints["/diagnostics"] = Endpoint(diagnostics, {"GET": Protection.NAVIGATION})
            logger.info("development mode: register the redirect URI %s at %s", settings.redirect_uri, client.issuer)
        self._desk = Desk(
            settings,
            all_sessions,
            {settings.endpoints + path: endpoint for path, endpoint in endpoints.items()},
            settings.endpoints + "/",
            self._remote_apis,
            tokens,
            ending,
            partial(teach, settings=settings),
            self.aclose,
        )

    def __repr__(self) -> str:
        return (
            f"<BFF {self._settings.client_id!r} at {self._settings.public_url.origin}{self._settings.public_url.path}>"
        )

    @property
    def application_id(self) -> str:
        """Eight characters that name this application in cookies, derived keys and stores."""
        return self._settings.cookies.application_id

    @property
    def development(self) -> bool:
        """Whether development mode is on: `public_url` is on localhost, and nobody forbade it."""
        return self._settings.development

    @property
    def redirect_uri(self) -> str:
        """What has to be registered at the authorization server as the redirect URI."""
        return self._settings.redirect_uri

    @property
    def post_logout_redirect_uri(self) -> str:
        """What has to be registered there for the way back from a logout."""
        return self._settings.logged_out_uri

    @property
    def backchannel_logout_uri(self) -> str | None:
        """What can be registered there, so that it ends sessions here by itself; None where that is not served."""
        return self._address_of("/backchannel")

    @property
    def frontchannel_logout_uri(self) -> str | None:
        """The same for authorization servers that know only that (`LogoutOptions.frontchannel`)."""
        return self._address_of("/frontchannel")

    def _address_of(self, endpoint: str) -> str | None:
        path = self._settings.endpoints + endpoint
        return self._settings.public_url.absolute(path) if path in self._desk.endpoints else None

    def remote_api(
        self,
        path: str,
        url: str,
        *,
        token: TokenType | str = "user",
        retriever: AccessTokenRetriever | None = None,
        scope: str | None = None,
        resource: Sequence[str] = (),
        client: str = "default",
        timeout: timedelta = timedelta(seconds=30),
        anonymous: bool = False,
        csrf: bool = True,
        insecure: bool = False,
    ) -> None:
        """
        Send everything under *path* on to *url*, with an access token in place of the cookie.

        The rest of the path and the query follow *url* as they came: `/api/orders/7` of a route from `/api/orders` to
        `https://orders.internal/v1` becomes `https://orders.internal/v1/7`. *token* says whose: `user`, `client`,
        `user_or_client`, `user_or_none`, `none`; *retriever* decides in code.
        *scope*, *resource* and *client* (a registration) choose among the user's tokens. *timeout* is the longest
        silence. *anonymous* lets callers without a session in; *csrf* False drops the header, for downloads.
        *insecure* allows plain http to another machine.

        Raises:
            ConfigurationError: a path that overlaps another one, a URL that cannot be used, an unknown word.

        RFC 10017 section 6.1.3; RFC 6750 section 2.1, RFC 9449 section 7.1.
        """
        prefix = self._settings.endpoints
        if path == prefix or path.startswith(prefix + "/"):
            raise ConfigurationError(f"{path!r} lies among our own endpoints: choose a path outside {prefix}/")
        check_visible(path, self._settings.public_url, at="path")
        check_object(retriever, "get_access_token", at="retriever")
        self.tokens.authorization_server(client)
        parameters = UserTokenRequestParameters(client=client, scope=scope, resource=tuple(resource))
        api = RemoteAPI(
            path,
            url,
            tokens=self.tokens,
            forwarder=self._forwarder,
            settings=self._settings,
            token=token,
            retriever=retriever,
            parameters=parameters,
            anonymous=anonymous,
            csrf=csrf,
            timeout=timeout,
            insecure=insecure,
        )
        self._remote_apis.add(path, api)

    def install(self, app: Starlette) -> None:
        """
        Put this BFF in front of a Starlette or FastAPI application. Middleware that is added later stands before it.

        `LoginRequired` escaping from a handler becomes 401, `TokenUnavailable` and `StoreUnavailable` become 503, in
        mounted applications, too. The OpenAPI document of FastAPI shows which operations need the session and the
        CSRF header.
        """
        if self._installed:
            raise ConfigurationError("this BFF is installed already: one BFF serves one application")
        self._installed = True
        app.add_middleware(BFFMiddleware, desk=self._desk, application=app)
        self._desk.teach(app)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI application that is *app* with this BFF in front of it. Serve that one."""
        self._desk.teach(app)
        return BFFMiddleware(app, desk=self._desk, application=app)

    async def aclose(self) -> None:
        """Close what was opened in this event loop. The ASGI lifespan does it; call it only without one."""
        await self._live.aclose()
        await self._ending.aclose()
        await self.tokens.aclose()
        await self._storage.aclose()
        await self._forwarder.aclose()
