"""Recorded answers of six providers: from each, the right authorization, token, revocation and logout requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from coatcheck.errors import InvalidAuthorizationResponse, InvalidGrant, InvalidMetadata
from coatcheck.oauth import (
    Client,
    Metadata,
    authorization_code_form,
    authorization_url,
    discover,
    end_session_url,
    parse_metadata,
    parse_token_response,
    read_authorization_response,
    refresh_form,
    require_id_token,
    revocation_request,
    token_request,
)
from tests.oauth.samples import NOW, REDIRECT_URI, answer, form_of, query_of, transaction

LOGGED_OUT = "https://app.example.com/bff/logged-out"


@dataclass(frozen=True)
class Provider:
    """What one would configure for a provider, and what must come out beyond what comes out for all."""

    name: str
    client: Client
    discovery: str
    authorize: str
    authorize_params: Mapping[str, str] = field(default_factory=dict)
    logout: str | None = None
    revoke: str | None = None
    lifetime: int = 3600
    refresh_token: str | None = None
    renewed_refresh_token: str | None = None
    scope: str | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        recorded: dict[str, Any] = json.loads(
            Path(__file__).with_name("recorded").joinpath(f"{self.name}.json").read_text()
        )
        return recorded

    @property
    def metadata(self) -> Metadata:
        return parse_metadata(answer(self.recorded["discovery"]), self.client)


def registration(issuer: str, **more: Any) -> Client:
    return Client(issuer=issuer, client_id="shop", client_secret="s3cr3t/+", **more)


KEYCLOAK = "https://keycloak.example.com/realms/shop"
ENTRA = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555"
OKTA = "https://dev-000000.okta.com/oauth2/default"
COGNITO = "https://shop-example.auth.eu-west-1.amazoncognito.com"

PROVIDERS = [
    Provider(
        "keycloak",
        registration(KEYCLOAK, scope="openid profile email"),
        discovery=f"{KEYCLOAK}/.well-known/openid-configuration",
        authorize=f"{KEYCLOAK}/protocol/openid-connect/auth",
        logout=f"{KEYCLOAK}/protocol/openid-connect/logout",
        revoke=f"{KEYCLOAK}/protocol/openid-connect/revoke",
        lifetime=300,
        refresh_token="keycloak-refresh-token-1",
        renewed_refresh_token="keycloak-refresh-token-2",
        scope="openid email profile",
    ),
    Provider(
        "entra",
        registration(f"{ENTRA}/v2.0", scope="openid profile offline_access api://orders/read"),
        discovery=f"{ENTRA}/v2.0/.well-known/openid-configuration",
        authorize=f"{ENTRA}/oauth2/v2.0/authorize",
        logout=f"{ENTRA}/oauth2/v2.0/logout",
        lifetime=4227,
        refresh_token="1.entra-refresh-token-1",
        renewed_refresh_token="1.entra-refresh-token-2",
        scope="api://orders/read openid profile email",
    ),
    Provider(
        "auth0",
        registration(
            "https://tenant-example.eu.auth0.com/",
            scope="openid profile orders.read",
            authorization_params={"audience": "https://orders"},
        ),
        discovery="https://tenant-example.eu.auth0.com/.well-known/openid-configuration",
        authorize="https://tenant-example.eu.auth0.com/authorize",
        authorize_params={"audience": "https://orders"},
        logout="https://tenant-example.eu.auth0.com/oidc/logout",
        revoke="https://tenant-example.eu.auth0.com/oauth/revoke",
        lifetime=86400,
        refresh_token=None,  # without offline_access there is none
        renewed_refresh_token="v1.auth0-refresh-token-2",
        scope="openid profile orders.read",
    ),
    Provider(
        "okta",
        registration(OKTA),
        discovery=f"{OKTA}/.well-known/openid-configuration",
        authorize=f"{OKTA}/v1/authorize",
        logout=f"{OKTA}/v1/logout",
        revoke=f"{OKTA}/v1/revoke",
        refresh_token="okta-refresh-token-1",
        renewed_refresh_token="okta-refresh-token-1",  # persistent by default: the same again
        scope="offline_access profile openid",
    ),
    Provider(
        "cognito",
        registration(
            "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE01",
            scope="openid profile email",
            endpoints={"end_session_endpoint": f"{COGNITO}/logout"},
            logout_parameter_names={"client_id": "client_id", "post_logout_redirect_uri": "logout_uri"},
        ),
        discovery="https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE01/.well-known/openid-configuration",
        authorize=f"{COGNITO}/oauth2/authorize",
        logout=f"{COGNITO}/logout",
        revoke=f"{COGNITO}/oauth2/revoke",
        refresh_token="cognito-refresh-token-1",
        renewed_refresh_token=None,  # a refresh answers without one: the first is kept
        scope=None,
    ),
    Provider(
        "google",
        registration(
            "https://accounts.google.com",
            scope="openid profile email",
            authorization_params={"access_type": "offline", "prompt": "consent"},
        ),
        discovery="https://accounts.google.com/.well-known/openid-configuration",
        authorize="https://accounts.google.com/o/oauth2/v2/auth",
        authorize_params={"access_type": "offline", "prompt": "consent"},
        revoke="https://oauth2.googleapis.com/revoke",
        lifetime=3599,
        refresh_token="1//google-refresh-token-1",
        renewed_refresh_token=None,
        scope="openid https://www.googleapis.com/auth/userinfo.profile https://www.googleapis.com/auth/userinfo.email",
    ),
]
BY_NAME = {provider.name: provider for provider in PROVIDERS}

each_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)


@each_provider
def test_discovery_finds_the_document_at_the_first_url(provider: Provider) -> None:
    flow = discover(provider.client)
    assert next(flow).url == provider.discovery
    with pytest.raises(StopIteration) as done:
        flow.send(answer(provider.recorded["discovery"]))
    assert done.value.value == provider.metadata


@each_provider
def test_authorization_request(provider: Provider) -> None:
    begun = transaction(provider.client)
    url = authorization_url(provider.client, provider.metadata, begun)
    query = query_of(url)
    assert url.partition("?")[0] == provider.authorize
    assert len({name for name, _ in query}) == len(query)
    assert (
        dict(query).items()
        >= {
            "response_type": "code",
            "client_id": "shop",
            "redirect_uri": REDIRECT_URI,
            "scope": provider.client.scope,
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge_method": "S256",
            **provider.authorize_params,
        }.items()
    )


@each_provider
def test_code_request_and_its_answer(provider: Provider) -> None:
    begun = transaction(provider.client)
    form = authorization_code_form("c0de", redirect_uri=REDIRECT_URI, code_verifier=begun.code_verifier)
    request = token_request(provider.client, provider.metadata, form, now=NOW)
    assert request.url == provider.recorded["discovery"]["token_endpoint"]
    assert dict(form_of(request)) == {
        "grant_type": "authorization_code",
        "code": "c0de",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": begun.code_verifier,
    }
    # All six list client_secret_basic, and form-decode what stands in it.
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"shop:s3cr3t%2F%2B").decode()

    tokens = parse_token_response(answer(provider.recorded["code"]), requested_at=NOW)
    assert tokens.token_type == "Bearer"
    assert tokens.expires_at == NOW + provider.lifetime
    assert tokens.refresh_token == provider.refresh_token
    assert tokens.scope == provider.scope
    assert require_id_token(tokens, scope=begun.scope) == f"{provider.name}-id-token-1"


@each_provider
def test_refresh_request_and_its_answer(provider: Provider) -> None:
    request = token_request(provider.client, provider.metadata, refresh_form("rt-0"), now=NOW)
    assert request.url == provider.recorded["discovery"]["token_endpoint"]
    assert dict(form_of(request)) == {"grant_type": "refresh_token", "refresh_token": "rt-0"}

    tokens = parse_token_response(answer(provider.recorded["refresh"]), requested_at=NOW)
    assert tokens.access_token == f"{provider.name}-access-token-2"
    assert tokens.refresh_token == provider.renewed_refresh_token
    assert tokens.expires_at is not None
    assert NOW < tokens.expires_at <= NOW + 86400


@pytest.mark.spec("REF-13")
@each_provider
def test_a_refresh_token_that_is_over_is_told_apart(provider: Provider) -> None:
    refused = provider.recorded["refused"]
    with pytest.raises(InvalidGrant) as caught:
        parse_token_response(answer(refused["body"], refused["status"]), requested_at=NOW)
    assert str(caught.value).isprintable()


@each_provider
def test_revocation_request(provider: Provider) -> None:
    request = revocation_request(provider.client, provider.metadata, "rt", token_type_hint="refresh_token", now=NOW)
    assert (request.url if request else None) == provider.revoke


def logout_url(client: Client, metadata: Metadata) -> str | None:
    return end_session_url(
        client, metadata, id_token_hint="h.p.s", post_logout_redirect_uri=LOGGED_OUT, state="st", logout_hint="ada"
    )


@each_provider
def test_logout_request(provider: Provider) -> None:
    url = logout_url(provider.client, provider.metadata)
    assert (url.partition("?")[0] if url else None) == provider.logout


@pytest.mark.parametrize("name", ["keycloak", "entra", "auth0", "okta"])
def test_logout_request_of_those_that_follow_the_specification(name: str) -> None:
    url = logout_url(BY_NAME[name].client, BY_NAME[name].metadata)
    assert url is not None
    assert dict(query_of(url)) == {
        "client_id": "shop",
        "id_token_hint": "h.p.s",
        "post_logout_redirect_uri": LOGGED_OUT,
        "state": "st",
    }


@pytest.mark.parametrize("in_metadata", [False, True])
def test_cognito_logout_has_names_of_its_own_and_no_id_token_in_its_url(in_metadata: bool) -> None:
    """Some user pools publish the endpoint, older ones do not; what it wants is the same."""
    cognito = BY_NAME["cognito"]
    document = dict(cognito.recorded["discovery"])
    if in_metadata:
        document["end_session_endpoint"] = f"{COGNITO}/logout"
    client = replace(cognito.client, endpoints={} if in_metadata else cognito.client.endpoints)
    url = logout_url(client, parse_metadata(answer(document), client))
    assert url is not None
    assert url.partition("?")[0] == f"{COGNITO}/logout"
    assert dict(query_of(url)) == {"client_id": "shop", "logout_uri": LOGGED_OUT}


def test_google_has_no_logout() -> None:
    assert logout_url(BY_NAME["google"].client, BY_NAME["google"].metadata) is None


@pytest.mark.spec("OAU-13")
def test_google_sends_an_iss_that_it_does_not_announce() -> None:
    google = BY_NAME["google"]
    assert not google.metadata.authorization_response_iss_parameter_supported
    begun = transaction(google.client)
    query = [("state", begun.state), ("iss", "https://accounts.google.com"), ("code", "4/0A"), ("scope", "openid")]
    assert read_authorization_response(query, begun, google.metadata).code == "4/0A"


@pytest.mark.spec("OAU-12")
def test_keycloak_announces_iss_and_must_send_it() -> None:
    keycloak = BY_NAME["keycloak"]
    begun = transaction(keycloak.client)
    query = [("state", begun.state), ("session_state", "x"), ("code", "c")]
    with pytest.raises(InvalidAuthorizationResponse):
        read_authorization_response(query, begun, keycloak.metadata)
    assert read_authorization_response([*query, ("iss", KEYCLOAK)], begun, keycloak.metadata).code == "c"


@pytest.mark.spec("OAU-05")
def test_entra_does_not_mention_pkce_and_gets_it_all_the_same() -> None:
    entra = BY_NAME["entra"]
    assert entra.metadata.code_challenge_methods_supported is None
    url = authorization_url(entra.client, entra.metadata, transaction(entra.client))
    assert dict(query_of(url))["code_challenge_method"] == "S256"


@pytest.mark.spec("MET-01", "MET-03")
@pytest.mark.parametrize("tenant", ["common", "organizations"])
def test_entra_issuers_for_every_tenant_are_refused(tenant: str) -> None:
    """Their metadata names `{tenantid}` as issuer: whoever accepts that accepts tokens of any tenant."""
    client = registration(f"https://login.microsoftonline.com/{tenant}/v2.0")
    document = {**BY_NAME["entra"].recorded["discovery"], "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}
    with pytest.raises(InvalidMetadata, match="tenantid"):
        parse_metadata(answer(document), client)


@pytest.mark.spec("MET-01")
def test_auth0_issuer_ends_with_a_slash_and_saying_so_is_required() -> None:
    client = registration("https://tenant-example.eu.auth0.com")
    with pytest.raises(InvalidMetadata, match=r"configure exactly that"):
        parse_metadata(answer(BY_NAME["auth0"].recorded["discovery"]), client)


def test_older_auth0_tenants_log_out_by_an_endpoint_and_names_of_their_own() -> None:
    client = replace(
        BY_NAME["auth0"].client,
        endpoints={"end_session_endpoint": "https://tenant-example.eu.auth0.com/v2/logout"},
        logout_parameter_names={"client_id": "client_id", "post_logout_redirect_uri": "returnTo"},
    )
    url = logout_url(client, parse_metadata(answer(BY_NAME["auth0"].recorded["discovery"]), client))
    assert url is not None
    assert urlsplit(url).path == "/v2/logout"
    assert dict(query_of(url)) == {"client_id": "shop", "returnTo": LOGGED_OUT}
