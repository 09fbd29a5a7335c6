"""All traffic to the token service through an HTTP client of our own: a proxy, a certificate authority, time-outs."""

import os

import httpx2
from fastapi import FastAPI

from coatcheck import BACK_CHANNEL_HTTP_CLIENT, BFF, Client

back_channel = httpx2.AsyncClient(
    timeout=httpx2.Timeout(5.0, connect=2.0),
    headers={"User-Agent": "shop/1.0"},
    trust_env=False,
    # proxy="http://proxy.internal:3128", verify=ssl.create_default_context(cafile="internal-ca.pem")
)

app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
    http_clients={BACK_CHANNEL_HTTP_CLIENT: back_channel},  # used, never closed by coatcheck
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)
