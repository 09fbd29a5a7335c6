"""Logouts that meet something else at the worst moment: another logout, a login bound to the session, another clock."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from coatcheck import LoginOptions, LogoutOptions
from coatcheck.bff import BFF
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.cookie import parse_cookies
from coatcheck.sessions.session import EndReason
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from tests.bff.test_ending import Meeting, alive, end, run
from tests.bff.test_silent_login import FRAME
from tests.bff.world import LOCAL, World, world
from tests.rig.user_agent import UserAgent
from tests.testing.clocks import HandClock


class Between(MemoryStore):
    """A coordination store that holds its answers back while there is a *gate*."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate: asyncio.Event | None = None
        self.waiting = 0

    async def get(self, key: bytes) -> ExpiringValue | None:
        found = await super().get(key)
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        return found


@pytest.mark.spec("OAU-35", "SMG-02")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_silent_login_does_not_survive_the_logout_that_it_meets(moment: str) -> None:
    with world(login=LoginOptions(silent=True)) as w:
        w.store = store = Meeting(w.clock)  # type: ignore[assignment]
        w.start()
        browser = w.logged_in()
        answer = browser.click("/bff/silent-login", stop_at=LOCAL + "/bff/callback")

        async def log_out() -> None:
            (key,) = [key for key, row in store._rows.items() if row.created_at < w.clock.time()]
            await store.delete(key)

        w.advance(1)
        getattr(store, moment).append(log_out)
        page = browser.click(answer.headers["location"], stop_at=LOCAL + "/bff/silent-login-callback")
        assert page.headers["location"].endswith("?isLoggedIn=false&error=step_up_failed")
        assert w.sessions() == 0
        assert len(w.revoked()) == 1  # what the login brought


@pytest.mark.spec("BCL-19")
def test_in_cookies_who_has_ended_a_session_remembers_it_while_nobody_can_be_asked() -> None:
    store = Fallible()
    with world(sessions="cookie", coordination=store) as w:
        browser, bob = w.logged_in(), w.logged_in("bob")
        w.advance(1)
        assert end(w, sub="alice", issued_until=w.clock.time()) is None
        store.down = True
        for _ in range(3):  # asked in vain, not asked, and asked again in vain
            assert (alive(browser), alive(bob)) == (False, True)
            w.advance(1)


class Fallible(MemoryStore):
    """A coordination store that can be down."""

    down = False

    async def get(self, key: bytes) -> ExpiringValue | None:
        if self.down:
            raise StoreUnavailable("the test broke it")
        return await super().get(key)


@pytest.mark.spec("RPL-02", "SMG-02")
@pytest.mark.parametrize("kind", ["server", "cookie"])
def test_a_logout_ends_what_a_silent_login_has_put_in_the_place_of_its_session(kind: str) -> None:
    """Its request found the session, and then the silent login of another tab replaced it."""
    options = {"sessions": "cookie", "coordination": MemoryStore()} if kind == "cookie" else {}
    with world(login=LoginOptions(silent=True), **options) as w:
        browser = w.logged_in()
        callback = browser.click("/bff/silent-login", stop_at=LOCAL + "/bff/callback").headers["location"]
        frame = {name: value for name, value in FRAME.items() if value}
        header = browser.cookies.header(httpx2.URL(LOCAL), initiator=None) or ""
        headers = {"host": "localhost:8000", "cookie": header, "sec-fetch-mode": "navigate", **frame}
        request = httpx2.Request("GET", httpx2.URL(LOCAL).join(callback), headers=headers)
        ending, answers = w.bff._ending, []
        end = ending.end

        async def end_second(handle: SessionHandle, *, reason: EndReason) -> bool:
            ending.end = end  # type: ignore[method-assign]
            answers.append(await w.transport.call(request))
            return await end(handle, reason=reason)

        ending.end = end_second  # type: ignore[method-assign]
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        (answer,) = answers
        assert answer.headers["location"].endswith("?isLoggedIn=true")
        other = copied(w, answer)
        assert other.fetch("/bff/user").status_code == 401


def copied(w: World, answer: httpx2.Response) -> UserAgent:
    """A browser with the session that *answer* began."""
    browser = w.browser()
    browser.cookies.store(httpx2.URL(LOCAL), answer.headers.get_list("set-cookie"))
    return browser


@pytest.mark.spec("RPL-10")
@pytest.mark.parametrize("behind", [30, 5])
def test_who_revokes_by_a_clock_that_is_behind_ends_what_is_there(behind: float) -> None:
    with world() as w:
        clock = HandClock(w.clock.time())
        operator = BFF(w.provider.client(), public_url=LOCAL, keys=w.keys, sessions=w.store, clock=clock)
        w.advance(behind)
        browser = w.logged_in()
        assert run(w, operator.sessions.revoke(sub="alice")) == 1
        assert not alive(browser)
        run(w, operator.aclose())


@pytest.mark.spec("RPL-03")
def test_of_two_logouts_in_cookies_one_deletes_the_cookies() -> None:
    """The answer to the slower one may arrive after the next login."""
    store = Between()
    with world(sessions="cookie", coordination=store) as w:
        browser = w.logged_in()
        sessions = w.bff._storage.sessions

        async def both() -> list[list[bytes]]:
            header = browser.cookies.header(httpx2.URL(LOCAL), initiator=None) or ""
            cookies = parse_cookies([(b"host", b"localhost:8000"), (b"cookie", header.encode())])
            handles = [await sessions.open(cookies, now=w.clock.time()) for _ in range(2)]
            store.gate = asyncio.Event()
            ends = [asyncio.ensure_future(sessions.end(handle)) for handle in handles if handle is not None]
            while store.waiting < 2:
                await asyncio.sleep(0)
            store.gate.set()
            assert sorted(await asyncio.gather(*ends)) == [False, True]
            return [handle.set_cookies() for handle in handles if handle is not None]

        assert sorted(map(bool, run(w, both()))) == [False, True]


@pytest.mark.spec("RPL-08")
def test_a_logout_that_comes_second_clears_nothing_in_the_browser() -> None:
    """What it would clear may be those of the next login by now."""
    with world(logout=LogoutOptions(clear_site_data=("cookies",))) as w:
        browser, delete = w.logged_in(), w.store.delete

        async def delete_second(key: bytes) -> SessionRow | None:
            await delete(key)
            return await delete(key)

        w.store.delete = delete_second  # type: ignore[method-assign]
        answer = browser.fetch("/bff/logout", "POST")
        assert answer.status_code == 303
        assert "clear-site-data" not in answer.headers


@pytest.mark.spec("BCL-21")
def test_one_session_that_cannot_be_ended_keeps_no_other_alive() -> None:
    with world() as w:
        browsers, delete = [w.logged_in() for _ in range(3)], w.store.delete

        async def fail_once(key: bytes) -> SessionRow | None:
            w.store.delete = delete  # type: ignore[method-assign]
            raise StoreUnavailable("the test broke it")

        w.store.delete = fail_once  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            end(w, sub="alice", issued_until=w.clock.time())
        assert sorted(map(alive, browsers)) == [False, False, True]
        assert end(w, sub="alice", issued_until=w.clock.time()) == 1
