"""`Tokens`: which token may this request carry, and where does it come from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import CoordinationStore
from coatcheck.errors import (
    ConfigurationError,
    LoginRequired,
    SessionGone,
)
from coatcheck.oauth.authorize import AuthorizationCode, AuthorizationTransaction
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertionService
from coatcheck.oauth.messages import Form
from coatcheck.provider import AuthorizationServer
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.session import SessionFilter
from coatcheck.sessions.sessions import SearchableSessions
from coatcheck.tokens.client_token_cache import SharedClientTokens
from coatcheck.tokens.client_tokens import ClientTokenRequest, ClientTokens
from coatcheck.tokens.coordinator import WAITER_DEADLINE, RenewalCoordinator, TokensState
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.exchanging import exchange
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.grant_names import GrantNames
from coatcheck.tokens.lease import Leases, LeaseTimes
from coatcheck.tokens.login import Redeemed, redeem
from coatcheck.tokens.meeting_place import meeting_place
from coatcheck.tokens.renewal import Renewer
from coatcheck.tokens.results import BearerTokenResult
from coatcheck.tokens.revocation import Revocation
from coatcheck.tokens.rollback import StoreHistory
from coatcheck.tokens.rotation import RotationProfiles
from coatcheck.tokens.sending import Checkpoints, Sender, no_checkpoint
from coatcheck.tokens.store import SessionUserTokenStore, UserTokenStore, session_bytes
from coatcheck.tokens.traffic import Traffic
from coatcheck.tokens.user_search import find_user
from coatcheck.tokens.values import (
    DEFAULT_PARAMETERS,
    NOTHING,
    ClientToken,
    User,
    UserToken,
    UserTokenRequestParameters,
)
from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT, BackChannel, Send

if TYPE_CHECKING:
    from coatcheck.tokens.auth import HTTPClients as HTTPClients  # these load httpx2
    from coatcheck.tokens.auth import TokenAuth


class Tokens:
    """
    Hands out access tokens, and renews them when they are due, once.

    *client* is one registration (named `default`) or several by name. *store* keeps users' tokens, by default in their
    sessions. *http_clients* may replace the HTTP client of the back channel; *client_assertions* signs for us.

    *coordination* is where all processes that use the same grants meet: a `SQLiteStore`, `PostgreSQLStore`,
    `RedisStore`, or an object of your own that is a `LeaseStore` and an `ExpiringStore`. With it come the *keys*, the
    same in each process (`coatcheck new-key`, or `key_from_file`). Without it, renewals are serialised in this process
    only. *sessions* is where `user` looks for sessions: those of a `BFF` are given to its own `tokens`.

    *waiter_deadline* is how long one caller waits for a renewal at most. With *background* False nothing is renewed
    after its caller has left. *revoke_refresh_token* and *revoke_access_token* are what a logout gives back; the access
    tokens of a refresh token that stays do, too. Use one object per application and event loop, and close it: `async
    with Tokens(...)`, or `aclose()`. The others are for tests.

    Raises:
        ConfigurationError: no registration, coordination without keys, or an object that cannot coordinate.
    """

    def __init__(
        self,
        client: Client | Mapping[str, Client],
        *,
        store: UserTokenStore | None = None,
        http_clients: HTTPClients | None = None,
        client_assertions: ClientAssertionService | None = None,
        coordination: CoordinationStore | None = None,
        keys: Sequence[str] | KeyRing | None = None,
        sessions: SearchableSessions | None = None,
        background: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        checkpoints: Checkpoints = no_checkpoint,
        lease_times: LeaseTimes = LeaseTimes(),  # noqa: B008  # a frozen value
        send: Send | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waiter_deadline: timedelta = WAITER_DEADLINE,
        revoke_refresh_token: bool = True,
        revoke_access_token: bool = True,
    ) -> None:
        self.clients: Mapping[str, Client] = MappingProxyType(
            {"default": client} if isinstance(client, Client) else dict(client)
        )
        if not self.clients:
            raise ConfigurationError("at least one client registration is needed", path="clients")
        self.clock = clock
        self.store: UserTokenStore = store if store is not None else SessionUserTokenStore()
        self.http_clients: HTTPClients = http_clients if http_clients is not None else {}
        self._back_channel: BackChannel | None = None
        if send is None:
            self._back_channel = BackChannel(self.http_clients.get(BACK_CHANNEL_HTTP_CLIENT))
            send = self._back_channel.send
        traffic = Traffic(clock)
        self._endpoints = {
            name: TokenEndpoint(
                name,
                AuthorizationServer(registration, send, clock),
                send,
                traffic=traffic,
                assertions=client_assertions,
                clock=clock,
            )
            for name, registration in self.clients.items()
        }
        self._sessions = sessions
        shared, ring = meeting_place(coordination, keys, clock)
        names = GrantNames(ring.derive_all("grants"))
        self._history = StoreHistory(shared, names.watermark(), ring, clock=clock)
        profiles = RotationProfiles(shared, names, ring, clock=clock)
        leases = Leases(shared, clock=clock, times=lease_times)
        renewer = Renewer(
            self.store,
            clock=clock,
            leases=leases,
            names=names,
            sender=Sender(profiles, clock=clock, times=lease_times, checkpoints=checkpoints),
            history=self._history,
            checkpoints=checkpoints,
            pause=pause,
        )
        self._renewals = RenewalCoordinator(
            renewer,
            self.store,
            self._endpoint,
            clock=clock,
            waiter_deadline=waiter_deadline,
            background=background,
        )
        self._revocation = Revocation(
            self._endpoints,
            self.store,
            refresh_token=revoke_refresh_token,
            access_token=revoke_access_token,
            clock=clock,
        )
        self._client_tokens = ClientTokens(
            clock=clock,
            waiter_deadline=waiter_deadline,
            shared=None if coordination is None else SharedClientTokens(shared, ring, leases=leases, clock=clock),
        )

    def __repr__(self) -> str:
        return f"<Tokens of {', '.join(self.clients)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Let the renewals under way finish and be written, then close what was opened here. A given *coordination* or
        *store* stays open: close it afterwards.
        """
        await self._renewals.drain()
        await self._client_tokens.drain()
        for endpoint in self._endpoints.values():
            await endpoint.server.aclose()
        if self._back_channel is not None:
            await self._back_channel.aclose()

    def authorization_server(self, client: str = "default") -> AuthorizationServer:
        """Return the authorization server of a registration: its metadata, its keys."""
        return self._endpoint(client).server

    async def user(self, *, sub: str | None = None, sid: str | None = None, iss: str | None = None) -> User:
        """
        Find the session of a user who is not here, for a job that acts in their name: by *sub*, by *sid*, or both.

        Of several sessions it is the one that was used last. *iss* is the login's issuer if nothing else is said.
        Neither this nor renewing counts as a use of the session. Ask again for each piece of work: what is returned
        does not learn that the session has ended.

        Raises:
            LoginRequired: there is no session (`session_missing`).
            StoreUnavailable, UnknownSealKey: nobody can say.
            ConfigurationError: sessions cannot be searched where they are kept.
            ValueError: neither *sub* nor *sid*.
        """
        who = SessionFilter(iss if iss is not None else self._endpoint("default").client.issuer, sub, sid)
        return await find_user(self._sessions, who, now=self.clock.time())

    async def user_token(self, user: User, parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS) -> UserToken:
        """
        Return the user's access token, renewed if it is due.

        A stale token is returned at once and renewed meanwhile; only an expired one makes the caller wait. Where the
        session is in cookies a stale one does, too, for 3 seconds at most: this response has to bring the new cookie.

        Raises:
            LoginRequired: the session is over, or only the user can help; `code` says which.
            TokenUnavailable: no token can be had just now. Try again later.
            StoreUnavailable: nobody can say.
        """
        try:
            token = await self.store.get_token(user, parameters)
            if token is None:
                raise LoginRequired(
                    f"no token of registration {parameters.client!r} is stored for this user", code="login_required"
                )
            if not parameters.force_renewal and token.state(self.clock.time()) is TokenState.FRESH:
                return token
            return await self._renewals.renewed(user, parameters, token)
        except SessionGone as error:
            raise LoginRequired("the session has ended", code="session_ended") from error

    async def state_of(self, user: User, parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS) -> TokensState:
        """Say how it stands with the user's token. Nothing is sent, and nothing is renewed."""
        return await self._renewals.state_of(user, parameters)

    async def grant_ends_at(self, user: User) -> float | None:
        """
        Say when the user's grant ends unless it is renewed before (seconds since the epoch); None when nobody knows.

        That is known where the authorization server announces how long its refresh tokens live.

        Raises:
            StoreUnavailable: the tokens cannot be read.
        """
        try:
            token = await self.store.get_token(user, DEFAULT_PARAMETERS)
        except (LoginRequired, SessionGone):
            return None
        return None if token is None else token.grant_ends_at

    async def store_restored(self) -> None:
        """
        Tell all processes that a store was restored from a backup just now, as `coatcheck sessions restored` does.

        Refresh tokens that came before may have been spent since the backup: where the authorization server rotates
        them they are not sent any more. Raises `StoreUnavailable` when they may not know it: try again.
        """
        await self._history.note_restore()

    async def client_token(
        self,
        *,
        client: str = "default",
        scope: str | None = None,
        resource: tuple[str, ...] = (),
        form_parameters: Form = (),
        context: Mapping[str, Any] = NOTHING,
        refused: str | None = None,
    ) -> ClientToken:
        """
        Return an access token of the registration itself. Without *scope* the authorization server chooses.

        *refused* is the text of an access token that an API has refused: what is returned is another one.

        Raises:
            TokenUnavailable: none can be had just now.

        RFC 6749 section 4.4.
        """
        request = ClientTokenRequest(scope=scope, resource=resource, form_parameters=form_parameters, context=context)
        return await self._client_tokens.token(self._endpoint(client), request, refused=refused)

    async def exchange(
        self,
        subject_token: str,
        *,
        audience: str | None = None,
        resource: tuple[str, ...] = (),
        scope: str | None = None,
        client: str = "default",
        actor_token: str | None = None,
    ) -> BearerTokenResult:
        """
        Exchange an access token for one that another API accepts: impersonation, or delegation with *actor_token*.

        Nothing is cached here; `CachedAccessTokenRetriever` does that.

        Raises:
            OAuthError: the authorization server refuses this token or this target.
            TokenUnavailable: it cannot answer now, or the configuration is wrong.

        RFC 8693 section 2.
        """
        return await exchange(
            self._endpoint(client),
            subject_token,
            audience=audience,
            resource=resource,
            scope=scope,
            actor_token=actor_token,
        )

    async def redeem(self, code: AuthorizationCode, transaction: AuthorizationTransaction) -> Redeemed:
        """
        End a login: exchange the code and verify the id_token. Nothing is stored.

        Raises:
            OAuthError, InvalidTokenResponse, InvalidIDToken, TransportError: the login has failed.

        OpenID Connect Core 1.0, sections 3.1.3.3 and 3.1.3.7.
        """
        return await redeem(self._endpoint(transaction.client), code, transaction)

    def session_bytes(self, token: UserToken, *, client: str = "default") -> bytes:
        """Return what a new session starts with: the token of the login, or nothing when another store keeps it."""
        return session_bytes(token, client=client) if isinstance(self.store, SessionUserTokenStore) else b""

    async def store_login(self, user: User, token: UserToken, *, client: str = "default") -> None:
        """Hand the token of a login to the application's own store; the session's has it from the start."""
        if not isinstance(self.store, SessionUserTokenStore):
            received = token if token.issued_at else replace(token, issued_at=self.clock.time())
            await self.store.store_token(user, received, UserTokenRequestParameters(client=client), replaces=None)

    async def revoke(self, user: User) -> None:
        """
        Revoke the user's tokens, as a logout does before the session ends, and clear them from a store of the
        application's own.

        What is revoked is what no renewal is about to replace. Never raises for what a store or a provider does wrong.

        RFC 7009 section 2.1.
        """
        await self._revocation.revoke(user, self._renewals.settled)

    async def revoke_ended(self, user: User) -> None:
        """
        The same for a session that was deleted already: `user.session` is its handle, which still has the tokens.

        No renewal is waited for: one that is under way finds its session gone, and revokes what it brought.
        """
        await self._revocation.revoke(user, self._renewals.left_behind)

    def auth(
        self,
        *,
        token: Literal["client", "user"] = "client",
        user: User | None = None,
        scope: str | None = None,
        resource: tuple[str, ...] = (),
        client: str = "default",
    ) -> TokenAuth:
        """
        Return an `auth=` for `httpx2.AsyncClient` that attaches a token and renews it after a 401.

        Give it to clients that call one API only: it puts the token on every request of that client.

        Raises:
            ConfigurationError: `token="user"` without a user.
        """
        from coatcheck.tokens.auth import TokenAuth

        if token == "client":
            return TokenAuth(partial(self.client_token, client=client, scope=scope, resource=resource))
        if user is None:
            raise ConfigurationError("token='user' needs to know which: give user=...", path="user")
        parameters = UserTokenRequestParameters(client=client, scope=scope, resource=resource)
        forced = replace(parameters, force_renewal=True)

        async def user_token(*, refused: str | None = None) -> UserToken:
            token = await self.user_token(user, parameters)
            # Many calls may be refused together: whoever comes after the renewal uses what it brought.
            return await self.user_token(user, forced) if token.access_token == refused else token

        return TokenAuth(user_token, user=user)

    def _endpoint(self, client: str) -> TokenEndpoint:
        try:
            return self._endpoints[client]
        except KeyError:
            raise ConfigurationError(
                f"there is no client registration named {client!r}: expected one of {', '.join(self.clients)}",
                path="client",
            ) from None
