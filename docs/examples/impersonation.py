"""A route whose API wants a token of its own: the user's token is exchanged for one, and the answer is cached."""

import os

from fastapi import FastAPI

from coatcheck import (
    BFF,
    AccessTokenResult,
    AccessTokenRetrievalContext,
    BearerTokenResult,
    CachedAccessTokenRetriever,
    Client,
    DefaultAccessTokenRetriever,
)


class Impersonate(DefaultAccessTokenRetriever):
    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        match await super().get_access_token(context):
            case BearerTokenResult(access_token=token):
                return await context.tokens.exchange(token, audience="https://billing.internal")
            case other:  # an error stays an error: never forward the user's own token
                return other


app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
)
bff.remote_api("/api/billing", os.environ["BILLING_URL"], retriever=CachedAccessTokenRetriever(Impersonate()))
bff.install(app)
