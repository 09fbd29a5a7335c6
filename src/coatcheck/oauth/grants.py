"""Token requests: one form for each grant, and the request that carries it (RFC 6749 sections 4 and 6, RFC 8693)."""

from __future__ import annotations

from collections.abc import Sequence

from coatcheck.oauth.authorize import AuthorizationCode
from coatcheck.oauth.client import PROTECTED_TOKEN_PARAMS, Client, check_resource, check_scope, refuse_protected
from coatcheck.oauth.client_assertion import ClientAssertion
from coatcheck.oauth.client_auth import authenticate
from coatcheck.oauth.messages import Form, Request, form_request
from coatcheck.oauth.metadata import Metadata

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"


def token_request(
    client: Client,
    metadata: Metadata,
    form: Form,
    *,
    now: float,
    assertion: ClientAssertion | None = None,
    extra: Form = (),
) -> Request:
    """
    Build the request that sends the *form* of a grant to the token endpoint, authenticated.

    Call it anew for every attempt: a client assertion must not be sent twice. Of parameters with the same name the
    grant's own win over *extra*, and those over the client's `token_params`; *extra* cannot set what a grant sets.

    Raises:
        ConfigurationError: *extra* holds a protected name, or the client cannot authenticate.

    RFC 6749 section 3.2.
    """
    refuse_protected((name for name, _ in extra), PROTECTED_TOKEN_PARAMS, path="form_parameters")
    authentication = authenticate(client, metadata, now=now, assertion=assertion)
    parameters = _unless_present(_unless_present(form, extra), tuple(client.token_params.items()))
    return form_request(metadata.token_endpoint, (*parameters, *authentication.form), authentication.headers)


def authorization_code_form(code: AuthorizationCode | str, *, redirect_uri: str, code_verifier: str) -> Form:
    """Redeem a code, once. *redirect_uri* is the one of the authorization request (RFC 6749 4.1.3, RFC 7636 4.5)."""
    return (
        ("grant_type", "authorization_code"),
        ("code", code.code if isinstance(code, AuthorizationCode) else code),
        ("redirect_uri", redirect_uri),
        ("code_verifier", code_verifier),
    )


def refresh_form(refresh_token: str, *, scope: str | None = None, resource: Sequence[str] = ()) -> Form:
    """Use a refresh token. *scope* may only narrow what was granted; None keeps it (RFC 6749 6, RFC 8707 2.2)."""
    return (("grant_type", "refresh_token"), ("refresh_token", refresh_token), *_target(scope, resource))


def client_credentials_form(*, scope: str | None = None, resource: Sequence[str] = ()) -> Form:
    """Ask for a token of the client's own (RFC 6749 4.4)."""
    return (("grant_type", "client_credentials"), *_target(scope, resource))


def token_exchange_form(
    subject_token: str,
    *,
    subject_token_type: str = ACCESS_TOKEN_TYPE,
    audience: str | None = None,
    resource: Sequence[str] = (),
    scope: str | None = None,
    requested_token_type: str | None = None,
    actor_token: str | None = None,
    actor_token_type: str | None = None,
) -> Form:
    """
    Exchange *subject_token* for one that another API accepts: impersonation, or delegation with *actor_token*.

    *actor_token_type* defaults to an access token; without *actor_token* it is not sent.

    RFC 8693 section 2.1.
    """
    return (
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", subject_token),
        ("subject_token_type", subject_token_type),
        *_given(actor_token=actor_token, actor_token_type=actor_token and (actor_token_type or ACCESS_TOKEN_TYPE)),
        *_given(audience=audience, requested_token_type=requested_token_type),
        *_target(scope, resource),
    )


def _target(scope: str | None, resource: Sequence[str]) -> Form:
    if scope is not None:
        check_scope(scope, path="scope")
    check_resource(resource, path="resource")
    return (*_given(scope=scope), *(("resource", uri) for uri in resource))


def _given(**parameters: str | None) -> Form:
    return tuple((name, value) for name, value in parameters.items() if value)


def _unless_present(form: Form, defaults: Form) -> Form:
    """Add those *defaults* whose name *form* does not have yet."""
    names = {name for name, _ in form}
    return (*form, *(pair for pair in defaults if pair[0] not in names))
