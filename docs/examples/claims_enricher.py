"""The page learns more than the id_token says: an API of yours knows what this user may do."""

import os
from collections.abc import Sequence
from typing import Any

import httpx2
from fastapi import FastAPI

from coatcheck import BFF, ClaimsEnricherContext, Client


async def with_roles(context: ClaimsEnricherContext) -> Sequence[tuple[str, Any]]:
    auth = context.tokens.auth(token="user", user=context.user)
    async with httpx2.AsyncClient(base_url=os.environ["ROLES_URL"], auth=auth, timeout=5) as http:
        response = await http.get("/roles")
    response.raise_for_status()  # the page gets a 503, and never a user without roles
    return [*context.claims, *(("role", role) for role in response.json()["roles"])]


app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
    user_claims=["sub", "name", "email"],
    claims_enricher=with_roles,
)
bff.install(app)
