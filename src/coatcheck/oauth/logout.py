"""Ending it at the authorization server: the end-session URL and token revocation."""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import urlencode

from coatcheck.errors import OAuthError
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_assertion import ClientAssertion
from coatcheck.oauth.client_auth import authenticate
from coatcheck.oauth.error_response import raise_for_error
from coatcheck.oauth.messages import Request, Response, form_request
from coatcheck.oauth.metadata import Metadata

TokenTypeHint: TypeAlias = Literal["access_token", "refresh_token"]
"""What a token is that is to be revoked (RFC 7009 section 2.1)."""

MAX_ID_TOKEN_HINT = 3500
"""Characters. A URL beyond 4 KB does not pass every server and proxy (414 URI Too Long)."""


def end_session_url(
    client: Client,
    metadata: Metadata,
    *,
    id_token_hint: str | None,
    post_logout_redirect_uri: str,
    state: str | None,
    logout_hint: str | None = None,
) -> str | None:
    """
    Build the URL that logs the user out at the authorization server, or None when it has no such endpoint.

    An id_token longer than 3500 characters is left out: `client_id` says who asks, *logout_hint* who leaves.
    `Client.logout_parameter_names` serves servers with names of their own; those may not return *state*.

    OpenID Connect RP-Initiated Logout 1.0, section 2.
    """
    endpoint = metadata.end_session_endpoint
    if endpoint is None:
        return None
    if id_token_hint is not None and len(id_token_hint) > MAX_ID_TOKEN_HINT:
        id_token_hint = None
    parameters = {
        "client_id": client.client_id,
        "id_token_hint": id_token_hint,
        "logout_hint": None if id_token_hint else logout_hint,
        "post_logout_redirect_uri": post_logout_redirect_uri,
        "state": state,
    }
    names = client.logout_parameter_names or {name: name for name in parameters}
    query = urlencode([(names[name], value) for name, value in parameters.items() if value and name in names])
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"


def revocation_request(
    client: Client,
    metadata: Metadata,
    token: str,
    *,
    token_type_hint: TokenTypeHint,
    now: float,
    assertion: ClientAssertion | None = None,
) -> Request | None:
    """
    Build the request that revokes *token*, or None when the authorization server has no such endpoint.

    RFC 7009 section 2.1.
    """
    if metadata.revocation_endpoint is None:
        return None
    authentication = authenticate(client, metadata, now=now, assertion=assertion)
    form = (("token", token), ("token_type_hint", token_type_hint), *authentication.form)
    return form_request(metadata.revocation_endpoint, form, authentication.headers)


def parse_revocation_response(response: Response) -> None:
    """
    Return when the token is revoked, or was not valid any more.

    Raises:
        OAuthError: the server refused (`unsupported_token_type`, `invalid_client`): nothing to retry.
        TransportError: the server cannot answer now.
        InvalidTokenResponse: a redirect, which is never followed.

    RFC 7009 section 2.2.
    """
    try:
        raise_for_error(response, endpoint="revocation endpoint")
    except OAuthError as error:
        # RFC 7009 wants 200 for a token that is not valid any more; Google answers 400 `invalid_token`.
        if error.error != "invalid_token":
            raise
