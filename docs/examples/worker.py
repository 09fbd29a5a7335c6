"""A job without a browser: a client-credentials token, renewed when due, on every call of an HTTP client."""

import asyncio
import os
from pathlib import Path

import httpx2

from coatcheck.oauth import Client, PrivateKeyJWT
from coatcheck.tokens import Tokens


async def main() -> None:
    pem = Path(os.environ["KEY_FILE"]).read_text()
    tokens = Tokens(Client(issuer=os.environ["ISSUER"], client_id="worker", client_auth=PrivateKeyJWT(pem)))
    auth = tokens.auth(token="client", scope="orders.read")
    async with tokens, httpx2.AsyncClient(base_url=os.environ["ORDERS_URL"], auth=auth) as http:
        response = await http.get("/orders")
        print(response.status_code, response.json())


if __name__ == "__main__":
    asyncio.run(main())
