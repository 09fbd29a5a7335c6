"""coatcheck logs users in and stores no token: our event receives them, our store answers for them."""

import os

from fastapi import FastAPI

from coatcheck import BFF, BFFEvents, Client, StaleToken, TokensReceived, User, UserToken, UserTokenRequestParameters

VAULT: dict[tuple[str, str, str], UserToken] = {}  # stands for a vault of our own


class KeepInVault(BFFEvents):
    async def tokens_received(self, event: TokensReceived) -> None:
        """Called at login. An exception here fails the login, so no user is left without tokens."""
        VAULT[event.user.iss, event.user.sub, event.client] = event.token


class VaultUserTokenStore:
    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        return VAULT.get((user.iss, user.sub, parameters.client))

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        if replaces is not None and VAULT.get((user.iss, user.sub, parameters.client)) != replaces:
            raise StaleToken("another token is stored by now")
        VAULT[user.iss, user.sub, parameters.client] = token

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        VAULT.pop((user.iss, user.sub, parameters.client), None)


app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
    save_tokens=False,
    events=KeepInVault(),
    user_token_store=VaultUserTokenStore(),
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)
