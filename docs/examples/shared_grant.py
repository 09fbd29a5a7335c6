"""A command-line tool: however many of its processes run at once, they share one grant and renew it once."""

import os
import sys
from pathlib import Path

import httpx2

from coatcheck import BlockingTokens, Client, LoginRequired, SharedUserTokenStore, User, UserToken, key_from_file
from coatcheck.stores import SQLiteStore

folder = Path(os.environ.get("ORDERS_FOLDER", Path.home() / ".orders"))
keys = [key_from_file(folder / "key")]
database = SQLiteStore(folder / "grants.db")
client = Client(issuer=os.environ["ISSUER"], client_id="orders-cli", client_auth="none")
user = User(client.issuer, os.environ["ORDERS_USER"])  # iss and sub, as in the id_token


def main() -> None:
    store = SharedUserTokenStore(database, keys)
    with BlockingTokens(client, store=store, coordination=database, keys=keys) as tokens:
        if sys.argv[1:] == ["login"]:  # with a refresh token that a device flow or your web application has got
            refresh_token = sys.stdin.readline().strip() or sys.exit("there is no refresh token on the standard input")
            tokens.store_login(user, UserToken.from_refresh_token(refresh_token))
            return
        auth = tokens.auth(token="user", user=user)
        with httpx2.Client(base_url=os.environ["ORDERS_URL"], auth=auth) as http:
            response = http.get("/orders")
            print(response.status_code, response.json())


if __name__ == "__main__":
    try:
        main()
    except LoginRequired as error:
        sys.exit(f"{error}: give a refresh token to {sys.argv[0]} login")
