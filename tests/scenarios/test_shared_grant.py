"""A command-line tool whose processes run at the same time, on one grant of a strictly rotating provider."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from coatcheck.oauth import Client
from coatcheck.sessions import key_from_file
from coatcheck.stores import SQLiteStore
from coatcheck.tokens import BlockingTokens, SharedUserTokenStore, User, UserTokenRequestParameters
from tests.rig.control_plane import LoggedRequest, RegisteredClient
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.user_agent import UserAgent

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "shared_grant.py"
PROCESSES = 5
ANSWER_AFTER_MS = 2000
"""Longer than it takes to start the processes: they are all there while the first one renews."""


@dataclass(frozen=True, slots=True)
class Tool:
    """The example as somebody has installed it, and alice's grant."""

    program: Path
    folder: Path
    provider: OIDCProvider
    client_id: str
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, str(self.program), *arguments]
        return subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def log_in(self, refresh_token: str) -> None:
        process = self.start("login")
        assert process.communicate(refresh_token + "\n", timeout=60) == ("", "")
        assert process.returncode == 0

    def run_at_once(self) -> list[tuple[int, str, str]]:
        """Start five processes together: how each of them ended, and what it said."""
        processes = [self.start() for _ in range(PROCESSES)]
        said = [process.communicate(timeout=60) for process in processes]
        return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]

    def refreshes(self) -> list[LoggedRequest]:
        return self.provider.log(client_id=self.client_id, grant_type="refresh_token")

    def tokens(self) -> BlockingTokens:
        """One more process, as it were."""
        database, keys = SQLiteStore(self.folder / "grants.db"), [key_from_file(self.folder / "key")]
        client = Client(issuer=self.provider.issuer, client_id=self.client_id, client_auth="none")
        return BlockingTokens(client, store=SharedUserTokenStore(database, keys), coordination=database, keys=keys)


@pytest.fixture
def install(oidc_provider: OIDCProvider, echo_api: EchoAPI, tmp_path: Path) -> Callable[[Path], Tool]:
    """Install a program, and log alice in by a refresh token."""

    def install(program: Path) -> Tool:
        client = oidc_provider.add_client("public", client_id="orders-cli")
        folder = tmp_path / "orders"
        environment = {
            **os.environ,
            "ISSUER": oidc_provider.issuer,
            "ORDERS_FOLDER": str(folder),
            "ORDERS_USER": "alice",
            "ORDERS_URL": echo_api.url,
        }
        tool = Tool(program, folder, oidc_provider, client.client_id, environment)
        tool.log_in(refresh_token_of("alice", oidc_provider, client))
        oidc_provider.clear_log()
        oidc_provider.fault(
            "delay", grant_type="refresh_token", client_id=client.client_id, times=None, ms=ANSWER_AFTER_MS
        )
        return tool

    return install


def refresh_token_of(user: str, provider: OIDCProvider, client: RegisteredClient) -> str:
    """Log *user* in elsewhere: what a device flow would bring."""
    redirect_uri, verifier = client.redirect_uris[0], secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    metadata = httpx2.get(f"{provider.issuer}/.well-known/openid-configuration", trust_env=False).json()
    request = {
        "client_id": client.client_id,
        "response_type": "code",
        "redirect_uri": redirect_uri,
        "scope": "openid offline_access orders.read",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    with UserAgent() as agent:
        back = agent.login(
            f"{metadata['authorization_endpoint']}?{urlencode(request)}", username=user, stop_at=redirect_uri
        )
    form = {
        "grant_type": "authorization_code",
        "client_id": client.client_id,
        "code": parse_qs(urlsplit(back.headers["location"]).query)["code"][0],
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    answer = httpx2.post(metadata["token_endpoint"], data=form, trust_env=False).json()
    refresh_token: str = answer["refresh_token"]
    return refresh_token


def bearers(api: EchoAPI) -> set[str]:
    return {(request.header("authorization") or "").removeprefix("Bearer ") for request in api.requests}


@pytest.mark.spec("REF-01", "REF-02", "REF-29")
def test_five_processes_of_one_tool_renew_their_grant_once(install: Callable[[Path], Tool], echo_api: EchoAPI) -> None:
    tool = install(EXAMPLE)
    for returncode, output, errors in tool.run_at_once():
        assert (returncode, errors) == (0, "")
        assert output.startswith("200 ")
    assert [refresh.status for refresh in tool.refreshes()] == [200]
    assert len(echo_api.requests) == PROCESSES
    (bearer,) = bearers(echo_api)
    assert tool.provider.whose(bearer)["sub"] == "alice"
    tool.provider.clear_faults()
    with tool.tokens() as tokens:
        user = User(tool.provider.issuer, "alice")
        assert tokens.user_token(user).access_token == bearer
        renewed = tokens.user_token(user, UserTokenRequestParameters(force_renewal=True))
    assert tool.provider.whose(renewed.access_token)["sub"] == "alice", "the grant lives: nothing was used twice"
    assert [refresh.status for refresh in tool.refreshes()] == [200, 200]


def test_without_a_login_it_says_what_to_do(oidc_provider: OIDCProvider, echo_api: EchoAPI, tmp_path: Path) -> None:
    folder, api = tmp_path / "orders", echo_api.url
    environment = {
        "ISSUER": oidc_provider.issuer,
        "ORDERS_FOLDER": str(folder),
        "ORDERS_USER": "eve",
        "ORDERS_URL": api,
    }
    tool = Tool(EXAMPLE, folder, oidc_provider, "orders-cli", {**os.environ, **environment})
    for arguments, said in ((["login"], "there is no refresh token"), ([], "give a refresh token to ")):
        process = tool.start(*arguments)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, len(errors.splitlines())) == (1, "", 1), errors
        assert said in errors


def test_control_without_a_common_place_the_refresh_token_is_used_again_and_the_grant_ends(
    install: Callable[[Path], Tool], echo_api: EchoAPI, tmp_path: Path
) -> None:
    """What the test above would see if the processes did not meet: the second one does not wait for the first."""
    source = EXAMPLE.read_text()
    alone = tmp_path / "alone.py"
    alone.write_text(source.replace(", coordination=database, keys=keys)", ")"))
    assert "coordination" in source and "coordination" not in alone.read_text()
    tool = install(alone)
    tool.provider.clear_faults()
    tool.provider.fault("hold", grant_type="refresh_token", client_id=tool.client_id, times=1)
    with tool.start() as first:
        try:
            tool.provider.wait_for_request(grant_type="refresh_token", client_id=tool.client_id, seconds=60)
            first.send_signal(signal.SIGSTOP)  # so that it does not give up, however long the second one takes
            second = tool.start()
            second.communicate(timeout=60)
            assert second.returncode == 0
            (bearer,) = bearers(echo_api)
            assert tool.provider.whose(bearer)["sub"] == "alice"
            tool.provider.release(client_id=tool.client_id)
            deadline = time.monotonic() + 20
            while tool.provider.whose(bearer):
                assert time.monotonic() < deadline, "the grant lives"
                time.sleep(0.01)
        finally:
            first.kill()
    refreshes = tool.refreshes()
    assert len(refreshes) == 2
    assert refreshes[0].params["refresh_token"] == refreshes[1].params["refresh_token"]
