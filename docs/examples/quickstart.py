import os

from fastapi import FastAPI

from coatcheck import BFF, Client
from coatcheck.fastapi import CurrentUser

app = FastAPI()
client = Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"],
                scope="openid profile offline_access orders.read")
bff = BFF(client, public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"))
bff.remote_api("/api/orders", os.environ["ORDERS_URL"], token="user")
bff.install(app)


@app.get("/api/me")
async def me(user: CurrentUser) -> dict[str, str]:
    return {"hello": user.name}
