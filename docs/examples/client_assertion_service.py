"""Client assertions signed elsewhere, for instance in a key vault: a new one for every attempt."""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from joserfc import jwk, jwt

from coatcheck import BFF, Client, ClientAssertion


class KeyVaultAssertions:
    """Stands for a signer that never hands out its key."""

    def __init__(self, key: jwk.ECKey) -> None:
        self.key = key

    async def get_client_assertion(
        self, client: str, *, issuer: str, client_id: str, token_endpoint: str, context: Mapping[str, Any]
    ) -> ClientAssertion | None:
        now = int(time.time())
        claims = {"iss": client_id, "sub": client_id, "aud": issuer, "iat": now, "exp": now + 60}
        header = {"alg": "ES256", "kid": self.key.thumbprint()}
        return ClientAssertion(jwt.encode(header, claims | {"jti": secrets.token_urlsafe(16)}, self.key))


app = FastAPI()
bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_auth="private_key_jwt"),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
    client_assertions=KeyVaultAssertions(jwk.ECKey.import_key(Path(os.environ["KEY_FILE"]).read_text())),
)
bff.remote_api("/api/orders", os.environ["ORDERS_URL"])
bff.install(app)
