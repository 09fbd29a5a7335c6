"""What most tests of the tokens need: a clock, an authorization server, sessions, and users who are logged in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any

from coatcheck.errors import SessionGone, StaleToken
from coatcheck.oauth.client import Client
from coatcheck.sessions import (
    CookiePolicy,
    CookieSessions,
    KeyRing,
    ServerSideSessions,
    SessionHandle,
    Sessions,
    SessionStore,
    new_key,
    parse_cookies,
)
from coatcheck.stores import MemoryStore
from coatcheck.tokens import Tokens, User, UserToken, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.token_service import CLIENT_ID, ISSUER, TokenService

CLIENT = Client(issuer=ISSUER, client_id=CLIENT_ID, client_secret="secret of the shop")
LIFETIME = timedelta(minutes=5)
STALE = LIFETIME - timedelta(seconds=20)
"""After this long a token of five minutes is stale, whatever its jitter; it is expired at 295 s."""


class TableUserTokenStore:
    """A store as an application would write it: a table with one row per user and client registration."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], UserToken] = {}

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        return self.rows.get((user.iss, user.sub, parameters.client))

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        key = (user.iss, user.sub, parameters.client)
        if replaces is not None:
            if key not in self.rows:
                raise SessionGone("the row was deleted")
            if self.rows[key].refresh_token != replaces.refresh_token:
                raise StaleToken("the row holds another token")
        self.rows[key] = token

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        self.rows.pop((user.iss, user.sub, parameters.client), None)


class Scene:
    """
    An application: `tokens` over sessions of one kind, or over a `store` of its own.

    *clock* is that of its machine; the authorization server goes by *provider_clock* if that is another one.
    """

    def __init__(
        self,
        *,
        cookies: bool = False,
        coordination: type[MemoryStore] = MemoryStore,
        clock: HandClock | None = None,
        provider_clock: HandClock | None = None,
        **tokens_arguments: Any,
    ) -> None:
        self.clock = clock or HandClock()
        self.coordination = coordination(self.clock)
        self.keys = [new_key()]
        self.service = TokenService(provider_clock or self.clock)
        self.pauses: list[float] = []
        self.sessions: Sessions
        if cookies:
            self.sessions = CookieSessions(
                KeyRing(self.keys), CookiePolicy("abcdefgh"), clock=self.clock, coordination=self.coordination
            )
        else:
            self.replace_session_store(MemoryStore(self.clock))
        ours: dict[str, Any] = {
            "client": CLIENT,
            "send": self.service,
            "clock": self.clock,
            "pause": self._pause,
            "coordination": self.coordination,
            "keys": self.keys,
        }
        self._arguments: dict[str, Any] = ours | tokens_arguments
        self.tokens = Tokens(**self._arguments)

    def replace_session_store(self, store: SessionStore) -> None:
        """Keep sessions in *store* from now on."""
        self.sessions = ServerSideSessions(store, KeyRing([new_key()]), CookiePolicy("abcdefgh"), clock=self.clock)

    def other_process(self, **arguments: Any) -> Tokens:
        """Return tokens as another process has them: they share the stores, and nothing else."""
        own: dict[str, Any] = self._arguments | {"store": self.tokens.store} | arguments
        return Tokens(**own)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def log_in(self, sub: str = "alice") -> Browser:
        """Log somebody in, with a session of their own."""
        answer = self.service.login(sub)
        token = UserToken(
            access_token=answer["access_token"],
            issued_at=self.clock.time(),
            expires_at=self.clock.time() + LIFETIME.total_seconds(),
            refresh_token=answer["refresh_token"],
            id_token=answer["id_token"],
            scope="openid offline_access",
        )
        handle = await self.sessions.create(
            claims={"name": sub.title()},
            iss=ISSUER,
            sub=sub,
            sid=None,
            tokens=self.tokens.session_bytes(token),
            now=self.clock.time(),
        )
        await self.tokens.store_login(_user(handle), token)
        return Browser(self, handle)


class Browser:
    """Keeps the session cookie of one user between requests, as a browser does."""

    def __init__(self, scene: Scene, handle: SessionHandle) -> None:
        self._scene = scene
        self._jar: dict[str, str] = {}
        self.receive(handle)

    async def request(self) -> User:
        """Begin a request: the user with a session handle of its own."""
        handle = await self._open()
        assert handle is not None
        return _user(handle)

    async def is_logged_in(self) -> bool:
        """Whether the cookie still leads to a session."""
        return await self._open() is not None

    async def _open(self) -> SessionHandle | None:
        header = "; ".join(f"{name}={value}" for name, value in self._jar.items()).encode()
        return await self._scene.sessions.open(parse_cookies([(b"cookie", header)]), now=self._scene.clock.time())

    def receive(self, handle: SessionHandle | None) -> None:
        """Take the cookies that the response of a request carries."""
        assert handle is not None
        for line in handle.set_cookies():
            for morsel in SimpleCookie(line.decode()).values():
                self._jar[morsel.key] = morsel.value

    async def stored(self) -> UserToken:
        """What the session holds now."""
        token = await self._scene.tokens.store.get_token(await self.request(), UserTokenRequestParameters())
        assert token is not None
        return token

    async def log_out(self) -> None:
        """End the session as another request of the same user does."""
        session = (await self.request()).session
        assert session is not None
        await self._scene.sessions.end(session)


def _user(handle: SessionHandle) -> User:
    session = handle.session
    return User(iss=session.iss, sub=session.sub, sid=session.sid, claims=session.claims, session=handle)


def forced(parameters: UserTokenRequestParameters | None = None) -> UserTokenRequestParameters:
    return replace(parameters or UserTokenRequestParameters(), force_renewal=True)
