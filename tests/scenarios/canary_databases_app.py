"""An application that puts all that coatcheck keeps into one database: $STORE. $SESSIONS is the same, or "cookie"."""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from coatcheck import BFF, Client, LogoutOptions, Tokens, UserTokenRequestParameters
from coatcheck.fastapi import CurrentUser
from coatcheck.sessions import KeyRing
from coatcheck.stores import open_store
from coatcheck.tokens import SharedUserTokenStore

ring = KeyRing([os.environ["COATCHECK_KEY"]])
store = open_store(os.environ["STORE"])
client = Client(
    issuer=os.environ["ISSUER"],
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ["CLIENT_SECRET"],
    scope="openid profile offline_access",
    authorization_params={"prompt": "consent"},
)
service = Client(
    issuer=os.environ["ISSUER"],
    client_id=os.environ["SERVICE_ID"],
    client_secret=os.environ["SERVICE_SECRET"],
)

app = FastAPI()
bff = BFF(
    client,
    clients={"service": service},
    public_url=os.environ["PUBLIC_URL"],
    keys=[os.environ["COATCHECK_KEY"]],
    sessions="cookie" if os.environ["SESSIONS"] == "cookie" else store,
    coordination=store,
    logout=LogoutOptions(frontchannel=os.environ["SESSIONS"] != "cookie"),
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)
agents = Tokens(client, store=SharedUserTokenStore(store, ring), coordination=store, keys=ring)


@app.get("/", response_class=HTMLResponse)
async def home() -> str:
    return "<!doctype html><title>shop</title><h1>Shop</h1>"


@app.get("/api/renew")
async def renew(user: CurrentUser) -> str:
    await bff.tokens.user_token(user, UserTokenRequestParameters(force_renewal=True))
    return "renewed"


@app.get("/api/service")
async def fetch_for_the_service(user: CurrentUser) -> str:
    await bff.tokens.client_token(client="service")
    return "fetched"


@app.get("/api/lend")
async def lend(user: CurrentUser) -> str:
    """Let the user's agents have the grant, too."""
    await agents.store_login(user, await bff.tokens.user_token(user))
    return "lent"
