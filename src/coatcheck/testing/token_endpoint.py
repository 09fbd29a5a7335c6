"""The token endpoint of the in-process authorization server, and the id_tokens and claims that it tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coatcheck.errors import OAuthError
from coatcheck.testing.registered_clients import RegisteredClient
from coatcheck.testing.scripting import Script
from coatcheck.testing.signing import SigningKeys, hash_claim
from coatcheck.testing.token_issuer import AccessToken, Grant, Issued, TokenIssuer

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials", TOKEN_EXCHANGE)


class TokenEndpoint:
    """Answers token requests of authenticated clients (RFC 6749 5.1, OIDC Core 3.1.3.3, RFC 8693 2.2)."""

    def __init__(self, issuer: str, tokens: TokenIssuer, keys: SigningKeys, script: Script) -> None:
        self._issuer = issuer
        self._tokens = tokens
        self._keys = keys
        self._script = script

    def answer(
        self, client: RegisteredClient, form: Mapping[str, str], resource: tuple[str, ...], *, now: float
    ) -> dict[str, Any]:
        """The members of the token response. *resource* has the values that the form repeats (RFC 8707)."""
        grant_type = form.get("grant_type")
        issued = self._issue(grant_type, client, form, resource, now=now)
        token = issued.access_token
        answer: dict[str, Any] = {"access_token": token.value, "token_type": "Bearer", "scope": token.scope}
        if self._script.behaviour.send_expires_in:
            answer["expires_in"] = max(0, round(token.expires_at - now))
        if issued.refresh_token is not None:
            answer["refresh_token"] = issued.refresh_token
        if grant_type == TOKEN_EXCHANGE:
            answer["issued_token_type"] = ACCESS_TOKEN_TYPE
        if issued.grant is not None and issued.with_id_token:
            answer["id_token"] = self._id_token(issued.grant, token, now=now)
        return self._script.tampered("token", answer)

    def user_claims(self, token: AccessToken) -> dict[str, Any]:
        """Who the user is, as far as the scope allows to tell: for the id_token and for userinfo."""
        claims: dict[str, Any] = {"sub": token.sub}
        if "profile" in token.scope.split():
            claims |= {"preferred_username": token.sub, "name": token.sub}
        return claims | self._script.behaviour.claims

    def _issue(
        self,
        grant_type: str | None,
        client: RegisteredClient,
        form: Mapping[str, str],
        resource: tuple[str, ...],
        *,
        now: float,
    ) -> Issued:
        match grant_type:
            case "authorization_code":
                return self._tokens.redeem_code(client, form, resource, now=now)
            case "refresh_token":
                return self._tokens.refresh(client, form, resource, now=now)
            case "client_credentials":
                return self._tokens.for_client(client, form, resource, now=now)
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                return self._tokens.exchange(client, form, resource, now=now)
        raise OAuthError("unsupported_grant_type", "this grant_type is not known here")

    def _id_token(self, grant: Grant, token: AccessToken, *, now: float) -> str:
        key = self._keys.newest
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": grant.client_id,
            "iat": int(now),
            "exp": int(now) + 300,
            "auth_time": int(grant.auth_time),
            "sid": grant.sid,
            "at_hash": hash_claim(token.value, key.alg),
            **self.user_claims(token),
        }
        claims |= {"nonce": grant.nonce} if grant.nonce is not None else {}
        claims |= {"acr": grant.acr} if grant.acr is not None else {}
        header = self._script.tampered("id_token_header", {"alg": key.alg, "kid": key.kid, "typ": "JWT"})
        return self._keys.sign(self._script.tampered("id_token", claims), header)
