"""Which token may this request carry: stores, renewal, retrievers."""

from coatcheck.tokens.blocking import BlockingTokens
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.login import Redeemed
from coatcheck.tokens.manager import Tokens
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
from coatcheck.tokens.sending import Checkpoints
from coatcheck.tokens.shared_store import SharedUserTokenStore
from coatcheck.tokens.store import SessionUserTokenStore, UserTokenStore
from coatcheck.tokens.values import ClientToken, TokenType, User, UserToken, UserTokenRequestParameters

__all__ = [
    "AccessTokenResult",
    "AccessTokenRetrievalContext",
    "AccessTokenRetrievalError",
    "AccessTokenRetriever",
    "BearerTokenResult",
    "BlockingTokens",
    "CachedAccessTokenRetriever",
    "Checkpoints",
    "ClientToken",
    "DPoPTokenResult",
    "DefaultAccessTokenRetriever",
    "NoAccessTokenResult",
    "Redeemed",
    "SessionUserTokenStore",
    "SharedUserTokenStore",
    "TokenExchangeRetriever",
    "TokenState",
    "TokenType",
    "Tokens",
    "User",
    "UserToken",
    "UserTokenRequestParameters",
    "UserTokenStore",
]
