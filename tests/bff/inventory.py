"""What a BFF serves with everything switched on, and what each path is: rows for `test_inventory.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from coatcheck.bff import BFF
from coatcheck.bff.csrf import Protection
from coatcheck.bff.forwarder import Body
from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout_options import LogoutOptions
from tests.bff.world import ISSUER, LOCAL, PUBLIC, World, world

HEADER, SID, NO_SESSION = Protection.HEADER, Protection.SID, Protection.NO_SESSION
LOGIN, TRANSACTION, NAVIGATION = Protection.LOGIN, Protection.TRANSACTION, Protection.NAVIGATION
LOGOUT_TOKEN, FRONT_CHANNEL = Protection.LOGOUT_TOKEN, Protection.FRONT_CHANNEL
SAME_ORIGIN = Protection.SAME_ORIGIN
WITHOUT_HEADER = "a remote API with csrf=False: no other origin gets through"

EVERYTHING: Mapping[str, Any] = {
    "login": LoginOptions(silent=True, third_party=True, response_mode="form_post"),
    "logout": LogoutOptions(frontchannel=True),
}
"""Options of `BFF` that are off by default and bring endpoints: all of them are on here."""


@dataclass(frozen=True)
class Row:
    """
    What a path is, and the status of its answer to: a stranger; a user; a user's page without the CSRF header; another
    site's script in a user's browser; another site's link there.
    """

    protection: Protection | str
    stranger: int
    user: int
    without_header: int
    foreign_script: int
    foreign_link: int


REMOTE = Row(HEADER, 401, 200, 403, 403, 403)
OPEN_REMOTE = Row(HEADER, 200, 200, 403, 403, 403)
VERBS = ("GET", "POST", "OPTIONS")
"""The methods with which remote APIs are tried; `test_proxy_order.py` has them all, for one."""

TABLE: dict[tuple[str, str], Row] = {
    # our own; a link of another site gets a hop, a question or an error, and the session is as it was
    ("GET", "/bff/login"): Row(LOGIN, 302, 302, 400, 400, 200),
    ("POST", "/bff/login"): Row(LOGIN, 200, 200, 400, 400, 200),
    ("GET", "/bff/callback"): Row(TRANSACTION, 400, 400, 400, 400, 400),
    ("POST", "/bff/callback"): Row(TRANSACTION, 400, 400, 400, 400, 400),
    ("GET", "/bff/silent-login"): Row(LOGIN, 302, 302, 400, 400, 400),
    ("GET", "/bff/silent-login-callback"): Row(NO_SESSION, 200, 200, 200, 200, 200),
    ("GET", "/bff/logout"): Row(SID, 200, 400, 400, 400, 400),
    ("POST", "/bff/logout"): Row(HEADER, 200, 303, 403, 403, 403),
    ("GET", "/bff/logged-out"): Row(NO_SESSION, 302, 302, 302, 302, 302),
    ("GET", "/bff/user"): REMOTE,
    ("GET", "/bff/events"): Row(SAME_ORIGIN, 401, 200, 200, 403, 403),
    ("GET", "/bff/session.js"): Row(NO_SESSION, 200, 200, 200, 200, 200),
    ("POST", "/bff/backchannel"): Row(LOGOUT_TOKEN, 400, 400, 400, 400, 400),
    ("GET", "/bff/frontchannel"): Row(FRONT_CHANNEL, 200, 200, 200, 200, 200),
    ("GET", "/bff/diagnostics"): Row(NAVIGATION, 200, 200, 403, 403, 403),
    # remote APIs, by the names of `remote_apis`
    **{(verb, path): REMOTE for verb in VERBS for path in ("/r/user", "/r/client", "/r/user_or_client")},
    **{(verb, path): OPEN_REMOTE for verb in VERBS for path in ("/r/none", "/r/anybody", "/r/anybodys-client")},
    **{(verb, "/r/user_or_none"): REMOTE for verb in VERBS},
    **{(verb, "/r/download"): Row(WITHOUT_HEADER, 401, 200, 200, 403, 403) for verb in VERBS},
    # the application's: `tests.bff.world.application`
    **{(verb, "/api/me"): REMOTE for verb in ("GET", "POST", "DELETE")},
    ("GET", "/page"): Row(NAVIGATION, 302, 200, 403, 403, 200),
    ("POST", "/page"): Row(HEADER, 401, 200, 403, 403, 403),
    ("GET", "/"): Row(NO_SESSION, 200, 200, 200, 200, 200),
    ("POST", "/"): Row(NO_SESSION, 200, 200, 200, 200, 200),
}

PARAMETERS = {
    "/bff/callback": "code=c0de&state=x",
    "/bff/backchannel": "logout_token=x",
    "/bff/frontchannel": f"iss={ISSUER}&sid=x",
}
"""What is asked for; in the query, or in a form."""

DEVELOPMENT_ONLY = {("GET", "/bff/diagnostics")}
BY_OPTION = {
    ("POST", "/bff/login"),
    ("POST", "/bff/callback"),
    ("GET", "/bff/silent-login"),
    ("GET", "/bff/silent-login-callback"),
    ("GET", "/bff/frontchannel"),
}
FRAMED: Mapping[str, tuple[str | None, str]] = {
    "/bff/silent-login-callback": ("SAMEORIGIN", "'self'"),
    "/bff/frontchannel": (None, ISSUER),
}
"""The answers that somebody may frame: their `X-Frame-Options`, and their `frame-ancestors`."""
SCRIPTED = "/bff/silent-login-callback"
"""The one answer that has a script."""


@dataclass(frozen=True)
class Mode:
    public_url: str
    options: Mapping[str, Any]
    absent: set[tuple[str, str]]

    @property
    def secure(self) -> bool:
        return self.public_url == PUBLIC


MODES = {
    "in development": Mode(LOCAL, EVERYTHING, set()),
    "in production": Mode(PUBLIC, EVERYTHING, DEVELOPMENT_ONLY),
    "as it comes": Mode(PUBLIC, {}, DEVELOPMENT_ONLY | BY_OPTION),
}


def remote_apis(bff: BFF) -> None:
    for token in ("user", "client", "user_or_client", "user_or_none", "none"):
        bff.remote_api(f"/r/{token}", "https://orders.internal", token=token)
    bff.remote_api("/r/anybody", "https://orders.internal", token="user_or_none", anonymous=True)
    bff.remote_api("/r/anybodys-client", "https://orders.internal", token="client", anonymous=True)
    bff.remote_api("/r/download", "https://orders.internal", csrf=False)


class Reckless:
    """A remote API that answers everything, with header lines that are not its business."""

    calls = 0
    status = 200

    def target(self, url: str) -> str:
        return url

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: Body, *, timeout: timedelta
    ) -> Reckless:
        self.calls += 1
        return self

    def headers(self) -> Iterable[tuple[str, str]]:
        return [
            ("content-type", "application/json"),
            ("cache-control", "public, max-age=60"),
            ("set-cookie", "session=planted"),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("access-control-allow-origin", "*"),
            ("server", "orders/1.2.3"),
        ]

    async def read(self) -> bytes | None:
        return None

    async def aclose(self) -> None:
        pass


@contextmanager
def running(mode: Mode) -> Iterator[tuple[World, Reckless]]:
    upstream = Reckless()
    with world(public_url=mode.public_url, forwarder=upstream, **mode.options) as w:
        remote_apis(w.bff)
        yield w, upstream


def served(w: World) -> dict[tuple[str, str], Protection | None]:
    """Method and path of everything that this BFF answers by itself, and what it says of them."""
    desk = w.bff._desk
    ours = {(verb, path): p for path, endpoint in desk.endpoints.items() for verb, p in endpoint.methods.items()}
    return {**ours, **{(verb, path): None for path in desk.remote_apis.paths() for verb in VERBS}}
