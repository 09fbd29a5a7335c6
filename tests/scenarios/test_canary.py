"""
The canary: nothing that must stay behind the counter is seen in front of it, by anybody who looks.

A browser goes through everything a session has, good and bad. What the secrets are is not asked of any program but read
off the wire, on both sides of coatcheck; then they are looked for in all that the programs print, with every logger
opened to DEBUG, in every answer that the browser received, and in the files of the session store.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page

from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.programs import Program
from tests.rig.servers import coatcheck
from tests.scenarios.canaries import leaks, overheard, spellings
from tests.scenarios.canary_line import (
    EAVESDROPPER,
    KINDS,
    TTL,
    Line,
    Seen,
    assert_the_audit_log_names_nobody,
    found_in_answers,
    tapped_line,
)
from tests.scenarios.gateway import gateway
from tests.scenarios.waiting import until_expired

WRONG_CODE = "a-code-that-the-provider-never-issued"

pytestmark = pytest.mark.browser


@pytest.fixture
def line() -> Iterator[Line]:
    with tapped_line() as tapped:
        yield tapped


LISTEN = (
    "() => { window.ended = new Promise(done => { const source = new EventSource('/bff/events');"
    " source.addEventListener('ended', event => { source.close(); done(event.data); });"
    " source.onopen = () => { window.listens = true; }; }); }"
)


def tour(
    page: Page,
    line: Line,
    client: RegisteredClient,
    *,
    calls: tuple[str, ...],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """
    Log in, call, be renewed, fail to be renewed, be logged out by the provider, log in again, log out, and fail to log
    in. *meanwhile* is done in the second session.
    """
    url = line.application.url
    page.goto(url)
    log_in(page, url)
    page.wait_for_url(f"{url}/")
    for path in calls:
        assert status(page, path) == 200
    assert status(page, "/bff/user") == 200
    until_expired(seconds=TTL)
    assert status(page, calls[0]) == 200, "renewed"
    until_expired(seconds=TTL)
    line.provider.fault("status", status=503, times=None)
    assert status(page, calls[0]) == 503, "not renewed"
    line.provider.clear_faults()
    page.evaluate(LISTEN)
    page.wait_for_function("window.listens")
    line.tell(client)
    assert "reason" in page.evaluate("window.ended")
    assert status(page, calls[0]) == 401, "logged out by the provider"
    page.goto(f"{url}/bff/login?returnUrl=/")
    page.click("button[type=submit]")
    page.wait_for_url(f"{url}/")
    meanwhile()
    logout_url = page.evaluate(
        "fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())"
        ".then(claims => claims.find(claim => claim.type === 'bff:logout_url').value)"
    )
    page.goto(url + logout_url)
    page.click("button[value=yes]")
    page.wait_for_url(f"{url}/**")
    assert status(page, calls[0]) == 401, "logged out"
    line.provider.tamper("redirect", query={"code": WRONG_CODE})
    log_in(page, url)
    page.wait_for_url(f"{url}/bff/callback**")
    assert "login_failed" in page.content()


def log_in(page: Page, url: str) -> None:
    page.goto(f"{url}/bff/login?returnUrl=/")
    page.fill("input[name=login]", "alice")
    page.fill("input[name=password]", "x")
    page.click("button[type=submit]")
    page.click("button[type=submit]")


def status(page: Page, path: str) -> int:
    """Let the page's script call *path*."""
    found: int = page.evaluate(f"fetch('{path}', {{headers: {{'X-CSRF': '1'}}}}).then(r => r.status)")
    return found


def look(line: Line, program: Program, folder: Path, *, key: str, client_secret: str) -> Seen:
    """Collect what there is to see. The session store is open, so its write-ahead log is there."""
    canaries = overheard(line.to_provider, line.to_application)
    canaries |= {"client secret": {client_secret}, "sealing key": {key, key.split(".")[2]}}
    files = sorted(folder.glob("sessions.db*"))
    assert {path.suffix for path in files} == {".db", ".db-wal", ".db-shm"}
    return Seen(
        canaries,
        output=program.output.encode() + line.provider.program.output.encode(),
        answers=line.to_application.answers,
        files=b"".join(path.read_bytes() for path in files),
    )


def assert_everything_happened(seen: Seen) -> None:
    """A search that looks for nothing, or nowhere, finds nothing."""
    assert {kind for kind, values in seen.canaries.items() if values} == KINDS
    assert len(seen.canaries["access token"]) >= 2 and len(seen.canaries["refresh token"]) >= 2
    assert WRONG_CODE in seen.canaries["code"] and len(seen.canaries["code"]) >= 2
    assert len(seen.canaries["code_verifier"]) == 3
    assert_the_audit_log_names_nobody(seen.output)
    statuses = {int(answer.lines[0].split()[1]) for answer in seen.answers}
    assert statuses >= {200, 302, 401, 502, 503}
    for logger in (
        b"coatcheck WARNING",
        b"coatcheck INFO",
        b"httpx2 INFO",
        b"httpcore2.http11 DEBUG",
        b"asyncio DEBUG",
    ):
        assert b"HEARD " + logger in seen.output, logger


COMMANDS = (("list", "alice"), ("revoke", "nobody"))


def sessions_command(folder: Path, verb: str, sub: str) -> str:
    """What `coatcheck sessions` prints and logs."""
    with coatcheck("sessions", verb, folder / "coatcheck.toml", "--sub", sub, env=EAVESDROPPER) as program:
        assert program.wait() == 0, program.output
        return program.output


@contextmanager
def library(
    line: Line, folder: Path, key: str, *, careless: bool = False
) -> Iterator[tuple[Program, RegisteredClient, str]]:
    """The application of `canary_app.py` on uvicorn, as chatty as it can be."""
    client = line.register()
    secret = client.client_secret or ""
    env = {
        **EAVESDROPPER,
        **({"CARELESS": "1"} if careless else {}),
        "ISSUER": line.provider.issuer,
        "CLIENT_ID": client.client_id,
        "CLIENT_SECRET": secret,
        "PUBLIC_URL": line.application.url,
        "COATCHECK_KEY": key,
        "ORDERS_URL": line.api.url,
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", Path(__file__).parent, "canary_app:app"]
    command += ["--port", str(line.application.port), "--log-level", "debug", "--access-log"]
    with Program(command, env=env, cwd=folder) as program:
        program.wait_for("running on")
        yield program, client, secret


@pytest.mark.spec("LOG-01", "LOG-03", "LOG-07", "OAU-32")
def test_the_gateway_shows_no_secret_in_logs_answers_and_files(line: Line, page: Page, tmp_path: Path):
    client = line.register()
    frontend = tmp_path / "dist"
    frontend.mkdir()
    (frontend / "index.html").write_text("<!doctype html><title>shop</title><h1>Shop</h1>")
    with gateway(
        tmp_path,
        line.application,
        issuer=line.provider.issuer,
        client=client,
        apis={"/api/orders": line.api.url},
        store="sqlite://sessions.db",
        frontend=frontend,
        env=EAVESDROPPER,
        more=["logout.frontchannel = true"],
    ) as program:
        said: list[str] = []

        def ask() -> None:
            said.extend(sessions_command(tmp_path, verb, whom) for verb, whom in COMMANDS)

        tour(page, line, client, calls=("/api/orders/bytes?size=10",), meanwhile=ask)
        key = (tmp_path / "coatcheck.key").read_text().strip()
        seen = look(line, program, tmp_path, key=key, client_secret=client.client_secret or "")
    assert_everything_happened(seen)
    assert leaks(seen.canaries, seen.output) == []
    assert found_in_answers(seen) == set()
    assert leaks(seen.canaries, seen.files) == []
    listed, revoked = said
    assert re.search(r"^[0-9a-f]{12} ", listed, re.MULTILINE) and "0 sessions ended" in revoked
    assert leaks(seen.canaries, "".join(said).encode()) == [] and "alice" not in listed


@pytest.mark.spec("LOG-01", "LOG-03", "LOG-07", "OAU-32")
def test_the_library_shows_no_secret_in_logs_answers_and_files(line: Line, page: Page, tmp_path: Path):
    key = new_key()
    with library(line, tmp_path, key) as (program, client, client_secret):
        tour(page, line, client, calls=("/api/orders/bytes?size=10", "/api/me"))
        seen = look(line, program, tmp_path, key=key, client_secret=client_secret)
    assert_everything_happened(seen)
    assert leaks(seen.canaries, seen.output) == []
    assert found_in_answers(seen) == set()
    assert leaks(seen.canaries, seen.files) == []
    accessed = set(re.findall(rb'HEARD uvicorn.access INFO \S+ - "GET (\S+)', seen.output))
    without_query = {b"/bff/callback", b"/bff/logout", b"/bff/logged-out", b"/bff/frontchannel"}
    assert accessed >= without_query, "and none of these with a query"


def test_a_careless_application_is_caught(line: Line, page: Page, tmp_path: Path):
    """The control: were there something to find, it would be found, in each of the three places."""
    key = new_key()
    with library(line, tmp_path, key, careless=True) as (program, client, client_secret):
        tour(page, line, client, calls=("/api/orders/bytes?size=10", "/api/me"))
        seen = look(line, program, tmp_path, key=key, client_secret=client_secret)
    assert leaks(seen.canaries, seen.output) == ["access token", "sid of the provider"]
    assert found_in_answers(seen) == {"refresh token"}
    assert leaks(seen.canaries, seen.files) == ["id_token"]


@pytest.mark.parametrize("secret", ["s3cret:with%odd+chars &", "Ab_-09" * 7 + "A"])
def test_a_secret_is_recognised_however_it_is_written(secret: str):
    for spelling in spellings(secret):
        assert leaks({"x": {secret}}, b"before " + spelling + b" after") == ["x"]
    assert leaks({"x": {secret}}, b"before " + secret[1:].encode()) == []
    assert leaks({"x": {secret}}, secret.encode(), allowed=["x"]) == []
