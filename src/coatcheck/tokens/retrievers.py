"""Which token a call to a remote API carries: the default answer, and two that wrap or extend it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from coatcheck.errors import LoginRequired, OAuthError, TokenUnavailable
from coatcheck.single_flight import SingleFlight
from coatcheck.tokens.freshness import DEFAULT_LIFETIME, expiry_margin
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.results import (
    AccessTokenResult,
    AccessTokenRetrievalError,
    BearerTokenResult,
    DPoPTokenResult,
    NoAccessTokenResult,
)
from coatcheck.tokens.values import ClientToken, TokenType, User, UserToken, UserTokenRequestParameters

if TYPE_CHECKING:
    from coatcheck.tokens.auth import HTTPClients  # loads httpx2


class AccessTokenRetrievalContext(NamedTuple):
    """
    Everything a retriever may want to know about the call it finds a token for.

    *asgi* is the ASGI scope of the browser's request. *user* and *session_id* are None without a live session. *token*,
    *anonymous*, *api* (the path it is mounted at) and *parameters* are what the route says, *path* is the part of the
    request's path below *api*. *tokens* and *http_clients* are there to be used.

    A named tuple, because one is made for each call and a frozen dataclass takes three times as long to make.
    """

    asgi: Mapping[str, Any]
    user: User | None
    session_id: str | None
    token: TokenType
    anonymous: bool
    api: str
    path: str
    parameters: UserTokenRequestParameters
    tokens: Tokens
    http_clients: HTTPClients

    def __repr__(self) -> str:
        what = f"user={self.user!r}, token={self.token!r}, api={self.api!r}, path={self.path!r}"
        return f"AccessTokenRetrievalContext({what})"


class AccessTokenRetriever(Protocol):
    """Finds the access token for one call to a remote API."""

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        """
        Return a token, no token, or an error for the browser.

        Raising is answered with 503 and one line in the log; the remote API is then not called.
        """
        ...


class DefaultAccessTokenRetriever:
    """
    The token that the route asks for by its `TokenType`. Extend it and call `super().get_access_token(context)`.

    `client`, `user_or_client` and `user_or_none` need a live session too, unless the route says `anonymous`. A user who
    is logged in and whose token cannot be had gets an error, never the client's token and never a call without one.
    """

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        """Answer from the store, renewing where it is due."""
        try:
            return await self._token(context)
        except LoginRequired as error:
            return AccessTokenRetrievalError(error.code, str(error), status=401)
        except TokenUnavailable as error:
            return AccessTokenRetrievalError("token_unavailable", str(error), status=503, retry_after=error.retry_after)

    async def _token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        token, user, parameters = context.token, context.user, context.parameters
        if token is TokenType.NONE:
            return NoAccessTokenResult()
        if user is not None and token is not TokenType.CLIENT:
            return as_result(await context.tokens.user_token(user, parameters), scope=parameters.scope)
        if token is TokenType.USER or (user is None and not context.anonymous):
            return AccessTokenRetrievalError("session_missing", f"{context.api} needs a user who is logged in")
        if token is TokenType.USER_OR_NONE:
            return NoAccessTokenResult()
        client_token = await context.tokens.client_token(
            client=parameters.client,
            scope=parameters.scope,
            resource=parameters.resource,
            form_parameters=parameters.form_parameters,
            context=parameters.context,
        )
        return as_result(client_token, scope=parameters.scope)


def as_result(token: UserToken | ClientToken, *, scope: str | None = None) -> AccessTokenResult:
    """
    Turn a token into what the proxy attaches, if it was granted the *scope* that was asked for.

    One that is bound to a key never goes out as a bearer token.
    """
    missing = not_granted(scope, token.scope)
    if missing is not None:
        return missing
    token_type = token.token_type.lower()
    if token_type == "bearer":
        return BearerTokenResult(token.access_token, token.expires_at, token.scope)
    if token_type == "dpop" and isinstance(token, UserToken) and token.dpop_key is not None:
        return DPoPTokenResult(token.access_token, token.dpop_key, token.expires_at)
    return AccessTokenRetrievalError(
        "token_unavailable",
        f"the token is of type {token.token_type}, and there is no key to prove it with",
        status=503,
    )


def not_granted(asked: str | None, granted: str | None) -> AccessTokenRetrievalError | None:
    """
    Refuse a call for which less scope was *granted* than *asked* for. *granted* None is all of it, and empty is none.

    Scopes of OpenID Connect are no right at an API, and providers answer them with other words, or not at all: Google
    with URLs, Entra without `offline_access`. Entra's `.default` stands for whatever was consented to.

    RFC 6749, sections 3.3 and 5.1.
    """
    if asked is None or granted is None:
        return None
    wanted = {name for name in asked.split() if name not in _OPENID_SCOPES and not name.endswith("/.default")}
    missing = " ".join(sorted(wanted.difference(granted.split())))
    if not missing:
        return None
    description = (
        f"the authorization server granted the scope {granted!r}, without {missing!r}: let the client have it there, "
        "and ask for it in the login's scope, too"
    )
    return AccessTokenRetrievalError("insufficient_scope", description, status=403)


_OPENID_SCOPES = frozenset({"openid", "profile", "email", "address", "phone", "offline_access"})


class TokenExchangeRetriever(DefaultAccessTokenRetriever):
    """
    Exchanges the token of the route for one that another API accepts. Wrap it in `CachedAccessTokenRetriever`.

    With *actor* None the API sees the user only (impersonation); with `"client"` the client's own token goes along as
    the actor, and the new token can say who acts for whom (delegation). *client* names the registration that exchanges.
    When the exchange fails the call fails: the original token is never sent on.

    RFC 8693, sections 1.1 and 2.1.
    """

    def __init__(
        self,
        *,
        audience: str | None = None,
        resource: tuple[str, ...] = (),
        scope: str | None = None,
        client: str = "default",
        actor: Literal["client"] | None = None,
    ) -> None:
        self._audience = audience
        self._resource = resource
        self._scope = scope
        self._client = client
        self._actor = actor

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        """Fetch the route's token and exchange it."""
        match await super().get_access_token(context):
            case BearerTokenResult(access_token=subject_token) | DPoPTokenResult(access_token=subject_token):
                return await self._exchanged(subject_token, context)
            case other:
                return other

    async def _exchanged(self, subject_token: str, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        try:
            actor = await context.tokens.client_token(client=self._client) if self._actor else None
            exchanged = await context.tokens.exchange(
                subject_token,
                audience=self._audience,
                resource=self._resource,
                scope=self._scope,
                client=self._client,
                actor_token=actor.access_token if actor else None,
            )
            return not_granted(self._scope, exchanged.scope) or exchanged
        except OAuthError as error:
            description = (
                f"the token exchange was refused ({error}): check audience, resource and scope, and that the client "
                "may exchange tokens for them"
            )
            return AccessTokenRetrievalError(error.error, description, status=403)
        except TokenUnavailable as error:
            return AccessTokenRetrievalError("token_unavailable", str(error), status=503, retry_after=error.retry_after)


class CachedAccessTokenRetriever:
    """
    Remembers the tokens of an expensive retriever, each until it expires, at most *max_entries* of them.

    Equal calls that arrive together wait for one answer, found outside of any request: the *context* is there, context
    variables are not. Errors are never remembered. Override `cache_key` when the inner retriever looks at more than the
    key holds, for instance at `context.path`.

    The token that an inner exchange starts from is not part of the key: it is the session's, a session belongs to one
    user, and a renewed subject token yields no other answer. A session that has ended cannot ask any more.
    """

    def __init__(self, inner: AccessTokenRetriever, *, max_entries: int = 10_000) -> None:
        self._inner = inner
        self._memory: ExpiringMemory[Hashable, AccessTokenResult] = ExpiringMemory(max_entries)
        self._flights: SingleFlight[Hashable, AccessTokenResult] = SingleFlight()

    def cache_key(self, context: AccessTokenRetrievalContext) -> Hashable | None:
        """Return everything that may change the answer, or None to ask the inner retriever each time."""
        if context.session_id is None and not context.anonymous:
            return None
        parameters = context.parameters
        return (
            context.session_id,
            context.user,
            context.api,
            context.token,
            parameters.client,
            parameters.slot,
            frozenset(parameters.context.items()),
        )

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        """Answer from memory while the remembered token lives."""
        key = self.cache_key(context)
        if key is None:
            return await self._inner.get_access_token(context)
        if not context.parameters.force_renewal:
            remembered = self._memory.get(key, now=context.tokens.clock.time())
            if remembered is not None:
                return remembered
        return await self._flights.join(key, lambda: self._fetch(key, context))

    async def _fetch(self, key: Hashable, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        asked_at = context.tokens.clock.time()
        result = await self._inner.get_access_token(context)
        if isinstance(result, BearerTokenResult | DPoPTokenResult):
            self._memory.put(key, result, now=asked_at, until=_usable_until(result.expires_at, asked_at))
        return result


def _usable_until(expires_at: float | None, asked_at: float) -> float:
    if expires_at is None:
        return asked_at + DEFAULT_LIFETIME
    return expires_at - expiry_margin(expires_at - asked_at)
