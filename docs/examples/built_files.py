"""The application serves the built files of its frontend itself."""

import os

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from coatcheck import BFF, Client
from coatcheck.fastapi import CurrentUser

app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
)
bff.install(app)


@app.get("/api/me")
async def me(user: CurrentUser) -> dict[str, str]:
    return {"hello": user.name}


app.mount("/", StaticFiles(directory=os.environ.get("DIST", "dist"), html=True))
