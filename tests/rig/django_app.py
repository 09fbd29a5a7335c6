"""
django-oauth-toolkit as an OpenID provider in one file: `python django_app.py FOLDER PORT`, see `django_provider.py`.

It serves on 127.0.0.1 with a database in FOLDER, prints one JSON line once it is ready, and ends with its standard
input. Users: `alice` and `bob`, with the passwords `alice-password` and `bob-password`. Beside the provider there is
the part of the control plane that `control_plane.py` speaks to, under `/_ctl/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import django
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
ORIGIN = f"http://127.0.0.1:{PORT}"
SECRET = re.compile(r"secret|assertion|password|token$|^code$|code_verifier")


def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for-tests-only",
    ROOT_URLCONF=__name__,
    LOGIN_URL="/login/",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # cheap: nothing here is worth guessing
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "__main__.keep_a_log",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
        }
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(FOLDER / "provider.sqlite3"),
            # Two refreshes at once otherwise fail with "database is locked".
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": private_key(),
        "OIDC_RP_INITIATED_LOGOUT_ENABLED": True,
        "OIDC_RP_INITIATED_LOGOUT_ALWAYS_PROMPT": False,
        "OAUTH2_VALIDATOR_CLASS": "__main__.Validator",
        "ALWAYS_RELOAD_OAUTHLIB_CORE": True,  # or lifetimes stay as they were at the first request
        "ALLOWED_SCHEMES": ["http", "https"],
        "PKCE_REQUIRED": True,
        "SCOPES": {name: name for name in ("openid", "profile", "email", "offline_access", "api")},
        "ACCESS_TOKEN_EXPIRE_SECONDS": 300,
        "REFRESH_TOKEN_EXPIRE_SECONDS": 3600,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 0,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ROTATE_REFRESH_TOKEN": True,
    },
)
django.setup()

from django.contrib.auth import authenticate, get_user_model, login  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from oauth2_provider.models import get_application_model  # noqa: E402
from oauth2_provider.oauth2_validators import OAuth2Validator  # noqa: E402
from oauth2_provider.settings import oauth2_settings  # noqa: E402
from waitress.server import create_server  # noqa: E402

KNOBS = {
    "access_token_ttl": "ACCESS_TOKEN_EXPIRE_SECONDS",
    "refresh_token_ttl": "REFRESH_TOKEN_EXPIRE_SECONDS",
    "grace": "REFRESH_TOKEN_GRACE_PERIOD_SECONDS",
    "rotate": "ROTATE_REFRESH_TOKEN",
}
AS_AT_THE_START = {setting: getattr(oauth2_settings, setting) for setting in KNOBS.values()}
LOG: list[dict[str, Any]] = []


class Validator(OAuth2Validator):  # type: ignore[misc]
    """The claims of our users; `sub` is the user name, as with the other provider."""

    oidc_claim_scope = None

    def get_additional_claims(self, request: Any) -> dict[str, str]:
        user = request.user
        return {"sub": user.username, "name": f"User {user.username}", "email": user.email}


def keep_a_log(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: what was asked for, with fingerprints in place of secrets."""

    def serve(request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/_ctl/"):
            return get_response(request)
        parameters = (request.POST if request.method == "POST" else request.GET).dict()
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        entry = {
            "at": time.time(),
            "method": request.method,
            "path": request.path,
            "client_id": parameters.get("client_id") or _basic_client_id(scheme, credentials),
            "grant_type": parameters.get("grant_type"),
            "params": {name: _fingerprint(text) if SECRET.search(name) else text for name, text in parameters.items()},
            "auth": scheme or None,
        }
        LOG.append(entry)
        response = get_response(request)
        entry["status"] = response.status_code
        return response

    return serve


def login_page(request: HttpRequest) -> HttpResponse:
    """A form for user name and password."""
    if request.method == "POST":
        user = authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
        if user is not None:
            login(request, user)
            return HttpResponseRedirect(request.GET.get("next", "/"))
    return HttpResponse(
        '<!doctype html><title>Sign in</title><form method="post"><input name="username">'
        '<input name="password" type="password"><button type="submit">Sign in</button></form>'
    )


def control(request: HttpRequest, name: str) -> JsonResponse:
    """The control plane."""
    body = json.loads(request.body or b"{}")
    match request.method, name:
        case "GET", "log":
            return JsonResponse(LOG, safe=False)
        case "DELETE", "log":
            LOG.clear()
        case "POST", "clients":
            return JsonResponse(add_client(body))
        case "POST", "config":
            for knob, value in body.items():
                setattr(oauth2_settings, KNOBS[knob], value)
        case "POST", "reset":
            for setting, value in AS_AT_THE_START.items():
                setattr(oauth2_settings, setting, value)
        case _:
            return JsonResponse({"error": "no such control"}, status=404)
    return JsonResponse({})


def add_client(wanted: dict[str, Any]) -> dict[str, Any]:
    """Register an application; the library stores a hash of its secret, so the plain one is returned from here."""
    get_application_model().objects.create(
        name=wanted["client_id"],
        client_id=wanted["client_id"],
        client_secret=wanted["client_secret"],
        client_type="confidential",
        authorization_grant_type=wanted["grant_type"],
        redirect_uris=" ".join(wanted["redirect_uris"]),
        post_logout_redirect_uris=" ".join(wanted["post_logout_redirect_uris"]),
        skip_authorization=True,
        algorithm="RS256",
    )
    return wanted


def _basic_client_id(scheme: str, credentials: str) -> str | None:
    if scheme.lower() != "basic":
        return None
    return unquote_plus(base64.b64decode(credentials).decode().partition(":")[0])


def _fingerprint(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()[:16]}"


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


urlpatterns = [
    path("login/", login_page),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("_ctl/<str:name>", control),
]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    for user_name in ("alice", "bob"):
        get_user_model().objects.create_user(user_name, f"{user_name}@example.test", f"{user_name}-password")
    server = create_server(get_wsgi_application(), host="127.0.0.1", port=PORT, threads=8)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(json.dumps({"ready": True, "issuer": f"{ORIGIN}/o"}), flush=True)
    server.run()
