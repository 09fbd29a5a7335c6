"""The canary: nothing secret in any log line at any level, in any answer, or in an access log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette

from coatcheck import UserToken
from tests.bff.test_cookies import everything
from tests.bff.world import KEY, PUBLIC, World, query_of, world

SECRET_PARAMETERS = (
    "code",
    "code_verifier",
    "refresh_token",
    "token",
    "client_secret",
    "state",
    "nonce",
    "id_token_hint",
)


def secrets_of(w: World) -> set[str]:
    """Every secret that passed through the authorization server."""
    found = {"app-secret", KEY, KEY.rpartition(".")[2]}
    for entry in w.provider.log:
        if entry.endpoint == "authorization" and entry.values("prompt") == ["none"]:
            assert set(entry.values("state") + entry.values("nonce")) == {"A" * 43}  # the check of the registration
            continue
        found |= {value for name, value in entry.parameters if name in SECRET_PARAMETERS}
        found |= {value.partition(" ")[2] for name, value in entry.headers.items() if name == "authorization"}
    return {secret for secret in found if len(secret) > 8} | {"app-secret"}


@contextmanager
def tokens_seen(w: World) -> Iterator[set[str]]:
    """Collect every token that the token endpoint hands out."""
    seen: set[str] = set()

    def look(members: dict[str, Any]) -> dict[str, Any]:
        seen.update(str(members[name]) for name in ("access_token", "refresh_token", "id_token") if name in members)
        return members

    w.provider.tamper("token", look)
    yield seen


@pytest.mark.spec("LOG-01", "OAU-32")
@pytest.mark.parametrize("options", [{}, {"public_url": PUBLIC}, {"sessions": "cookie"}])
def test_no_log_line_at_any_level_holds_a_secret(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with world(**options) as w, tokens_seen(w) as tokens:
        answers = everything(w)
        w.provider.fail("token", status=400, times=None, error="invalid_grant")
        w.browser().login()
        cookies = {
            line.partition("=")[2].partition(";")[0]
            for answer in answers
            for line in answer.headers.get_list("set-cookie")
        }
        canaries = secrets_of(w) | tokens | {value for value in cookies if len(value) > 8}
        assert len(canaries) > 15
        lines = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
        assert len(lines) > 10
        assert [canary for canary in canaries if any(canary in line for line in lines)] == []


@pytest.mark.spec("OAU-32")
def test_no_answer_holds_a_token_or_a_verifier() -> None:
    with world() as w, tokens_seen(w) as tokens:
        answers = everything(w)
        verifiers = {value for e in w.provider.log for name, value in e.parameters if name == "code_verifier"}
        assert len(tokens) >= 3 and verifiers
        # The one token that a browser sees is the id_token_hint of the logout (RP-Initiated Logout 1.0, section 2).
        hints = {query_of(a.headers["location"]).get("id_token_hint") for a in answers if "location" in a.headers}
        for answer in answers:
            text = answer.text + str(answer.headers)
            assert not [secret for secret in (tokens - hints) | verifiers | {"app-secret"} if secret in text]


def test_an_error_of_the_applications_own_event_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Careless:
        async def tokens_received(self, event: Any) -> None:
            raise ValueError(f"could not store {event.token.access_token}")

    with world(events=Careless()) as w, tokens_seen(w) as tokens:
        page = w.browser().login()
        assert (page.status_code, page.headers["coatcheck-error"]) == (502, "login_failed")
        (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert "ValueError" in line and "test_secrets.py" in line
        assert tokens and not [token for token in tokens if token in line or token in page.text]
        assert w.sessions() == 0


@pytest.mark.spec("LOG-02")
def test_values_hide_their_secrets() -> None:
    token = UserToken(
        access_token="hidden", refresh_token="hidden", id_token="hidden", issued_at=0.0, dpop_key="hidden"
    )
    assert "hidden" not in repr(token) and "hidden" not in f"{token}"


@pytest.mark.spec("LOG-03")
def test_uvicorns_access_log_has_no_code_and_no_state(caplog: pytest.LogCaptureFixture) -> None:
    """Uvicorn writes its line from the scope when the answer starts; by then the query is gone from it."""
    caplog.set_level(logging.INFO)
    with world() as w:
        app = Starlette()
        w.start().install(app)
        with serving(app) as base_url:
            for path in ("callback?code=S3CRET&state=S3CRET", "logout?sid=S3CRET", "logged-out?state=S3CRET"):
                httpx2.get(f"{base_url}/bff/{path}", trust_env=False)
            httpx2.get(f"{base_url}/bff/user?slide=false", trust_env=False)
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(lines) == 4
    assert not [line for line in lines if "S3CRET" in line]
    assert "/bff/user?slide=false" in lines[3]  # harmless queries stay readable


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve *app* with uvicorn's own access log."""
    config = uvicorn.Config(app, port=0, access_log=True, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def note_startup(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = note_startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(20)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
