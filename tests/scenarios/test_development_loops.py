"""The two ways in which a frontend is developed, and a server that reloads under its users."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.node import node_binary, npm_ci
from tests.rig.programs import Program, wait_until_listening
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import Application
from tests.scenarios.test_examples import EXAMPLES, running, settings, shop

VITE = Path(__file__).parents[1] / "rig" / "vite"
PAGE = "<!doctype html><title>shop</title><script type=module>document.title = 'shop, scripted'</script>"
ME = "fetch('/api/me', {headers: {'X-CSRF': '1'}}).then(r => r.status === 200 ? r.json() : r.status)"
WATCHED = """async () => {
    const { watchSession } = await import("/bff/session.js?import");  // as Vite asks for it
    const ended = new Promise(resolve => watchSession({ onEnded: resolve }));
    while (!(await navigator.locks.query()).held.length) await new Promise(resolve => setTimeout(resolve, 20));
    await fetch("/bff/logout", {method: "POST", headers: {"X-CSRF": "1"}, redirect: "manual"});
    return ended;
}"""
"""A script that watches the session and logs out: why it hears that the session has ended."""
RELOADS = 10


@contextmanager
def vite(folder: Path, application: Application, *, backend: str) -> Iterator[None]:
    """Serve a page by Vite on the application's port, with the configuration of the documentation."""
    (folder / "index.html").write_text(PAGE)
    command = [node_binary(), npm_ci(VITE) / "vite/bin/vite.js", folder, "--config", EXAMPLES / "vite.config.js"]
    listen = ["--port", str(application.port), "--strictPort", "--host", "127.0.0.1", "--clearScreen", "false"]
    with Program([*command, *listen], env={"BACKEND": backend, "NO_COLOR": "1"}, cwd=VITE) as program:
        program.wait_for("ready in")
        yield


def log_in(page, application: Application) -> None:
    page.goto(f"{application.url}/bff/login?returnUrl=/")
    page.fill("input[name=login]", "alice")
    page.fill("input[name=password]", "x")
    page.click("button[type=submit]")
    page.click("button[type=submit]")
    page.wait_for_url(f"{application.url}/")


@pytest.mark.browser
def test_vite_in_front_of_the_application(oidc_provider, browser, tmp_path: Path):
    at_vite, backend = Application.at_free_port(), Application.at_free_port()
    client = shop(oidc_provider, at_vite)
    dist = tmp_path / "frontend"
    dist.mkdir()
    with EchoAPI.serve() as api:
        env = settings(oidc_provider, client, ORDERS_URL=api.url) | {"PUBLIC_URL": at_vite.url}
        with (
            running("quickstart", backend, tmp_path, env) as (program, _),
            vite(dist, at_vite, backend=backend.url.replace("localhost", "127.0.0.1")),
            browser.new_context() as context,
        ):
            page = context.new_page()
            page.goto(at_vite.url)
            assert page.evaluate(ME) == 401
            log_in(page, at_vite)
            page.wait_for_function("document.title === 'shop, scripted'")
            assert page.evaluate(ME) == {"hello": "User alice"}
            status = page.evaluate("fetch('/api/orders', {headers: {'X-CSRF': '1'}}).then(r => r.status)")
            assert status == 200
            assert (api.last.header("authorization") or "").startswith("Bearer ")
            page.reload()
            assert page.evaluate(ME) == {"hello": "User alice"}
            assert page.evaluate(WATCHED) == "logout"
            assert "WARNING" not in program.output


@pytest.mark.browser
def test_the_application_serves_the_built_files(oidc_provider, browser, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "index.html").write_text(PAGE)
    with (
        running("built_files", application, tmp_path, settings(oidc_provider, client, DIST=str(dist))),
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(application.url)
        assert page.evaluate(ME) == 401
        log_in(page, application)
        assert page.evaluate(ME) == {"hello": "User alice"}
        page.reload()
        assert page.evaluate(ME) == {"hello": "User alice"}


def test_ten_reloads_keep_the_user_logged_in_without_the_provider(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = shop(oidc_provider, application)
    source = tmp_path / "quickstart.py"
    shutil.copy(EXAMPLES / "quickstart.py", source)
    with EchoAPI.serve() as api:
        env = settings(oidc_provider, client, ORDERS_URL=api.url) | {"PUBLIC_URL": application.url}
        command = [sys.executable, "-m", "uvicorn", "quickstart:app", "--reload", "--port", str(application.port)]
        with Program(command, env=env, cwd=tmp_path) as program, UserAgent(application.url) as agent:
            wait_until_listening(application.port)
            agent.login("/bff/login?returnUrl=/docs")
            assert agent.fetch("/api/me").status_code == 200
            oidc_provider.clear_log()
            for number in range(1, RELOADS + 1):
                source.write_text(source.read_text() + f"\n# {number}\n")
                program.wait_for("startup complete", count=number + 1)
                assert agent.fetch("/api/me").json() == {"hello": "User alice"}
                assert agent.fetch("/api/orders").status_code == 200
            assert [entry.path for entry in oidc_provider.log(client_id="shop")] == []
