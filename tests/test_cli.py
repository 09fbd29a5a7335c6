"""The command line: exit statuses, and one line for whoever has to mend something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck.cli import main
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.testing import AuthorizationServerApp, RegisteredClient, running_authorization_server
from tests.rig.programs import free_port
from tests.rig.servers import coatcheck

FILE = """
public_url = "http://localhost:{port}"
[server]
listen = "127.0.0.1:{port}"
[client]
issuer = "{issuer}"
client_id = "app"
client_secret = "app-secret"
[[api]]
path = "/api/orders"
url = "http://127.0.0.1:1"
"""


@pytest.fixture
def server() -> Iterator[AuthorizationServerApp]:
    with running_authorization_server() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path, server: AuthorizationServerApp) -> Path:
    file = tmp_path / "coatcheck.toml"
    file.write_text(FILE.format(port=free_port(), issuer=server.issuer))
    return file


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_new_key_prints_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-key"]) == 0
    (key,) = capsys.readouterr().out.splitlines()
    KeyRing([key])


WRONG_STARTS = {
    "a typo": ("client_id", "clientid", 'client.clientid: unknown key; did you mean "client_id"?'),
    "no module": (
        "[[api]]",
        '[[api]]\nretriever = "no_such_module:Retriever"',
        "api[0].retriever: cannot make 'no_such_module:Retriever': ModuleNotFoundError",
    ),
    "no class": ("[[api]]", '[[api]]\nretriever = "pathlib"', 'api[0].retriever: expected "module:Class"'),
    "no retriever": ("[[api]]", '[[api]]\nretriever = "pathlib:Path"', "has no method get_access_token"),
    "no enricher": (
        "[[api]]",
        '[user]\nenricher = "no_such_module:enrich"\n[[api]]',
        "user.enricher: cannot make 'no_such_module:enrich': ModuleNotFoundError",
    ),
    "no function": ("[[api]]", '[user]\nenricher = "os"\n[[api]]', 'user.enricher: expected "module:function"'),
    "no enricher's function": ("[[api]]", '[user]\nenricher = "os:sep"\n[[api]]', "'os:sep' is no function"),
    "nobody logs in": ("client_id", 'scope = "orders"\nclient_id', "client.scope: scope is 'orders': it needs openid"),
    "no place for sessions": (
        "[[api]]",
        '[sessions]\nstore = "sqlite:///proc/no/such/sessions.db"\n[[api]]',
        "sessions.store: sessions cannot be kept there",
    ),
    "no such folder": ("[[api]]", '[frontend]\nstatic = "dist"\n[[api]]', "frontend.static: there is no folder"),
}


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_run_stops_with_one_line_before_anything_is_served(
    file: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, expected = WRONG_STARTS[name]
    change(file, old, new)
    assert main(["run", str(file)]) == 2
    line = complaint(capsys)
    assert line.startswith("coatcheck: ")
    assert expected in line


def test_run_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 2
    assert f"there is no file {tmp_path / 'coatcheck.toml'}" in complaint(capsys)


def test_run_as_a_process_prints_no_traceback(file: Path) -> None:
    change(file, '"app-secret"', '{ env = "NOT_SET_ANYWHERE" }')
    with coatcheck("run", file) as program:
        assert program.wait() == 2
        expected = "coatcheck: client.client_secret: the environment variable NOT_SET_ANYWHERE is not set"
        assert program.output.startswith(expected)
        assert len(program.output.splitlines()) == 1


def test_run_on_a_port_that_is_taken(file: Path) -> None:
    with coatcheck("run", file) as first:
        first.wait_for("is served on")
        with coatcheck("run", file) as second:
            assert second.wait() == 2
            assert second.output.startswith("coatcheck: server.listen: cannot listen on 127.0.0.1:")
            assert len(second.output.splitlines()) == 1


def test_check_of_a_good_file_says_what_to_register(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "/bff/callback" in captured.out
    assert "/bff/logged-out" in captured.out
    assert "/api/orders -> http://127.0.0.1:1 (token: user)" in captured.out


@pytest.mark.spec("STO-05")
def test_check_says_which_key_seals_and_when_another_may_be_dropped(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the kids only: whoever has a key opens sessions."""
    new, old = new_key(), new_key()
    assert main(["check", str(file)]) == 0
    assert "keys: one, made for development mode" in capsys.readouterr().out
    change(file, "[server]", f'keys = ["{new}"]\n[server]')
    assert main(["check", str(file)]) == 0
    assert f"keys: {new.split('.')[1]} seals\n" in capsys.readouterr().out
    change(file, f'["{new}"]', f'["{new}", "{old}"]')
    change(file, "[[api]]", '[sessions]\nlifetime = "10h"\n[[api]]')
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr().out
    assert f"keys: {new.split('.')[1]} seals, {old.split('.')[1]} only opens" in shown
    assert "10:00:00 (lifetime) after every process has begun to seal" in shown
    assert new.split(".")[2] not in shown and old.split(".")[2] not in shown


APIS = """
[[api]]
path = "/api/billing"
url = "http://127.0.0.1:2"
exchange = { audience = "https://billing" }
[[api]]
path = "/api/rates"
url = "http://127.0.0.1:2"
token = "client"
anonymous = true
[[api]]
path = "/api/own"
url = "http://127.0.0.1:2"
retriever = "coatcheck:DefaultAccessTokenRetriever"
"""


def test_check_says_what_the_calls_of_each_api_carry(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + APIS)
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "/api/billing -> http://127.0.0.1:2 (token: user, exchanged for https://billing)" in shown
    assert "/api/rates -> http://127.0.0.1:2 (token: client, anonymous)" in shown
    assert "/api/own -> http://127.0.0.1:2 (retriever: coatcheck:DefaultAccessTokenRetriever)" in shown


def test_run_tells_the_first_problem_and_how_many_more_there_are(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, "client_id", "clientid")
    change(file, "\nurl =", "\nuri =")
    assert main(["run", str(file)]) == 2
    line = complaint(capsys)
    assert line.startswith("coatcheck: client.clientid: unknown key")
    assert line.endswith("(1 more: coatcheck check)")


def test_check_tells_every_problem_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(file, "client_id", "clientid")
    change(file, "\nurl =", "\nuri =")
    assert main(["check", str(file)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["client.clientid", "api[0].uri"]


@pytest.mark.spec("MET-01")
def test_check_of_a_server_that_calls_itself_otherwise(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tamper("metadata", lambda members: members | {"issuer": server.issuer + "/"})
    assert main(["check", str(file)]) == 1
    line = complaint(capsys)
    assert line.startswith("coatcheck: client.issuer: ")
    assert f"{server.issuer}/" in line


@pytest.mark.spec("MET-02")
def test_check_of_an_endpoint_in_clear(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tamper("metadata", lambda members: members | {"token_endpoint": "http://idp.example.com/token"})
    assert main(["check", str(file)]) == 1
    line = complaint(capsys)
    assert line.startswith("coatcheck: client.issuer: ")
    assert "token_endpoint" in line
    assert "https" in line


def test_check_of_a_server_that_is_down(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, server.issuer, f"http://127.0.0.1:{free_port()}")
    assert main(["check", str(file)]) == 1
    line = complaint(capsys)
    assert line.startswith("coatcheck: client.issuer: http://127.0.0.1:")
    assert line.endswith("the connection was refused. Is it running, and is the port right?")


def test_check_of_a_server_that_fails(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail("metadata", status=500, html=True, times=None)
    assert main(["check", str(file)]) == 1
    assert "client.issuer: " in complaint(capsys)


def test_check_of_what_the_server_does_not_offer(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    server.clients.add(RegisteredClient(client_id="app", client_secret="app-secret"))
    server.tamper("metadata", lambda members: members | {"token_endpoint_auth_methods_supported": ["private_key_jwt"]})
    change(file, "client_id", 'client_auth = "client_secret_post"\nclient_id')
    assert main(["check", str(file)]) == 1
    assert "client.client_auth: " in complaint(capsys)


def test_check_asks_every_registration(
    file: Path, server: AuthorizationServerApp, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    more = f'[clients.billing]\nissuer = "{nowhere}"\nclient_id = "b"\nclient_secret = "s"\n'
    file.write_text(file.read_text() + more)
    assert main(["check", str(file)]) == 1
    assert complaint(capsys).startswith("coatcheck: clients.billing.issuer: ")


def test_the_demo_goes_through_its_main_job() -> None:
    with coatcheck("demo", "--check") as program:
        assert program.wait(seconds=60) == 0, program.output
        assert program.output.count("  ok      ") == 5
        assert "20 calls at once made one renewal" in program.output
        assert "WARNING" not in program.output


def test_the_demo_on_a_port_that_is_taken() -> None:
    port = str(free_port())
    with coatcheck("demo", "--port", port) as first:
        first.wait_for(rf"http://localhost:{port}/")
        with coatcheck("demo", "--port", port) as second:
            assert second.wait() == 2
            assert "coatcheck demo --port 0" in second.output
            assert len(second.output.splitlines()) == 1
        first.stop()
        assert first.returncode == 0


def test_help_and_nonsense() -> None:
    for arguments, status in ((["--help"], 0), (["run", "--help"], 0), (["serve"], 2), ([], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "coatcheck.cli", *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status
        assert "coatcheck" in done.stdout + done.stderr
