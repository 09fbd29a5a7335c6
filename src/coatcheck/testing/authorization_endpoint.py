"""The front channel of the in-process authorization server: authorization request, login page, logout."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from coatcheck.errors import InvalidIDToken, OAuthError
from coatcheck.oauth.jws import parse_jws, read_json
from coatcheck.oauth.messages import Request, Response
from coatcheck.testing.login_pages import error_page, form_post_page, login_page, signed_out_page
from coatcheck.testing.registered_clients import RegisteredClient, RegisteredClients
from coatcheck.testing.scripting import Script
from coatcheck.testing.token_issuer import Grant, TokenIssuer

SESSION_COOKIE = "test_authorization_server"
RESPONSE_MODES = ["query", "form_post"]

Parameters = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """A checked authorization request that waits for the user."""

    client_id: str
    redirect_uri: str
    scope: str
    state: str | None
    nonce: str | None
    code_challenge: str
    resource: tuple[str, ...]
    prompt: frozenset[str]
    max_age: float | None
    acr_values: tuple[str, ...]
    login_hint: str | None
    form_post: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """Who is logged in at the authorization server in this browser."""

    sub: str
    sid: str
    auth_time: float
    acr: str | None = None


class AuthorizationEndpoint:
    """Lets a person log in, and sends the browser back with a code (RFC 6749 4.1, RFC 7636, RFC 9207)."""

    def __init__(self, issuer: str, clients: RegisteredClients, tokens: TokenIssuer, script: Script) -> None:
        self._issuer = issuer
        self._clients = clients
        self._tokens = tokens
        self._script = script
        self._waiting: dict[str, AuthorizationRequest] = {}
        self._logged_in: dict[str, LoggedIn] = {}

    def authorize(self, request: Request, parameters: Parameters, resource: tuple[str, ...], *, now: float) -> Response:
        """The authorization endpoint: straight back for who is logged in, otherwise the login page."""
        client = self._clients[parameters.get("client_id", "")]
        redirect_uri = parameters.get("redirect_uri", "")
        if client is None:
            return error_page("The client_id is not registered.")
        if not _is_registered(redirect_uri, client.redirect_uris):
            return error_page(f"The redirect_uri {redirect_uri} is not registered for {client.client_id}.")
        try:
            wanted = _checked(client, redirect_uri, parameters, resource)
            known = self._recognised(request, wanted, now=now)
            if "none" in wanted.prompt and known is None:
                raise OAuthError("login_required", "nobody is logged in here")
        except OAuthError as error:
            by_form = parameters.get("response_mode") == "form_post"
            return self._refuse(redirect_uri, parameters.get("state"), error, form_post=by_form)
        if known is not None:
            return self._allow(wanted, known, now=now)
        if self._script.behaviour.auto_login:
            return self._log_in(wanted, self._script.behaviour.username, now=now)
        transaction = secrets.token_urlsafe(16)
        self._waiting[transaction] = wanted
        return login_page(
            issuer=self._issuer,
            action=f"{self._issuer}/login",
            transaction=transaction,
            client_id=wanted.client_id,
            scope=wanted.scope,
            username=wanted.login_hint or self._script.behaviour.username,
        )

    def submit(self, parameters: Parameters, *, now: float) -> Response:
        """What the button of the login page sends."""
        wanted = self._waiting.pop(parameters.get("transaction", ""), None)
        if wanted is None:
            return error_page("This login was finished already, or never begun.")
        if parameters.get("decision") != "allow":
            refused = OAuthError("access_denied", "the user cancelled the login")
            return self._refuse(wanted.redirect_uri, wanted.state, refused, form_post=wanted.form_post)
        return self._log_in(wanted, parameters.get("username") or self._script.behaviour.username, now=now)

    def end_session(self, request: Request, parameters: Parameters) -> Response:
        """RP-Initiated Logout 1.0: forget who is here, and go on to a registered address only."""
        self._logged_in.pop(_cookie(request), None)
        client = self._clients[parameters.get("client_id") or _audience_of(parameters.get("id_token_hint", ""))]
        target = parameters.get("post_logout_redirect_uri")
        headers = {"set-cookie": f"{SESSION_COOKIE}=; Path=/; Max-Age=0"}
        if target is None or client is None or not _is_registered(target, client.post_logout_redirect_uris):
            page = signed_out_page(self._issuer)
            return Response(page.status, {**page.headers, **headers}, page.body)
        state = {"state": parameters["state"]} if "state" in parameters else {}
        return _redirect(target, state, headers)

    def forget(self, *, sub: str | None, sid: str | None) -> None:
        """Log out whoever is *sub*, or the one browser whose session is *sid*; with both, both have to fit."""
        self._logged_in = {
            cookie: known
            for cookie, known in self._logged_in.items()
            if sub not in (None, known.sub) or sid not in (None, known.sid)
        }

    def _recognised(self, request: Request, wanted: AuthorizationRequest, *, now: float) -> LoggedIn | None:
        known = self._logged_in.get(_cookie(request))
        if known is None or wanted.prompt & {"login", "select_account"}:
            return None
        if wanted.acr_values and known.acr not in wanted.acr_values:
            return None
        return known if wanted.max_age is None or now - known.auth_time <= wanted.max_age else None

    def _log_in(self, wanted: AuthorizationRequest, sub: str, *, now: float) -> Response:
        cookie = secrets.token_urlsafe(16)
        acr = self._script.behaviour.acr or next(iter(wanted.acr_values), None)
        known = self._logged_in[cookie] = LoggedIn(sub=sub, sid=secrets.token_urlsafe(16), auth_time=now, acr=acr)
        headers = {"set-cookie": f"{SESSION_COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Lax"}
        return self._allow(wanted, known, now=now, headers=headers)

    def _allow(
        self, wanted: AuthorizationRequest, known: LoggedIn, *, now: float, headers: Mapping[str, str] | None = None
    ) -> Response:
        grant = Grant(
            client_id=wanted.client_id,
            sub=known.sub,
            sid=known.sid,
            scope=wanted.scope,
            resource=wanted.resource,
            nonce=wanted.nonce,
            auth_time=known.auth_time,
            acr=known.acr,
        )
        code = self._tokens.issue_code(
            grant, redirect_uri=wanted.redirect_uri, code_challenge=wanted.code_challenge, now=now
        )
        return self._answer(wanted.redirect_uri, {"code": code}, wanted.state, headers, form_post=wanted.form_post)

    def _refuse(self, redirect_uri: str, state: str | None, error: OAuthError, *, form_post: bool) -> Response:
        members = {"error": error.error, "error_description": error.error_description or ""}
        return self._answer(redirect_uri, members, state, form_post=form_post)

    def _answer(
        self,
        redirect_uri: str,
        members: dict[str, str],
        state: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        form_post: bool,
    ) -> Response:
        members |= {"state": state} if state is not None else {}
        members |= {"iss": self._issuer} if self._script.behaviour.send_iss else {}
        members = self._script.tampered("authorization_response", members)
        if form_post:
            page = form_post_page(redirect_uri, members)
            return Response(page.status, {**page.headers, **(headers or {})}, page.body)
        return _redirect(redirect_uri, members, headers or {})


def _checked(
    client: RegisteredClient, redirect_uri: str, parameters: Parameters, resource: tuple[str, ...]
) -> AuthorizationRequest:
    """Check what may be answered with a redirect: from here on the redirect URI can be trusted."""
    if parameters.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "only response_type=code is known here")
    if parameters.get("response_mode", "query") not in RESPONSE_MODES:
        raise OAuthError("invalid_request", f"known here is response_mode={' or '.join(RESPONSE_MODES)}")
    if parameters.get("code_challenge_method") != "S256" or len(parameters.get("code_challenge", "")) != 43:
        raise OAuthError("invalid_request", "PKCE with S256 is required")
    max_age = parameters.get("max_age")
    return AuthorizationRequest(
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scope=parameters.get("scope", ""),
        state=parameters.get("state"),
        nonce=parameters.get("nonce"),
        code_challenge=parameters["code_challenge"],
        resource=resource,
        prompt=frozenset(parameters.get("prompt", "").split()),
        max_age=float(max_age) if max_age is not None else None,
        acr_values=tuple(parameters.get("acr_values", "").split()),
        login_hint=parameters.get("login_hint"),
        form_post=parameters.get("response_mode") == "form_post",
    )


def _is_registered(uri: str, registered: tuple[str, ...] | None) -> bool:
    if registered is not None:
        return uri in registered
    return urlsplit(uri).scheme in ("http", "https") and "#" not in uri


def _audience_of(id_token_hint: str) -> str:
    """Whose id_token this is. Nothing depends on it but which addresses may be gone on to, so it is not verified."""
    try:
        return str(read_json(parse_jws(id_token_hint).payload, "payload").get("aud"))
    except InvalidIDToken:
        return ""


def _cookie(request: Request) -> str:
    pairs = (pair.strip().partition("=") for pair in request.headers.get("cookie", "").split(";"))
    return next((value for name, _, value in pairs if name == SESSION_COOKIE), "")


def _redirect(uri: str, members: Mapping[str, str], headers: Mapping[str, str]) -> Response:
    separator = "" if not members else "&" if "?" in uri else "?"
    location = f"{uri}{separator}{urlencode(members)}"
    return Response(303, {"location": location, "cache-control": "no-store", **headers})
