"""A small application with the library in it. With $CARELESS set it does what nobody should."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from coatcheck import BFF, Client, LogoutOptions
from coatcheck.fastapi import CurrentUser

DATABASE = Path("sessions.db").absolute()

app = FastAPI()
bff = BFF(
    Client(
        issuer=os.environ["ISSUER"],
        client_id=os.environ["CLIENT_ID"],
        client_secret=os.environ["CLIENT_SECRET"],
        scope="openid profile offline_access",
        authorization_params={"prompt": "consent"},
    ),
    public_url=os.environ["PUBLIC_URL"],
    keys=[os.environ["COATCHECK_KEY"]],
    sessions=f"sqlite://{DATABASE}",
    logout=LogoutOptions(frontchannel=True),
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)


@app.get("/", response_class=HTMLResponse)
async def home() -> str:
    return "<!doctype html><title>shop</title><h1>Shop</h1>"


@app.get("/api/me")
async def me(user: CurrentUser) -> dict[str, str | None]:
    token = await bff.tokens.user_token(user)
    if "CARELESS" not in os.environ:
        return {"hello": user.name}
    logging.getLogger("shop").debug("calling with %s", token)
    logging.getLogger("shop").debug("in the session %s", user.sid)
    logging.getLogger("shop").debug("that is %s", {"Authorization": f"Bearer {token.access_token}"})
    with sqlite3.connect(DATABASE) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS debug (text TEXT)")
        connection.execute("INSERT INTO debug VALUES (?)", (token.id_token,))
    connection.close()
    return {"hello": user.name, "debug": token.refresh_token}
