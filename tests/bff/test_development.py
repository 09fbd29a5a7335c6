"""Development mode: on localhost, and nowhere else."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coatcheck import BFF, Client, ConfigurationError
from coatcheck.bff.keys import key_ring
from tests.bff.world import ISSUER, LOCAL, PUBLIC, claims, warnings, world

CLIENT = Client(issuer="https://idp.example", client_id="shop", client_secret="secret")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


@pytest.mark.parametrize(
    "public_url", ["http://localhost:8000", "https://localhost", "http://127.0.0.1:1", "http://[::1]:1"]
)
def test_a_loopback_public_url_is_development_mode(public_url: str, tmp_path: Path) -> None:
    assert BFF(CLIENT, public_url=public_url).development
    assert (tmp_path / ".coatcheck" / "key").exists()


def test_elsewhere_nothing_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="coatcheck new-key"):
        BFF(CLIENT, public_url=PUBLIC)
    with pytest.raises(ConfigurationError, match="coatcheck new-key"):
        BFF(CLIENT, public_url="https://localhost", development=False)
    assert list(tmp_path.iterdir()) == []


def test_the_key_file_is_for_its_owner_only_and_never_committed(tmp_path: Path) -> None:
    BFF(CLIENT, public_url=LOCAL)
    folder = tmp_path / ".coatcheck"
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(folder / "key").st_mode) == 0o600
    assert (folder / ".gitignore").read_text() == "*\n"


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    sealed: list[bytes] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        sealed.append(key_ring(None, development=True, folder=tmp_path / "c").seal(b"x", purpose="p"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ring = key_ring(None, development=True, folder=tmp_path / "c")
    assert [ring.open(each, purpose="p") for each in sealed] == [b"x"] * 8
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".gitignore", "key"]


def test_a_damaged_key_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".coatcheck").mkdir()
    (tmp_path / ".coatcheck" / "key").write_text("hunter2\n")
    with pytest.raises(ConfigurationError, match="Delete it") as caught:
        BFF(CLIENT, public_url=LOCAL)
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    """An image's folder belongs to root, and the application does not run as root."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match=r"^keys: development mode keeps .* Start in a folder that this"):
            key_ring(None, development=True, folder=folder)


def test_ten_reloads_log_nobody_out(tmp_path: Path) -> None:
    with world(keys=None, sessions=None) as w:
        browser = w.logged_in()
        for _ in range(10):
            w.transport.loop.run_until_complete(w.bff.aclose())
            w.start()
            assert browser.fetch("/api/me").text == '"alice"'
            assert claims(browser.fetch("/bff/user"))["sub"] == "alice"
        assert w.logins_begun() == 1
        assert (tmp_path / ".coatcheck" / "sessions.db").exists()


def test_a_login_under_way_survives_a_reload() -> None:
    with world(keys=None, sessions=None) as w:
        browser = w.browser()
        url = w.callback(browser, path="/bff/login?returnUrl=/page")
        w.transport.loop.run_until_complete(w.bff.aclose())
        w.start()
        assert browser.click(url).text == '"page of alice"'


@pytest.mark.parametrize(
    "server", [("10.0.0.7", 8000), ("203.0.113.9", "8000"), ("::ffff:10.0.0.7", 80), ("testserver", 80)]
)
def test_a_request_from_the_network_is_refused(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        browser = w.logged_in()
        caplog.clear()
        w.transport.server = server
        for path in ("/bff/user", "/bff/login", "/bff/diagnostics", "/api/me", "/"):
            response = browser.fetch(path)
            assert (response.status_code, response.json()["code"]) == (403, "not_on_loopback")
        line = warnings(caplog)[0]
        assert str(server[0]) in line and "public_url" in line


@pytest.mark.parametrize(
    "server", [("127.0.0.1", 8000), ("127.8.8.8", "80"), ("::1", 8000), ("localhost", 1), None, ("/run/app.sock", None)]
)
def test_requests_on_loopback_and_unix_sockets_are_served(server: Any) -> None:
    with world() as w:
        w.transport.server = server
        assert w.logged_in().fetch("/api/me").status_code == 200


def test_outside_development_the_server_address_means_nothing() -> None:
    with world(public_url=PUBLIC) as w:
        w.transport.server = ("10.0.0.7", 8000)
        assert w.logged_in().fetch("/api/me").status_code == 200


def test_the_peers_address_decides_nothing() -> None:
    # A proxy on the same machine makes every stranger look like 127.0.0.1: only the address we listen on counts.
    with world() as w:
        w.transport.server = ("10.0.0.7", 8000)
        assert w.browser().fetch("/").status_code == 403


@pytest.mark.spec("LOG-08")
def test_diagnostics_show_how_it_is_set_up_but_no_token() -> None:
    with world() as w:
        browser = w.logged_in()
        response = browser.navigate("/bff/diagnostics")
        document = response.json()
        assert document["register_at_the_authorization_server"]["redirect_uri"] == f"{LOCAL}/bff/callback"
        assert document["session"]["sub"] == "alice"
        assert document["session"]["access_token"]["refresh_token"] is True
        secrets = [value for entry in w.provider.log for name, value in entry.parameters if "token" in name]
        assert not [secret for secret in secrets if secret in response.text]
        assert ISSUER in response.text
        browser.cookies.clear()
        assert browser.navigate("/bff/diagnostics").json()["session"] is None


@pytest.mark.spec("LOG-08")
def test_diagnostics_are_not_for_other_sites() -> None:
    with world() as w:
        browser = w.logged_in()
        assert browser.fetch("/bff/diagnostics", initiator="https://evil.example/").status_code == 403
        assert browser.fetch("/bff/diagnostics", csrf=False).status_code == 403


@pytest.mark.spec("LOG-08")
def test_diagnostics_do_not_exist_elsewhere() -> None:
    with world(public_url=PUBLIC) as w:
        assert w.logged_in().navigate("/bff/diagnostics").status_code == 404


@pytest.mark.parametrize("public_url", [LOCAL, PUBLIC])
def test_pages_give_reasons_in_development_only(public_url: str) -> None:
    with world(public_url=public_url) as w:
        w.provider.fail("token", status=401, times=None, error="invalid_client")
        page = w.browser().login()
        assert page.status_code == 503
        assert "login_misconfigured" in page.text
        assert ("client_secret" in page.text) == (public_url == LOCAL)
        assert "Traceback" not in page.text
