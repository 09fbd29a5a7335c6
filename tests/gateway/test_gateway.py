"""The gateway as an operator runs it: a file, a process, a browser in front and an API behind."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from coatcheck.sessions.seal import new_key
from coatcheck.testing import RegisteredClient
from tests.gateway.running import Gateway, gateway_parts
from tests.rig.user_agent import UserAgent


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_parts(tmp_path) as gateway:
        yield gateway


def test_login_call_renewal_logout(gateway: Gateway) -> None:
    gateway.server.behaviour.access_token_lifetime = timedelta(seconds=2)
    gateway.start()
    browser = gateway.log_in("somebody")
    claims = {claim["type"]: claim["value"] for claim in browser.fetch("/bff/user").json()}
    assert claims["sub"] == "somebody"

    assert browser.fetch("/api/echo/orders?page=2").status_code == 200
    first = gateway.api.last.header("authorization")
    assert first is not None
    assert gateway.api.last.target == "/orders?page=2"
    assert gateway.server.introspect(first.removeprefix("Bearer "))["sub"] == "somebody"
    assert gateway.api.last.header("cookie") is None

    _until_expired(gateway, first)
    assert browser.fetch("/api/echo/orders").status_code == 200
    second = gateway.api.last.header("authorization")
    assert second is not None
    assert second != first
    assert gateway.server.introspect(second.removeprefix("Bearer "))["active"]
    assert gateway.server.count("token", grant_type="refresh_token") == 1

    browser.logout(claims["bff:logout_url"])
    refused = browser.fetch("/api/echo/orders")
    assert (refused.status_code, refused.headers["coatcheck-error"]) == (401, "session_missing")
    assert gateway.server.count("revocation") > 0


@pytest.mark.spec("COO-02")
def test_the_session_cookie_has_the_prefix_that_binds_it_to_this_host(gateway: Gateway) -> None:
    gateway.start()
    browser = gateway.log_in()
    lines = [line for answer in browser.history for line in answer.headers.get_list("set-cookie")]
    (line,) = [line for line in lines if re.match(r"__Host-Http-coatcheck-[a-z0-9]{8}=", line)]
    attributes = {part.strip().lower() for part in line.split(";")[1:]}
    assert {"secure", "httponly", "path=/", "samesite=strict"} <= attributes
    assert not any(attribute.startswith("domain") for attribute in attributes)


@pytest.mark.spec("PRX-07")
@pytest.mark.parametrize(
    "target",
    [
        "/api/echo/private",
        "/api/echo?x=/api/rates",
        "/api/echo/private?/api/rates",
        "/api/echo/private%23/api/rates",
        "/api/echo/private;/api/rates",
        "/api/echo/api/rates",
    ],
)
def test_a_route_wants_the_users_token_whatever_else_stands_in_the_target(gateway: Gateway, target: str) -> None:
    gateway.start()
    browser = gateway.browser()
    refused = browser.fetch("/", target=target)
    assert refused.status_code == 401, refused.text
    assert gateway.api.requests == []
    assert browser.fetch("/api/rates/today").status_code == 200
    assert browser.fetch("/", target="/api/rates-private").status_code == 404
    assert browser.fetch("/", target="/api/rates%2f..%2fecho").status_code == 400
    assert [request.target for request in gateway.api.requests] == ["/rates/today"]


def test_the_frontend_and_the_apis_keep_apart(gateway: Gateway) -> None:
    dist = gateway.folder / "dist"
    dist.mkdir()
    (dist / "index.html").write_text("<h1>shell</h1>")
    (dist / "app.js").write_text("export {}")
    gateway.more = '[frontend]\nstatic = "dist"\n'
    gateway.start()
    browser = gateway.browser()
    assert browser.navigate("/orders/7").text == "<h1>shell</h1>"
    assert browser.navigate("/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert browser.navigate("/api/unknown").status_code == 404
    assert browser.navigate("/bff/unknown").status_code == 404
    home = gateway.log_in()
    assert str(home.page) == gateway.origin + "/"
    assert home.fetch("/").headers["cache-control"] == "no-cache"


def test_below_a_path_of_the_public_url(gateway: Gateway) -> None:
    dist = gateway.folder / "dist"
    dist.mkdir()
    (dist / "index.html").write_text("<h1>shell</h1>")
    gateway.more = '[frontend]\nstatic = "dist"\n'
    gateway.write()
    text = gateway.file.read_text()
    gateway.write(text.replace(gateway.origin, f"{gateway.origin}/shop"))
    gateway.start()
    browser = gateway.browser()
    home = browser.login("/shop/bff/login?returnUrl=/shop/orders/7")
    assert (str(home.url), home.text) == (f"{gateway.origin}/shop/orders/7", "<h1>shell</h1>")
    assert browser.fetch("/shop/api/echo/orders").status_code == 200
    assert gateway.api.last.target == "/orders"
    assert browser.fetch("/shop/api/unknown").status_code == 404


def test_health_and_readiness(gateway: Gateway) -> None:
    gateway.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as probe:
        assert probe.get("/healthz", headers={"host": "10.1.2.3"}).text == "ok\n"
        assert probe.get("/readyz").status_code == 200


def test_a_restart_logs_nobody_out(gateway: Gateway) -> None:
    gateway.start()
    browser = gateway.log_in()
    gateway.stop()
    gateway.start()
    with UserAgent(gateway.origin) as fresh_connections:
        fresh_connections.cookies = browser.cookies
        assert fresh_connections.fetch("/api/echo").status_code == 200
    assert (gateway.folder / ".coatcheck" / "key").stat().st_mode & 0o777 == 0o600


def test_two_workers_share_the_sessions(gateway: Gateway) -> None:
    program = gateway.start("--workers", "2")
    assert "by 2 workers" in program.output
    browser = gateway.log_in()
    for _ in range(12):
        with UserAgent(gateway.origin) as fresh_connection:
            fresh_connection.cookies = browser.cookies
            assert fresh_connection.fetch("/api/echo").status_code == 200


def test_sigterm_lets_a_request_finish(gateway: Gateway) -> None:
    program = gateway.start()
    browser = gateway.log_in()
    answers: list[httpx2.Response] = []
    calling = threading.Thread(target=lambda: answers.append(browser.fetch("/api/echo/stream?count=2")))
    calling.start()
    gateway.api.wait_until(lambda api: api.pulled == 1)
    stopping = threading.Thread(target=gateway.stop)
    stopping.start()
    gateway.api.next_chunk()
    calling.join(20)
    stopping.join(20)
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "0\n1\n")]
    assert program.returncode == 0


@pytest.mark.spec("LOG-01", "LOG-03")
def test_nothing_of_a_login_is_in_the_log(gateway: Gateway) -> None:
    program = gateway.start()
    browser = gateway.log_in()
    callback = next(answer.url for answer in browser.history if answer.url.path == "/bff/callback")
    browser.fetch("/api/echo/orders?customer=canary-in-a-query")
    browser.navigate("/bff/logout?sid=canary-of-a-logout")
    gateway.stop()
    secrets = [
        callback.params["code"],
        callback.params["state"],
        "canary-in-a-query",
        "app-secret",
        "canary-of-a-logout",
    ]
    secrets += [cookie.value for cookie in browser.cookies.all()]
    secrets += [entry.values("code_verifier")[0] for entry in gateway.server.log if entry.values("code_verifier")]
    assert len(secrets) >= 7
    assert [secret for secret in secrets if secret in program.output] == []
    assert "logged_in" in program.output


def test_the_address_of_the_client_is_taken_from_a_trusted_proxy_only(gateway: Gateway) -> None:
    (gateway.folder / "key").write_text(new_key())
    gateway.more = ""
    gateway.write()
    text = gateway.file.read_text().replace(f"http://localhost:{gateway.port}", "https://app.example.com")
    text = text.replace("[server]", 'keys = [{ file = "key" }]\n[sessions]\nstore = "memory"\n[server]')
    text = text.replace('client_secret = "app-secret"', 'client_secret = { file = "secret" }')
    (gateway.folder / "secret").write_text("app-secret")
    forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}

    gateway.write(text)
    gateway.start()
    assert gateway.browser().fetch("/api/rates", headers=forwarded).status_code == 200
    assert gateway.api.last.all("x-forwarded-for") == ["127.0.0.1"]
    gateway.stop()

    gateway.write(text.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1"]'))
    gateway.start()
    assert gateway.browser().fetch("/api/rates", headers=forwarded).status_code == 200
    assert gateway.api.last.all("x-forwarded-for") == ["203.0.113.7"]
    assert gateway.api.last.header("x-forwarded-host") == "app.example.com"


def test_an_exchange_and_a_retriever_of_ones_own(gateway: Gateway) -> None:
    (gateway.folder / "my_retrievers.py").write_text(
        "from coatcheck.tokens.results import BearerTokenResult\n"
        "class Fixed:\n"
        "    async def get_access_token(self, context):\n"
        "        return BearerTokenResult(access_token='fixed-for-' + context.user.sub)\n"
    )
    gateway.more = f"""
[[api]]
path = "/api/billing"
url = "{gateway.api.url}"
exchange = {{ audience = "https://billing.internal" }}

[[api]]
path = "/api/own"
url = "{gateway.api.url}"
retriever = "my_retrievers:Fixed"
"""
    gateway.start()
    browser = gateway.log_in("somebody")
    for _ in range(3):
        assert browser.fetch("/api/billing").status_code == 200
    sent = gateway.server.introspect((gateway.api.last.header("authorization") or "").removeprefix("Bearer "))
    assert (sent["sub"], sent["aud"]) == ("somebody", ["https://billing.internal"])
    exchange = "urn:ietf:params:oauth:grant-type:token-exchange"
    assert gateway.server.count("token", grant_type=exchange) == 1
    assert browser.fetch("/api/own").status_code == 200
    assert gateway.api.last.header("authorization") == "Bearer fixed-for-somebody"


@pytest.mark.parametrize(
    "code",
    [
        "async def enrich(context):\n",
        "class enrich:\n    async def __call__(self, context):\n",
    ],
    ids=["function", "class"],
)
def test_claims_of_a_list_and_an_enricher_of_ones_own(gateway: Gateway, code: str) -> None:
    body = "        return [*context.claims, ('greeting', 'Hello ' + context.user.sub)]\n"
    (gateway.folder / "my_claims.py").write_text(code + body)
    gateway.more = '[user]\nclaims = ["name"]\nenricher = "my_claims:enrich"\n'
    gateway.start()
    claims = gateway.log_in("somebody").fetch("/bff/user").json()
    shown = [(claim["type"], claim["value"]) for claim in claims if not claim["type"].startswith("bff:")]
    assert shown == [("name", "somebody"), ("greeting", "Hello somebody")]


def test_another_registration_exchanges_the_token_of_the_login(gateway: Gateway) -> None:
    gateway.server.clients.add(RegisteredClient(client_id="billing", client_secret="billing-secret"))
    gateway.more = f"""
[clients.billing]
issuer = "{gateway.server.issuer}"
client_id = "billing"
client_secret = "billing-secret"

[[api]]
path = "/api/billing"
url = "{gateway.api.url}"
client = "billing"
exchange = {{ audience = "https://billing.internal" }}
"""
    gateway.start()
    assert gateway.log_in("somebody").fetch("/api/billing").status_code == 200
    sent = gateway.server.introspect((gateway.api.last.header("authorization") or "").removeprefix("Bearer "))
    assert (sent["sub"], sent["client_id"]) == ("somebody", "billing")


def _until_expired(gateway: Gateway, authorization: str) -> None:
    """Wait for real: the gateway is another process, and its clock is the machine's."""
    expired = threading.Event()
    for _ in range(100):
        if not gateway.server.introspect(authorization.removeprefix("Bearer "))["active"]:
            return
        expired.wait(0.05)
    raise AssertionError(f"still not expired: {json.dumps(gateway.server.introspect(authorization))}")
