"""
The protocol, pure: requests and answers of OAuth 2.0 and OpenID Connect as values.

Nothing here awaits, opens a connection or looks at a clock. One round trip is a pair of functions (`token_request`,
`parse_token_response`); where an exchange may need two round trips it is a generator (`discover`).
"""

from coatcheck.oauth.authorize import (
    AuthorizationCode,
    AuthorizationTransaction,
    authorization_url,
    new_transaction,
    read_authorization_response,
)
from coatcheck.oauth.client import Client, ClientAuthMethod
from coatcheck.oauth.client_assertion import ClientAssertion, ClientAssertionService, PrivateKeyJWT
from coatcheck.oauth.client_auth import ClientAuthentication, authenticate, choose_method
from coatcheck.oauth.dpop import DPoPKey
from coatcheck.oauth.grants import (
    ACCESS_TOKEN_TYPE,
    authorization_code_form,
    client_credentials_form,
    refresh_form,
    token_exchange_form,
    token_request,
)
from coatcheck.oauth.id_token import check_refreshed_id_token, verify_id_token
from coatcheck.oauth.jwks import KeySet, jwks_request, parse_jwks
from coatcheck.oauth.logout import end_session_url, parse_revocation_response, revocation_request
from coatcheck.oauth.messages import Exchange, Form, Request, Response, form_request
from coatcheck.oauth.metadata import Metadata, discover, metadata_urls, parse_metadata
from coatcheck.oauth.token import TokenSet, parse_token_exchange_response, parse_token_response, require_id_token

__all__ = [
    "ACCESS_TOKEN_TYPE",
    "AuthorizationCode",
    "AuthorizationTransaction",
    "Client",
    "ClientAssertion",
    "ClientAssertionService",
    "ClientAuthMethod",
    "ClientAuthentication",
    "DPoPKey",
    "Exchange",
    "Form",
    "KeySet",
    "Metadata",
    "PrivateKeyJWT",
    "Request",
    "Response",
    "TokenSet",
    "authenticate",
    "authorization_code_form",
    "authorization_url",
    "check_refreshed_id_token",
    "choose_method",
    "client_credentials_form",
    "discover",
    "end_session_url",
    "form_request",
    "jwks_request",
    "metadata_urls",
    "new_transaction",
    "parse_jwks",
    "parse_metadata",
    "parse_revocation_response",
    "parse_token_exchange_response",
    "parse_token_response",
    "read_authorization_response",
    "refresh_form",
    "require_id_token",
    "revocation_request",
    "token_exchange_form",
    "token_request",
    "verify_id_token",
]
