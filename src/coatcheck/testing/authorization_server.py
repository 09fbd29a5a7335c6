"""
An OpenID provider that runs inside the test: real protocol, real signatures, and it does what the test tells it.

    with running_authorization_server() as server:                      # its own thread and loopback port
        server.behaviour.access_token_lifetime = timedelta(seconds=5)
        server.fail("token", status=503, grant_type="refresh_token")    # once
        ...
        assert server.count("token", grant_type="refresh_token") == 2

Without any port, `AuthorizationServerApp.send` takes the place of the HTTP client: it is the function from request to
response that the back channel calls. And the object is an ASGI application, for `httpx2.ASGITransport` or a web server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import OAuthError
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Request, Response
from coatcheck.testing.answers import (
    Receive,
    Scope,
    Send,
    error_in,
    json_answer,
    parameters_of,
    refusal,
    request_from_asgi,
    response_to_asgi,
)
from coatcheck.testing.authorization_endpoint import RESPONSE_MODES, AuthorizationEndpoint
from coatcheck.testing.backchannel_logout import BackChannelLogouts
from coatcheck.testing.registered_clients import RegisteredClient, RegisteredClients, claimed_client_id
from coatcheck.testing.scripting import Behaviour, Endpoint, LoggedRequest, Script
from coatcheck.testing.serving import loopback_socket, serving_in_thread, socket_origin
from coatcheck.testing.signing import SigningKeys
from coatcheck.testing.token_endpoint import GRANT_TYPES, TokenEndpoint
from coatcheck.testing.token_issuer import Grant, TokenIssuer, introspection_of, s256
from coatcheck.transport import Send as SendRequest

DEFAULT_CLIENT = RegisteredClient(client_id="app", client_secret="app-secret")
"""Registered when nothing else is: any redirect URI, basic or post."""

_PATHS: dict[str, tuple[Endpoint, tuple[str, ...]]] = {
    "/.well-known/openid-configuration": ("metadata", ("GET",)),
    "/.well-known/oauth-authorization-server": ("metadata", ("GET",)),
    "/jwks": ("jwks", ("GET",)),
    "/authorize": ("authorization", ("GET", "POST")),
    "/login": ("login", ("POST",)),
    "/token": ("token", ("POST",)),
    "/userinfo": ("userinfo", ("GET", "POST")),
    "/introspect": ("introspection", ("POST",)),
    "/revoke": ("revocation", ("POST",)),
    "/logout": ("end_session", ("GET", "POST")),
}


class AuthorizationServerApp(Script):
    """
    The provider. What `Script` offers (behaviour, faults, tampering, log) is the test's side of it.

    *issuer* has no path; tokens live in memory; whoever submits the login page is believed. Access tokens are random
    strings, never JWTs, so that nobody is tempted to read them: an API asks `introspect` or the endpoint of that name.
    """

    def __init__(
        self,
        issuer: str,
        *,
        clients: Sequence[RegisteredClient] = (DEFAULT_CLIENT,),
        behaviour: Behaviour | None = None,
        clock: Clock = SYSTEM_CLOCK,
        signing_alg: str = "RS256",
    ) -> None:
        super().__init__(behaviour)
        self.issuer: str = issuer
        self.clients: RegisteredClients = RegisteredClients(clients, audiences=(issuer, f"{issuer}/token"))
        self.keys: SigningKeys = SigningKeys(signing_alg)
        self._clock = clock
        self._tokens = TokenIssuer(self.behaviour)
        self._token_endpoint = TokenEndpoint(issuer, self._tokens, self.keys, self)
        self._front_channel = AuthorizationEndpoint(issuer, self.clients, self._tokens, self)
        self._logouts = BackChannelLogouts(issuer, self.clients, self.keys, self)

    def client(self, **changes: Any) -> Client:
        """The default registration from the other side, as the application under test writes it."""
        given = {"client_id": DEFAULT_CLIENT.client_id, "client_secret": DEFAULT_CLIENT.client_secret}
        return Client(issuer=self.issuer, **(given | changes))

    def introspect(self, access_token: str) -> dict[str, Any]:
        """What an API may know of an access token: `active`, `sub`, `scope`, `aud`, `exp`, `act` (RFC 7662 2.2)."""
        return introspection_of(self._tokens.active(access_token, now=self._clock.time()), issuer=self.issuer)

    def log_in(
        self, sub: str = "demo", *, scope: str = "openid profile offline_access", nonce: str | None = None
    ) -> dict[str, Any]:
        """The token response that the default client would get for a login, without the way through a browser."""
        client, now = DEFAULT_CLIENT, self._clock.time()
        grant = Grant(client_id=client.client_id, sub=sub, sid=sub, scope=scope, nonce=nonce, auth_time=now)
        code_verifier = "v" * 43
        code = self._tokens.issue_code(grant, redirect_uri="", code_challenge=s256(code_verifier), now=now)
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": "", "code_verifier": code_verifier}
        return self._token_endpoint.answer(client, form, (), now=now)

    def end_all_grants(self) -> None:
        """Revoke every consent, as an administrator would: the next refresh is answered with `invalid_grant`."""
        self._tokens.end_all_grants()

    def logout_token(
        self, *, sub: str | None = None, sid: str | None = None, client_id: str = DEFAULT_CLIENT.client_id
    ) -> str:
        """
        A logout token for *client_id*, as `log_out` sends it: that *sub* has left, or that the session *sid* ended.

        An application that has no port gets it by a test client: POST it to `/bff/backchannel` as the form field
        `logout_token`.
        """
        return self._logouts.logout_token(client_id, sub=sub, sid=sid, now=self._clock.time())

    async def log_out(
        self, *, sub: str | None = None, sid: str | None = None, send: SendRequest | None = None
    ) -> dict[str, int]:
        """
        Log *sub* out here, or the one browser whose session is *sid*, and tell each client that is registered with a
        `backchannel_logout_uri`. Grants stay as they are.

        Returns what status each client answered with, by its id. *send*, a function from request to response, takes
        the place of HTTP.

        Raises:
            TransportError: a client does not answer.
            ValueError: neither *sub* nor *sid* is given.

        OpenID Connect Back-Channel Logout 1.0, section 2.5.
        """
        if sub is None and sid is None:
            raise ValueError("say who is logged out: give sub, sid, or both")
        self._front_channel.forget(sub=sub, sid=sid)
        return await self._logouts.tell(sub=sub, sid=sid, send=send, now=self._clock.time())

    async def send(self, request: Request) -> Response:
        """
        Answer one request. The path of the URL decides; its host is not looked at.

        Raises:
            TransportError: the test asked for a connection that is cut.
        """
        endpoint, methods = _PATHS.get(urlsplit(request.url).path, (None, ()))
        if endpoint is None:
            return Response(404, {"content-type": "text/plain"}, b"no such endpoint\n")
        if request.method not in methods:
            return Response(405, {"allow": ", ".join(methods)})
        parameters = parameters_of(request)
        grant_type = dict(parameters).get("grant_type")
        fault = self.fault_for(endpoint, grant_type)

        def act() -> Response:
            return self._act(endpoint, request, parameters)

        response: Response | None = None
        try:
            response = await fault.happen(act) if fault else act()
            return response
        finally:
            entry = LoggedRequest(
                at=self._clock.time(),
                endpoint=endpoint,
                method=request.method,
                grant_type=grant_type,
                client_id=claimed_client_id(request, dict(parameters)),
                status=response.status if response else None,
                error=error_in(response),
                headers=request.headers,
                parameters=parameters,
            )
            self.log.append(entry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application. A connection that is cut shows as an exception of the application."""
        if scope["type"] != "http":
            raise ValueError(f"this application speaks http, not {scope['type']}")
        await response_to_asgi(await self.send(await request_from_asgi(scope, receive)), send)

    def _act(self, endpoint: Endpoint, request: Request, pairs: tuple[tuple[str, str], ...]) -> Response:
        """Do what the request asks for; refusals become answers here."""
        now = self._clock.time()
        # One value per name, but for `resource` (RFC 6749 3.1 and 3.2, RFC 8707 2).
        parameters, resource = dict(pairs), tuple(value for name, value in pairs if name == "resource")
        repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        try:
            if set(repeated) - {"resource"}:
                raise OAuthError("invalid_request", f"{repeated[0]} occurs twice")
            match endpoint:
                case "metadata":
                    return json_answer(self.tampered("metadata", self._metadata()))
                case "jwks":
                    return json_answer(self.tampered("jwks", self.keys.jwks()))
                case "authorization":
                    return self._front_channel.authorize(request, parameters, resource, now=now)
                case "login":
                    return self._front_channel.submit(parameters, now=now)
                case "end_session":
                    return self._front_channel.end_session(request, parameters)
                case "userinfo":
                    return self._userinfo(request, now=now)
                case _:
                    client = self.clients.authenticate(request, parameters, now=now)
                    return self._act_for(client, endpoint, parameters, resource, now=now)
        except OAuthError as error:
            return refusal(error)

    def _act_for(
        self,
        client: RegisteredClient,
        endpoint: Endpoint,
        form: Mapping[str, str],
        resource: tuple[str, ...],
        *,
        now: float,
    ) -> Response:
        """The endpoints where a client has to authenticate."""
        if endpoint == "introspection":
            return json_answer(self.introspect(form.get("token", "")))
        if endpoint == "revocation":
            self._tokens.revoke(client, form.get("token", ""))
            return Response(200)
        return json_answer(self._token_endpoint.answer(client, form, resource, now=now))

    def _userinfo(self, request: Request, *, now: float) -> Response:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        token = self._tokens.active(value, now=now) if scheme.lower() == "bearer" else None
        if token is None:
            return Response(401, {"www-authenticate": 'Bearer error="invalid_token"' if value else "Bearer"})
        return json_answer(self.tampered("userinfo", self._token_endpoint.user_claims(token)))

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "introspection_endpoint": f"{self.issuer}/introspect",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "end_session_endpoint": f"{self.issuer}/logout",
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
            "response_types_supported": ["code"],
            "response_modes_supported": RESPONSE_MODES,
            "grant_types_supported": GRANT_TYPES,
            "subject_types_supported": ["public"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "id_token_signing_alg_values_supported": [self.keys.newest.alg],
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "private_key_jwt",
                "none",
            ],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": self.behaviour.send_iss,
        }


@contextmanager
def running_authorization_server(*, port: int = 0, **options: Any) -> Iterator[AuthorizationServerApp]:
    """
    Run a provider on a loopback port, in a thread of its own, until the block ends. Takes the options of
    `AuthorizationServerApp`; the issuer is `http://127.0.0.1:PORT`. As a pytest fixture:

        @pytest.fixture
        def authorization_server():
            with running_authorization_server() as server:
                yield server
    """
    listener = loopback_socket(port)
    server = AuthorizationServerApp(socket_origin(listener), **options)
    with serving_in_thread(server.send, listener):
        yield server
