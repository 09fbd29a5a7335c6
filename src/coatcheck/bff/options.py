"""The options of `BFF`, each checked before anybody logs in, and the settings that come of them."""

from __future__ import annotations

import re
from datetime import timedelta

from coatcheck.bff.csrf import CSRFRules
from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.own_headers import hsts_header
from coatcheck.bff.public_url import PublicURL, parse_public_url
from coatcheck.bff.settings import Settings
from coatcheck.clock import Clock
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertionService
from coatcheck.sessions.cookie import CookiePolicy, SameSite, application_id


def checked_settings(
    client: Client,
    public_url: str,
    *,
    development: bool | None,
    same_site: SameSite,
    csrf_header: tuple[str, str],
    path_prefix: str,
    anonymous_user_status: int,
    login: LoginOptions,
    logout: LogoutOptions,
    hsts: timedelta | str | None,
    clock: Clock,
) -> Settings:
    """
    Make the settings of one BFF.

    Raises:
        ConfigurationError: an option that cannot work; the message names it and says what to do.
    """
    url = parse_public_url(public_url)
    in_development = url.loopback if development is None else development
    if in_development and not url.loopback:
        raise ConfigurationError(
            f"development mode needs a public_url on localhost, not {url.origin}", path="public_url"
        )
    if not url.secure and not in_development:
        raise ConfigurationError(
            f"{url.origin} is plain http, which is for development mode only: use https", path="public_url"
        )
    if _PREFIX.fullmatch(path_prefix) is None:
        raise ConfigurationError(f"{path_prefix!r} is not a path of plain segments such as /bff", path="path_prefix")
    check_visible(path_prefix, url, at="public_url")
    if anonymous_user_status not in (401, 200):
        raise ConfigurationError(f"{anonymous_user_status} is neither 401 nor 200", path="anonymous_user_status")
    name, value = csrf_header
    if _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
        raise ConfigurationError(f"{name!r} is not the name of a header, or its value is not plain", path="csrf_header")
    return Settings(
        public_url=url,
        issuer=client.issuer,
        client_id=client.client_id,
        csrf=CSRFRules(url.origin.encode("ascii"), name.lower().encode("ascii"), value.encode("ascii"), name),
        cookies=CookiePolicy(application_id(client.issuer, client.client_id, url.absolute("")), same_site=same_site),
        development=in_development,
        endpoints=path_prefix,
        anonymous_user_status=anonymous_user_status,
        login=login,
        logout=logout,
        hsts=hsts_header(hsts, url),
        clock=clock,
    )


def check_object(given: object, method: str | None, *, at: str) -> None:
    """Refuse a class in place of an object, and an object of another kind, before anybody logs in."""
    if isinstance(given, type):
        raise ConfigurationError(f"{given.__name__} is a class: give an object of it, {given.__name__}(...)", path=at)
    if given is not None and method is not None and not callable(getattr(given, method, None)):
        raise ConfigurationError(f"{type(given).__name__} has no method {method}", path=at)


def check_registration(client: Client, assertions: ClientAssertionService | None) -> None:
    """Refuse a client that cannot prove who it is: a BFF is a confidential client (RFC 10017 6.1.3.1)."""
    method = client.client_auth
    nothing = method is None and client.client_secret is None
    if method == "none" or ((nothing or method == "private_key_jwt") and assertions is None):
        raise ConfigurationError(
            "a BFF proves who it is: give client_secret, client_auth=PrivateKeyJWT(...), or client_assertions",
            path="client.client_auth",
        )
    if "openid" not in client.scope.split():
        raise ConfigurationError(
            f"scope is {client.scope!r}: it needs openid, which says who logs in", path="client.scope"
        )


def check_visible(path: str, public_url: PublicURL, *, at: str) -> None:
    """Raise ConfigurationError for a *path* that no request can have, because the path of *public_url* is taken off."""
    if public_url.hides(path):
        raise ConfigurationError(
            f"{path!r} begins with the path of public_url, {public_url.path}, which is taken off every request: "
            "write the path without it, or choose another one",
            path=at,
        )


_PREFIX = re.compile(r"(/[A-Za-z0-9_-]+)+")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_HEADER_VALUE = re.compile(r"[!-~]+")
