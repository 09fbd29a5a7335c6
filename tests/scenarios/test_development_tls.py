"""https on localhost in a real browser, for those that keep no secure cookies without it (Safari)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, Error, Page

from tests.rig.browser import start
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.programs import Program
from tests.scenarios.gateway import Application, gateway

pytestmark = pytest.mark.browser

CALL = "fetch('/api/orders', {headers: {'X-CSRF': '1'}}).then(r => r.status)"
LOGOUT_URL = (
    "fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())"
    ".then(claims => claims.find(claim => claim.type === 'bff:logout_url').value)"
)


@contextmanager
def served_by_tls(provider: OIDCProvider, folder: Path) -> Iterator[tuple[Application, EchoAPI, Program]]:
    """`coatcheck run --dev-tls` with a page, registered at the provider."""
    application = Application.at_free_port(scheme="https")
    client = provider.add_client("basic", **application.addresses)
    pages = folder / "dist"
    pages.mkdir()
    (pages / "index.html").write_text("<!doctype html><title>shop</title>")
    with (
        EchoAPI.serve() as api,
        gateway(
            folder,
            application,
            issuer=provider.issuer,
            client=client,
            apis={"/api/orders": api.url},
            frontend=pages,
            arguments=["--dev-tls"],
        ) as program,
    ):
        yield application, api, program


def log_in_call_and_log_out(page: Page, application: Application) -> None:
    page.goto(application.url)
    assert page.evaluate(CALL) == 401
    page.goto(f"{application.url}/bff/login?returnUrl=/")
    page.fill("input[name=login]", "alice")
    page.fill("input[name=password]", "x")
    page.click("button[type=submit]")
    page.click("button[type=submit]")
    page.wait_for_url(f"{application.url}/")
    assert page.evaluate(CALL) == 200
    ours = [cookie for cookie in page.context.cookies() if cookie.get("name", "").startswith("__Host-Http-coatcheck-")]
    assert {(cookie.get("secure"), cookie.get("httpOnly")) for cookie in ours} == {(True, True)}
    page.goto(application.url + page.evaluate(LOGOUT_URL))
    page.click("button[value=yes]")
    page.wait_for_url(f"{application.url}/**")
    assert page.evaluate(CALL) == 401


@pytest.mark.spec("COO-01")
def test_who_accepts_the_warning_logs_in_calls_and_logs_out(
    oidc_provider: OIDCProvider, browser: Browser, tmp_path: Path
) -> None:
    with served_by_tls(oidc_provider, tmp_path) as (application, api, program):
        with browser.new_context() as careful, pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            careful.new_page().goto(application.url)
        with browser.new_context(ignore_https_errors=True) as accepted:
            page = accepted.new_page()
            log_in_call_and_log_out(page, application)
            protocol = page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")
        assert protocol == "h2", "a browser talks HTTP/2 here, where cookies and the host come in another way"
        assert (api.last.header("authorization") or "").startswith("Bearer ")
        assert "WARNING" not in program.output
    assert program.returncode == 0


@pytest.mark.spec("DEV-01")
def test_who_trusts_the_certificate_sees_no_warning_and_a_rebound_name_gets_nothing(
    oidc_provider: OIDCProvider, browser: Browser, tmp_path: Path
) -> None:
    with served_by_tls(oidc_provider, tmp_path) as (application, _, _):
        trusted = f"--ignore-certificate-errors-spki-list={_key_hash(tmp_path / '.coatcheck' / 'tls.pem')}"
        rebound = "--host-resolver-rules=MAP evil.example 127.0.0.1"
        with start(browser.browser_type, trusted, rebound) as trusting:
            page = trusting.new_page()
            log_in_call_and_log_out(page, application)
            refused = page.goto(application.url.replace("localhost", "evil.example"))
            assert refused is not None
            assert (refused.status, refused.headers["coatcheck-error"]) == (403, "not_on_loopback")


def _key_hash(file: Path) -> str:
    """How Chromium names a key that it shall trust."""
    key = x509.load_pem_x509_certificate(file.read_bytes()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()
