"""
coatcheck: a Backend-for-Frontend, and access tokens that renew themselves exactly once.

The names that applications use stand here. They are loaded when they are first touched, so that a worker which imports
`coatcheck.tokens` loads no web framework. `coatcheck.fastapi` has the FastAPI dependencies, `coatcheck.testing` a
provider for tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coatcheck.bff import (
        BFF,
        BFFEvents,
        ClaimsEnricher,
        ClaimsEnricherContext,
        LoginOptions,
        LogoutOptions,
        TokensReceived,
        UserClaim,
        api_access_token,
        api_session,
        api_user,
        page_user,
    )
    from coatcheck.errors import (
        CoatcheckError,
        ConfigurationError,
        LoginRequired,
        OAuthError,
        SessionGone,
        StaleToken,
        StepUpRequired,
        StoreUnavailable,
        TokenUnavailable,
    )
    from coatcheck.oauth import Client, ClientAssertion, ClientAssertionService, PrivateKeyJWT
    from coatcheck.sessions import key_from_file, new_key
    from coatcheck.tokens import (
        AccessTokenResult,
        AccessTokenRetrievalContext,
        AccessTokenRetrievalError,
        AccessTokenRetriever,
        BearerTokenResult,
        BlockingTokens,
        CachedAccessTokenRetriever,
        ClientToken,
        DefaultAccessTokenRetriever,
        DPoPTokenResult,
        NoAccessTokenResult,
        SharedUserTokenStore,
        TokenExchangeRetriever,
        Tokens,
        TokenType,
        User,
        UserToken,
        UserTokenRequestParameters,
        UserTokenStore,
    )
    from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT

__all__ = [
    "BACK_CHANNEL_HTTP_CLIENT",
    "BFF",
    "AccessTokenResult",
    "AccessTokenRetrievalContext",
    "AccessTokenRetrievalError",
    "AccessTokenRetriever",
    "BFFEvents",
    "BearerTokenResult",
    "BlockingTokens",
    "CachedAccessTokenRetriever",
    "ClaimsEnricher",
    "ClaimsEnricherContext",
    "Client",
    "ClientAssertion",
    "ClientAssertionService",
    "ClientToken",
    "CoatcheckError",
    "ConfigurationError",
    "DPoPTokenResult",
    "DefaultAccessTokenRetriever",
    "LoginOptions",
    "LoginRequired",
    "LogoutOptions",
    "NoAccessTokenResult",
    "OAuthError",
    "PrivateKeyJWT",
    "SessionGone",
    "SharedUserTokenStore",
    "StaleToken",
    "StepUpRequired",
    "StoreUnavailable",
    "TokenExchangeRetriever",
    "TokenType",
    "TokenUnavailable",
    "Tokens",
    "TokensReceived",
    "User",
    "UserClaim",
    "UserToken",
    "UserTokenRequestParameters",
    "UserTokenStore",
    "api_access_token",
    "api_session",
    "api_user",
    "key_from_file",
    "new_key",
    "page_user",
]

_ROOMS = ("errors", "oauth", "tokens", "transport", "sessions", "bff")
"""Where a name is looked for, from the cheapest room to the dearest."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in _ROOMS:
            module = import_module(f"coatcheck.{room}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
