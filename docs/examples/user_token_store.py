"""Tokens in our own table, one row per user and client registration, instead of in the session."""

import os
import sqlite3

import msgspec
from fastapi import FastAPI

from coatcheck import BFF, Client, StaleToken, User, UserToken, UserTokenRequestParameters


class TableUserTokenStore:
    """Tokens in our own table, one row per user and client registration."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        database.execute(
            "CREATE TABLE IF NOT EXISTS user_token"
            " (iss TEXT, sub TEXT, client TEXT, token BLOB, PRIMARY KEY (iss, sub, client))"
        )

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        row = self.database.execute(
            "SELECT token FROM user_token WHERE iss = ? AND sub = ? AND client = ?",
            (user.iss, user.sub, parameters.client),
        ).fetchone()
        return msgspec.json.decode(row[0], type=UserToken) if row else None

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        """Store *token* only if *replaces* (None at login) is still what is stored; else raise StaleToken."""
        key = (user.iss, user.sub, parameters.client)
        with self.database:  # one transaction, which ends in any case: an open one would lock the others out
            if replaces is None:
                self.database.execute("INSERT OR REPLACE INTO user_token VALUES (?, ?, ?, ?)", (*key, _bytes(token)))
                return
            update = "UPDATE user_token SET token = ? WHERE iss = ? AND sub = ? AND client = ? AND token = ?"
            if self.database.execute(update, (_bytes(token), *key, _bytes(replaces))).rowcount == 0:
                raise StaleToken("another token is stored by now")

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        with self.database:
            self.database.execute(
                "DELETE FROM user_token WHERE iss = ? AND sub = ? AND client = ?",
                (user.iss, user.sub, parameters.client),
            )


def _bytes(token: UserToken) -> bytes:
    return msgspec.json.encode(token)  # in production, seal this: it is as good as the user's password


app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
    user_token_store=TableUserTokenStore(sqlite3.connect(os.environ.get("DATABASE", "tokens.db"))),
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)
