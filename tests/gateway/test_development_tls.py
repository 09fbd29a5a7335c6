"""`coatcheck run --dev-tls`: https on localhost, in development mode only."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from coatcheck.cli import main
from coatcheck.sessions.seal import new_key
from tests.gateway.running import Gateway, gateway_parts
from tests.rig.servers import coatcheck, free_port
from tests.rig.user_agent import UserAgent


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """One whose public_url is https://localhost:PORT."""
    with gateway_parts(tmp_path) as gateway:
        gateway.write()
        change(gateway, f"http://localhost:{gateway.port}", f"https://localhost:{gateway.port}")
        yield gateway


def change(gateway: Gateway, old: str, new: str) -> None:
    text = gateway.file.read_text()
    assert old in text
    gateway.write(text.replace(old, new))


def browser_that_trusts(gateway: Gateway) -> UserAgent:
    certificate = gateway.folder / ".coatcheck" / "tls.pem"
    context = ssl.create_default_context(cafile=certificate)
    return UserAgent(f"https://localhost:{gateway.port}", verify=context)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("coatcheck: ")


@pytest.mark.spec("COO-01")
def test_login_call_and_restart_by_two_workers(gateway: Gateway) -> None:
    program = gateway.start("--dev-tls", "--workers", "2")
    certificate = gateway.folder / ".coatcheck" / "tls.pem"
    before = certificate.read_bytes()
    (line,) = [line for line in program.output.splitlines() if "TLS with" in line]
    assert line.startswith(f"coatcheck: TLS with {certificate}, until 20")
    assert "`coatcheck dev-tls` says how to have it trusted" in line
    with browser_that_trusts(gateway) as browser:
        browser.login("/bff/login")
        assert browser.fetch("/api/echo/orders").status_code == 200
        ours = [cookie for cookie in browser.cookies.all() if cookie.name.startswith("__Host-Http-coatcheck-")]
        assert {cookie.secure for cookie in ours} == {True}
        cookies = browser.cookies
    gateway.stop()
    gateway.start("--dev-tls")
    assert certificate.read_bytes() == before
    with browser_that_trusts(gateway) as browser:
        browser.cookies = cookies
        assert browser.fetch("/api/echo/orders").status_code == 200
    assert "WARNING" not in program.output
    assert "Traceback" not in program.output


def test_nothing_is_said_in_clear_on_that_port(gateway: Gateway) -> None:
    gateway.start("--dev-tls")
    with (
        httpx2.Client(trust_env=False) as http,
        pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)),
    ):
        http.get(f"http://localhost:{gateway.port}/healthz")


@pytest.mark.spec("DEV-01")
def test_a_rebound_name_is_refused_over_tls_too(gateway: Gateway) -> None:
    gateway.start("--dev-tls")
    with browser_that_trusts(gateway) as browser:
        refused = browser.navigate("/", headers={"Host": f"evil.example:{gateway.port}"})
        assert (refused.status_code, refused.headers["coatcheck-error"]) == (403, "not_on_loopback")


def test_two_gateways_of_one_folder_start_at_once(gateway: Gateway) -> None:
    other, port = gateway.folder / "other.toml", free_port()
    other.write_text(gateway.file.read_text().replace(str(gateway.port), str(port)))
    with coatcheck("run", gateway.file, "--dev-tls") as first, coatcheck("run", other, "--dev-tls") as second:
        first.wait_for("is served on")
        second.wait_for("is served on")
        context = ssl.create_default_context(cafile=gateway.folder / ".coatcheck" / "tls.pem")
        with httpx2.Client(verify=context, trust_env=False) as http:
            for each in (gateway.port, port):
                assert http.get(f"https://localhost:{each}/healthz").text == "ok\n"


WRONG = {
    "public_url is http": (
        {"https://localhost": "http://localhost"},
        'public_url: --dev-tls serves https: write public_url = "https://localhost:{port}", and register the redirect '
        "URI https://localhost:{port}/bff/callback at {issuer}",
    ),
    "public_url is http and has a path": (
        {"https://localhost:{port}": "http://localhost:{port}/shop"},
        "register the redirect URI https://localhost:{port}/shop/bff/callback at {issuer}",
    ),
    "public_url is elsewhere": (
        {"https://localhost:{port}": "https://app.example.com"},
        "public_url: --dev-tls is for localhost, and this is https://app.example.com: leave it out, and have the "
        "server in front end TLS with a real certificate",
    ),
    "other machines can reach it": (
        {'listen = "127.0.0.1': 'listen = "0.0.0.0'},
        "server.listen: --dev-tls is for this machine alone, and 0.0.0.0:{port} can be reached from others: listen on "
        "127.0.0.1:{port}, or leave --dev-tls out",
    ),
    "a proxy stands in front": (
        {"[server]": '[server]\ntrusted_proxies = ["127.0.0.1"]'},
        "server.trusted_proxies: --dev-tls is for browsers that come directly: remove the proxies, or leave --dev-tls",
    ),
}


@pytest.mark.spec("DEV-02")
@pytest.mark.parametrize("name", WRONG)
def test_elsewhere_it_is_refused_with_one_line(gateway: Gateway, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has what development mode makes by itself, so that nothing but --dev-tls is wrong with it."""
    (gateway.folder / "key").write_text(new_key())
    (gateway.folder / "secret").write_text("app-secret")
    change(gateway, "[server]", 'keys = [{ file = "key" }]\n[sessions]\nstore = "memory"\n[server]')
    change(gateway, '"app-secret"', '{ file = "secret" }')
    changes, expected = WRONG[name]
    values = {"port": gateway.port, "issuer": gateway.server.issuer}
    for old, new in changes.items():
        change(gateway, old.format(**values), new.format(**values))
    assert main(["run", str(gateway.file), "--dev-tls"]) == 2
    assert expected.format(**values) in complaint(capsys)
    assert not (gateway.folder / ".coatcheck").exists()


def test_a_file_of_somebody_elses_stops_the_start_with_one_line(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    (gateway.folder / ".coatcheck").mkdir()
    (gateway.folder / ".coatcheck" / "tls.pem").write_text("mine")
    assert main(["run", str(gateway.file), "--dev-tls"]) == 2
    assert "tls.pem is no certificate of ours. Move it away" in complaint(capsys)


def test_https_on_localhost_that_nobody_serves_is_told(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` and `check` say so; with another port in public_url there may be a server in front."""
    hint = f"browsers cannot open https://localhost:{gateway.port}/: it is https, and what listens on"
    program = gateway.start()
    assert hint in program.output
    assert "Serve it by `coatcheck run --dev-tls`" in program.output
    gateway.stop()
    assert main(["check", str(gateway.file)]) == 0
    assert hint in capsys.readouterr().out
    change(gateway, f"https://localhost:{gateway.port}", "https://localhost")
    assert main(["check", str(gateway.file)]) == 0
    assert "cannot open" not in capsys.readouterr().out


def test_the_command_for_servers_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dev-tls", "App.localhost"]) == 0
    shown = capsys.readouterr().out
    assert "--ssl-certfile .coatcheck/tls.pem --ssl-keyfile .coatcheck/tls.key" in shown
    assert "for localhost, app.localhost, 127.0.0.1, ::1)" in shown
    before = (tmp_path / ".coatcheck" / "tls.pem").read_bytes()
    assert main(["dev-tls"]) == 0
    assert (tmp_path / ".coatcheck" / "tls.pem").read_bytes() == before
    capsys.readouterr()
    assert main(["dev-tls", "app.example.com"]) == 2
    assert "'app.example.com' is no name of this machine" in complaint(capsys)
