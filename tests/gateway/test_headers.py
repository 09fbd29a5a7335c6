"""What the gateway answers beside the BFF: probes, files, and the paths that are neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from coatcheck.bff.answers import ASGIApp
from coatcheck.config import load_config
from coatcheck.gateway.app import create_app
from coatcheck.sessions.seal import new_key
from tests.gateway.running import gateway_parts

FILE = """
public_url = "https://app.example.com"
keys = [{{ file = "key" }}]
[client]
issuer = "https://idp.example.com"
client_id = "shop"
client_secret = {{ file = "key" }}
[sessions]
store = "memory"
[frontend]
static = "dist"
{more}
"""

OURS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
FILE_HEADERS = {"cache-control": "no-cache", "x-content-type-options": "nosniff"}
PAGE_HEADERS = {
    **FILE_HEADERS,
    "content-security-policy": "frame-ancestors 'self'",
    "referrer-policy": "same-origin",
}
SPOKEN_OF = {*OURS, *PAGE_HEADERS, "cross-origin-opener-policy", "permissions-policy", "set-cookie", "vary", "server"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(new_key())
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<!doctype html>")
    (tmp_path / "dist" / "app.js").write_text("export {}")
    return tmp_path


def gateway(folder: Path, more: str = "") -> ASGIApp:
    (folder / "coatcheck.toml").write_text(FILE.format(more=more))
    return create_app(load_config(folder / "coatcheck.toml"))


async def ask(app: ASGIApp, verb: str, path: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://app.example.com") as http:
        # With the cookie that browsers would send to everything here: files neither look at it nor renew it.
        return await http.request(verb, path, headers={"cookie": "__Host-Http-coatcheck-abcdefgh=x"})


@pytest.mark.spec("HDR-01", "HDR-05", "HDR-06", "COO-13", "CSR-07")
@pytest.mark.parametrize(
    ("verb", "path", "status", "carries"),
    [
        ("GET", "/healthz", 200, OURS),
        ("GET", "/readyz", 200, OURS),
        ("GET", "/", 200, PAGE_HEADERS),
        ("GET", "/app.js", 200, FILE_HEADERS),
        ("GET", "/orders/7", 200, PAGE_HEADERS),
        ("GET", "/gone.js", 404, OURS),
        ("POST", "/app.js", 405, OURS),
        ("GET", "/api/unknown", 404, OURS),
        ("GET", "/bff/unknown", 404, OURS),
    ],
)
async def test_each_answer_carries_what_it_must_and_nothing_of_a_session(
    folder: Path, verb: str, path: str, status: int, carries: Mapping[str, str]
) -> None:
    answer = await ask(gateway(folder), verb, path)
    assert answer.status_code == status
    assert {name: value for name, value in answer.headers.items() if name in SPOKEN_OF} == carries
    # Probes come from inside, by http, and know no host: they are told nothing of this one.
    of_the_host = () if path in ("/healthz", "/readyz") else ("max-age=2592000",)
    assert answer.headers.get_list("strict-transport-security") == [*of_the_host]


@pytest.mark.spec("HDR-06")
async def test_the_file_says_how_long_browsers_shall_use_https_only(folder: Path) -> None:
    longer = gateway(folder, '[server]\nhsts = "max-age=63072000; includeSubDomains"')
    assert (await ask(longer, "GET", "/")).headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"
    assert "strict-transport-security" not in (await ask(gateway(folder, '[server]\nhsts = "off"'), "GET", "/")).headers


@pytest.mark.spec("HDR-05")
def test_no_banner_tells_a_version(tmp_path: Path) -> None:
    with gateway_parts(tmp_path) as running:
        running.start()
        browser = running.browser()
        for path in ("/healthz", "/bff/user", "/nothing"):
            banners = [
                (name, value)
                for name, value in browser.fetch(path).headers.items()
                if name in ("server", "x-powered-by", "via") and any(letter.isdigit() for letter in value)
            ]
            assert banners == []
