"""Which token may this request carry: stores, renewal, retrievers."""

from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.login import Redeemed
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.renewal import Checkpoints, RenewalLease
from coatcheck.tokens.results import (
    AccessTokenResult,
    AccessTokenRetrievalError,
    BearerTokenResult,
    DPoPTokenResult,
    NoAccessTokenResult,
)
from coatcheck.tokens.retrievers import (
    AccessTokenRetrievalContext,
    AccessTokenRetriever,
    CachedAccessTokenRetriever,
    DefaultAccessTokenRetriever,
    TokenExchangeRetriever,
)
from coatcheck.tokens.store import SessionUserTokenStore, UserTokenStore
from coatcheck.tokens.values import ClientToken, TokenType, User, UserToken, UserTokenRequestParameters

__all__ = [
    "AccessTokenResult",
    "AccessTokenRetrievalContext",
    "AccessTokenRetrievalError",
    "AccessTokenRetriever",
    "BearerTokenResult",
    "CachedAccessTokenRetriever",
    "Checkpoints",
    "ClientToken",
    "DPoPTokenResult",
    "DefaultAccessTokenRetriever",
    "NoAccessTokenResult",
    "Redeemed",
    "RenewalLease",
    "SessionUserTokenStore",
    "TokenExchangeRetriever",
    "TokenState",
    "TokenType",
    "Tokens",
    "User",
    "UserToken",
    "UserTokenRequestParameters",
    "UserTokenStore",
]
