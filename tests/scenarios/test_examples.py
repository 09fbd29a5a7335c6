"""The golden examples, unchanged, each against the real provider. What they show is asserted here, not in them."""

from __future__ import annotations

import json
import os
import runpy
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coatcheck import UserTokenStore, new_key
from coatcheck.config import load_config, words
from coatcheck.oauth.jwt import generate_private_key
from coatcheck.testing.token_stores import check_user_token_store
from tests.rig.control_plane import RegisteredClient, fingerprint
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.programs import Program, free_port
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import Application
from tests.scenarios.waiting import until_expired

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TABLES = [
    name
    for name, table in vars(words).items()
    if isinstance(table, type) and issubclass(table, msgspec.Struct) and table.__struct_fields__
]


@contextmanager
def running(
    example: str, application: Application, folder: Path, env: Mapping[str, str]
) -> Iterator[tuple[Program, UserAgent]]:
    """Serve an example by uvicorn, as its README says; its files go to *folder*."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, f"{example}:app", "--port"]
    with (
        Program([*command, str(application.port)], env={"PUBLIC_URL": application.url, **env}, cwd=folder) as program,
        UserAgent(application.url) as agent,
    ):
        program.wait_for("running on")
        yield program, agent


def settings(provider: OIDCProvider, client: RegisteredClient, **more: str) -> dict[str, str]:
    return {"ISSUER": provider.issuer, "CLIENT_SECRET": client.client_secret or "", **more}


def shop(
    provider: OIDCProvider, application: Application, preset: str = "basic", **metadata: object
) -> RegisteredClient:
    """The registration that the examples name."""
    return provider.add_client(preset, client_id="shop", **application.addresses, x_refresh_tokens="always", **metadata)


def bearer(api: EchoAPI) -> str:
    return (api.last.header("authorization") or "").removeprefix("Bearer ")


def test_quickstart(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    with (
        EchoAPI.serve() as api,
        running("quickstart", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (_, agent),
    ):
        refused = agent.fetch("/api/me")
        assert refused.status_code == 401
        assert refused.json()["login_url"].endswith("/bff/login")
        agent.login("/bff/login?returnUrl=/docs", username="alice")
        assert agent.fetch("/api/me").json() == {"hello": "User alice"}
        assert agent.fetch("/api/orders/7").status_code == 200
        assert oidc_provider.whose(bearer(api))["sub"] == "alice"
        assert agent.fetch("/api/me", csrf=False).status_code == 403


def test_impersonation(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application, "login-tx")
    with (
        EchoAPI.serve() as api,
        running("impersonation", application, tmp_path, settings(oidc_provider, client, BILLING_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        agent.login("/bff/login?returnUrl=/docs")
        oidc_provider.clear_log()
        for _ in range(3):
            assert agent.fetch("/api/billing").status_code == 200
        (exchange,) = oidc_provider.log(grant_type="urn:ietf:params:oauth:grant-type:token-exchange")
        assert exchange.params["audience"] == "https://billing.internal"
        assert exchange.params["subject_token"] != fingerprint(bearer(api)), "the API got the exchanged token"


def test_claims_enricher(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    with (
        EchoAPI.serve() as api,
        running("claims_enricher", application, tmp_path, settings(oidc_provider, client, ROLES_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        agent.login("/bff/login?returnUrl=/docs", username="alice")
        shown = [(claim["type"], claim["value"]) for claim in agent.fetch("/bff/user").json()]
        assert [claim for claim in shown if not claim[0].startswith("bff:")] == [
            ("sub", "alice"),
            ("name", "User alice"),
            ("role", "buyer"),
            ("role", "seller"),
        ]
        assert oidc_provider.whose(bearer(api))["sub"] == "alice"


def test_user_token_store(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application, x_access_token_ttl=1)
    with (
        EchoAPI.serve() as api,
        running("user_token_store", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        agent.login("/bff/login?returnUrl=/docs")
        assert agent.fetch("/api/orders").status_code == 200
        first = bearer(api)
        assert first.encode() in (tmp_path / "tokens.db").read_bytes(), "our own table has it"
        until_expired(seconds=1)
        assert agent.fetch("/api/orders").status_code == 200
        assert bearer(api) != first
        assert bearer(api).encode() in (tmp_path / "tokens.db").read_bytes()


def imported(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of an example, which is not served: its files go to *folder*."""
    monkeypatch.chdir(folder)
    for name, value in {"ISSUER": "https://idp.example.com", "CLIENT_SECRET": "x", "ORDERS_URL": "https://api"}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(EXAMPLES / f"{example}.py"))


async def test_user_token_store_keeps_the_rules_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each opener has a connection of its own, as each worker has: what one leaves open would lock the others out."""
    example = imported("user_token_store", tmp_path, monkeypatch)
    table = example["TableUserTokenStore"]
    with ExitStack() as connections:
        connections.enter_context(closing(example["bff"].tokens.store.database))

        def open_store() -> UserTokenStore:
            connection = connections.enter_context(closing(sqlite3.connect(tmp_path / "shared.db", timeout=0)))
            store: UserTokenStore = table(connection)
            return store

        await check_user_token_store(open_store)


async def test_save_tokens_off_keeps_the_rules_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    await check_user_token_store(imported("save_tokens_off", tmp_path, monkeypatch)["VaultUserTokenStore"])


def test_back_channel_client(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    with (
        EchoAPI.serve() as api,
        running("back_channel_client", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        oidc_provider.clear_log()
        agent.login("/bff/login?returnUrl=/docs")
        assert agent.fetch("/api/orders").status_code == 200
        (redemption,) = oidc_provider.log(client_id="shop", grant_type="authorization_code")
        assert redemption.headers["user-agent"] == "shop/1.0"


def test_client_assertion_service(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application, "pkjwt", x_access_token_ttl=1)
    key = tmp_path / "key.pem"
    key.write_text(client.private_key_pem or "")
    env = settings(oidc_provider, client, KEY_FILE=str(key))
    with (
        EchoAPI.serve() as api,
        running("client_assertion_service", application, tmp_path, {**env, "ORDERS_URL": api.url}) as (_, agent),
    ):
        oidc_provider.clear_log()
        agent.login("/bff/login?returnUrl=/docs")
        assert agent.fetch("/api/orders").status_code == 200
        until_expired(seconds=1)
        assert agent.fetch("/api/orders").status_code == 200
        requests = oidc_provider.log(client_id="shop", path="/token")
        assert {"authorization_code", "refresh_token"} == {request.grant_type for request in requests}
        assert {request.status for request in requests} == {200}
        assert len({request.params["client_assertion"] for request in requests}) == len(requests)


def test_save_tokens_off(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application, x_access_token_ttl=1)
    with (
        EchoAPI.serve() as api,
        running("save_tokens_off", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        agent.login("/bff/login?returnUrl=/docs")
        assert agent.fetch("/api/orders").status_code == 200
        first = bearer(api)
        until_expired(seconds=1)
        assert agent.fetch("/api/orders").status_code == 200
        assert bearer(api) != first, "the store's token is used, and renewed, all the same"
        assert oidc_provider.whose(bearer(api))["sub"] == "alice"


def test_starlette_app(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    with (
        EchoAPI.serve() as api,
        running("starlette_app", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (
            _,
            agent,
        ),
    ):
        assert agent.fetch("/api/orders").status_code == 401
        page = agent.login("/", username="alice")
        assert page.text == "<h1>Welcome, User alice</h1>", "the page itself began the login"
        assert agent.fetch("/api/orders").status_code == 200
        assert api.last.target == "/orders"
        assert oidc_provider.whose(bearer(api))["sub"] == "alice"
        assert agent.fetch("/api/orders", csrf=False).status_code == 403


def test_quickstart_with_the_provider_to_try_it_with(tmp_path: Path):
    application = Application.at_free_port()
    with (
        EchoAPI.serve() as api,
        Program([sys.executable, EXAMPLES / "provider.py"], env={"PORT": str(free_port())}, cwd=tmp_path) as provider,
    ):
        provider.wait_for("CLIENT_SECRET=")
        env = dict(setting.split("=", 1) for setting in provider.output.split() if "=" in setting)
        with running("quickstart", application, tmp_path, {**env, "ORDERS_URL": api.url}) as (_, agent):
            agent.login("/bff/login?returnUrl=/docs", username="alice")
            assert agent.fetch("/api/me").json() == {"hello": "alice"}
            assert agent.fetch("/api/orders").status_code == 200


def test_worker(oidc_provider, tmp_path: Path):
    client = oidc_provider.add_client(
        "pkjwt",
        client_id="worker",
        redirect_uris=[],
        response_types=[],
        grant_types=["client_credentials"],
        scope="orders.read",
    )
    key = tmp_path / "key.pem"
    key.write_text(client.private_key_pem or "")
    with EchoAPI.serve() as api:
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "worker.py"],
            env={**os.environ, "ISSUER": oidc_provider.issuer, "KEY_FILE": str(key), "ORDERS_URL": api.url},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("200 ")
        assert api.last.target == "/orders"
        assert len(bearer(api)) > 20


def test_job(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application, x_access_token_ttl=1)
    with EchoAPI.serve() as api:
        env = settings(oidc_provider, client, ORDERS_URL=api.url)
        with running("quickstart", application, tmp_path, env) as (_, agent):
            agent.login("/bff/login?returnUrl=/docs", username="alice")
            until_expired(seconds=1)
            before = len(oidc_provider.log(client_id="shop", grant_type="refresh_token"))
            env["PUBLIC_URL"] = application.url
            with (
                Program([sys.executable, EXAMPLES / "job.py", "alice"], env=env, cwd=tmp_path) as alice,
                Program([sys.executable, EXAMPLES / "job.py", "eve"], env=env, cwd=tmp_path) as eve,
            ):
                assert (alice.wait(seconds=30), alice.output[:4]) == (0, "200 "), alice.output
                assert eve.wait(seconds=30) == 1
                assert eve.output == "eve has to log in first: this user has no session\n"
            assert oidc_provider.whose(bearer(api))["sub"] == "alice"
            assert api.last.target == "/orders"
            assert len(oidc_provider.log(client_id="shop", grant_type="refresh_token")) == before + 1


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the files of the gateway refer to."""
    monkeypatch.setenv("CLIENT_SECRET", "x" * 20)
    monkeypatch.setenv("DATABASE_URL", "postgresql://shop:hush@db.internal/shop")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<!doctype html><title>shop</title>")
    for name in ("coatcheck.key", "old.key"):
        (tmp_path / name).write_text(new_key() + "\n")
    (tmp_path / "client.pem").write_text(generate_private_key("PS256"))
    return tmp_path


def written(example: str, folder: Path) -> Path:
    file = folder / "coatcheck.toml"
    file.write_text((EXAMPLES / example).read_text())
    return file


def test_coatcheck_toml_is_a_valid_file(deployed: Path):
    """The README's file; only the provider that it names does not exist."""
    assert len(load_config(written("coatcheck.toml", deployed)).apis) == 2


def test_every_word_toml_is_a_valid_file(deployed: Path):
    assert len(load_config(written("every_word.toml", deployed)).apis) == 4


@pytest.mark.parametrize("table", TABLES)
def test_every_word_toml_has_every_word(table: str):
    """A key that the gateway learns has to be explained, too."""
    whole = tomllib.loads((EXAMPLES / "every_word.toml").read_text())
    shown = {
        "FileWords": [whole],
        "ServerWords": [whole["server"]],
        "ClientWords": [whole["client"], *whole["clients"].values()],
        "PrivateKeyWords": [whole["clients"]["billing"]["private_key"], whole["client"]["client_secret"]],
        "LoginWords": [whole["login"]],
        "LogoutWords": [whole["logout"]],
        "SessionsWords": [whole["sessions"]],
        "UserWords": [whole["user"]],
        "APIWords": whole["api"],
        "ExchangeWords": [api["exchange"] for api in whole["api"] if "exchange" in api],
        "FrontendWords": [whole["frontend"]],
    }
    known = set(getattr(words, table).__struct_fields__)
    assert known == {key for part in shown[table] for key in part}


@pytest.mark.spec("LOG-02")
def test_examples_show_no_token_in_what_they_print(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    with (
        EchoAPI.serve() as api,
        running("quickstart", application, tmp_path, settings(oidc_provider, client, ORDERS_URL=api.url)) as (
            program,
            agent,
        ),
    ):
        agent.login("/bff/login?returnUrl=/docs")
        assert agent.fetch("/api/orders").status_code == 200
        token = bearer(api)
        assert token and token not in program.output
        assert token not in json.dumps([str(answer.headers) for answer in agent.history])
