"""The demo in a real browser: what a person sees who logs in, waits, and logs out."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from coatcheck.testing.demo.show import running
from tests.rig.browser import launch
from tests.rig.servers import coatcheck
from tests.rig.user_agent import UserAgent


@contextmanager
def demo(token_lifetime: timedelta) -> Iterator[str]:
    """The demo in a thread of its own; yields the address of the page."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    address: list[str] = []
    started = threading.Event()

    async def main() -> None:
        async with running(0, token_lifetime) as where:
            address.append(where)
            started.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def watch(page: Page) -> list[str]:
    """Collects what must not happen: script errors, violations of the page's policy, requests to other machines."""
    complaints: list[str] = []

    def route(route: Route) -> None:
        if urlsplit(route.request.url).hostname not in ("localhost", "127.0.0.1"):
            complaints.append(f"asked {route.request.url}")
        route.continue_()

    page.route("**/*", route)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Security" in message.text else None)
    return complaints


@pytest.mark.browser
def test_a_person_logs_in_watches_a_renewal_and_logs_out() -> None:
    with demo(timedelta(seconds=3)) as address, launch() as browser:
        page = browser.new_context().new_page()
        complaints = watch(page)
        page.goto(address)
        page.get_by_role("link", name="Log in").click()
        page.get_by_label("User name").fill("somebody")
        page.get_by_role("button", name="Log in").click()

        expect(page.locator("#name")).to_have_text("somebody")
        expect(page.locator("#cookies")).to_have_text('document.cookie = ""')
        expect(page.locator("#fingerprint .chip")).to_be_visible()
        first = page.locator("#fingerprint").inner_text()
        expect(page.locator("#received")).to_contain_text("cookie: none")

        expect(page.locator("#renewals")).not_to_have_text("0", timeout=15_000)
        expect(page.locator("#fingerprint")).not_to_have_text(first)
        expect(page.locator(".renewed").first).to_be_visible()
        page.get_by_role("button", name="Call 20 times at once").click()
        expect(page.locator("#rows")).to_contain_text("20 \u00d7 200 OK")

        elsewhere = page.context.new_page()
        elsewhere.goto(address)
        expect(elsewhere.locator("#name")).to_have_text("somebody")
        page.get_by_role("link", name="Log out").click()
        expect(elsewhere.locator("#farewell")).to_have_text("You are logged out, here and at the provider.")
        expect(page.locator("#farewell")).to_have_text("You are logged out, here and at the provider.")
        page.reload()
        expect(page.get_by_role("link", name="Log in")).to_be_visible()
        assert complaints == []


def test_the_demo_stops_though_a_page_listens() -> None:
    with coatcheck("demo", "--port", "0") as program:
        address = program.wait_for(r"http://localhost:\d+")[0]
        with UserAgent(address) as browser:
            browser.login("/bff/login", username="somebody")
            with browser.open("/bff/events") as events:
                assert events.recv(65536).startswith(b"HTTP/1.1 200")
                os.kill(program.pid, signal.SIGINT)
                assert program.wait(seconds=10) == 0, program.output
