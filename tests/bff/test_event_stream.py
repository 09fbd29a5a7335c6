"""`/bff/events`: a page hears at once that its session has ended, or is about to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from coatcheck import base64url, codec
from coatcheck.bff import BFF, live, stopping
from coatcheck.bff.event_stream import KEEP_ALIVE, MAX_STREAMS
from coatcheck.bff.live import LOOK_EVERY, LOOK_EVERY_WITH_MESSAGES
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from tests.bff.event_source import EventSource
from tests.bff.world import LOCAL, World, application, world
from tests.rig.user_agent import UserAgent

HOUR = 3600.0


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hands of the clock move when a test moves them; how often somebody looks at it in between is no matter."""
    monkeypatch.setattr(live, "TICK", 0.005)


class Streams:
    """A world in which pages listen."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.loop = w.transport.loop
        self.sources: list[EventSource] = []

    def cookie(self, browser: UserAgent) -> str:
        header = browser.cookies.header(httpx2.URL(LOCAL), initiator=None)
        assert header is not None
        return header

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 10))

    def open(self, browser: UserAgent, *, at: BFF | None = None) -> EventSource:
        app = self.w.transport.apps["localhost:8000"] if at is None else at.wrap(application)
        source = EventSource(app, self.cookie(browser))
        self.sources.append(source)
        self.run(source.open())
        return source

    def next(self, source: EventSource) -> tuple[str, dict[str, Any]]:
        event: tuple[str, dict[str, Any]] = self.run(source.event())
        return event

    def let_time_pass(self, seconds: float) -> None:
        self.w.advance(seconds)
        self.settle()

    def settle(self) -> None:
        self.run(asyncio.sleep(0.05))

    def node(self, **options: Any) -> BFF:
        """Another process of the same application."""
        return BFF(
            self.w.provider.client(),
            public_url=LOCAL,
            keys=self.w.keys,
            sessions=self.w.store,
            clock=self.w.clock,
            **{**self.w.options, **options},
        )

    def close(self) -> None:
        for source in self.sources:
            self.run(source.leave())


@contextmanager
def streams(**options: Any) -> Iterator[Streams]:
    with world(**options) as w:
        made = Streams(w)
        yield made
        made.close()


# What the page hears


@pytest.mark.spec("SES-05", "WSS-04", "WSS-08")
def test_a_logout_ends_the_streams_of_its_session_and_no_other() -> None:
    with streams() as s:
        browser, elsewhere = s.w.logged_in(), s.w.logged_in()
        mine, second_tab, others = s.open(browser), s.open(browser), s.open(elsewhere)
        assert mine.status == 200
        assert mine.headers["content-type"] == "text/event-stream"
        assert mine.headers["cache-control"] == "no-store" and mine.headers["x-accel-buffering"] == "no"
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        for source in (mine, second_tab):
            assert s.next(source) == ("ended", {"reason": "logout"})
            assert s.next(source) == ("", {})
        s.settle()
        assert "ended" not in others.said()


@pytest.mark.parametrize(("username", "reason"), [("alice", "replaced"), ("bob", "user_switched")])
def test_a_login_ends_the_streams_of_the_session_that_it_replaces(username: str, reason: str) -> None:
    with streams() as s:
        browser = s.w.logged_in()
        source = s.open(browser)
        browser.login(LOCAL + "/bff/login?prompt=login", username=username)
        assert s.next(source) == ("ended", {"reason": reason})


@pytest.mark.spec("SES-05", "RPL-10")
def test_an_administrator_ends_all_the_streams_of_a_user() -> None:
    with streams() as s:
        both = [s.open(s.w.logged_in()) for _ in range(2)]
        bobs = s.open(s.w.logged_in("bob"))
        assert s.run(s.w.bff.sessions.revoke(sub="alice")) == 2
        for source in both:
            assert s.next(source) == ("ended", {"reason": "revoked"})
        s.settle()
        assert "ended" not in bobs.said()


@pytest.mark.spec("SES-03", "SES-04")
def test_a_page_is_warned_a_minute_before_the_end_once_and_told_of_the_end() -> None:
    with streams() as s:
        source = s.open(s.w.logged_in())
        s.let_time_pass(HOUR - 61)
        assert "event" not in source.said()
        s.let_time_pass(1)
        assert s.next(source) == ("expiring", {"expires_in": 60})
        s.let_time_pass(59)
        assert "event" not in source.said()
        s.let_time_pass(1)
        assert s.next(source) == ("ended", {"reason": "expired"})


@pytest.mark.spec("SES-04")
def test_a_use_in_the_last_minute_takes_the_warning_back_and_listening_is_no_use() -> None:
    with streams() as s:
        browser = s.w.logged_in()
        source = s.open(browser)
        s.let_time_pass(HOUR - 30)
        assert s.next(source) == ("expiring", {"expires_in": 30})
        assert browser.fetch("/bff/user").status_code == 200
        s.let_time_pass(HOUR - 61)
        assert "event" not in source.said()
        s.let_time_pass(1)
        assert s.next(source) == ("expiring", {"expires_in": 60})


def test_who_comes_in_the_last_minute_is_warned_at_once() -> None:
    with streams() as s:
        browser = s.w.logged_in()
        s.w.advance(HOUR - 20)
        assert s.next(s.open(browser)) == ("expiring", {"expires_in": 20})


@pytest.mark.spec("WSS-08")
def test_silence_is_broken_now_and_then() -> None:
    with streams() as s:
        source = s.open(s.w.logged_in())
        s.settle()
        source.said()
        s.let_time_pass(KEEP_ALIVE - 1)
        assert source.said() == ""
        s.let_time_pass(1)
        assert source.said() == ":\n\n"


@pytest.mark.spec("SES-13")
def test_a_page_is_told_that_nothing_is_left_to_renew_the_session_with() -> None:
    with streams() as s:
        s.w.provider.tamper("token", lambda answer: {**answer, "refresh_expires_in": 600})
        source = s.open(s.w.logged_in())
        s.let_time_pass(540)
        assert s.next(source) == ("expiring", {"expires_in": 60})
        s.let_time_pass(60)
        assert s.next(source) == ("ended", {"reason": "grant_ended"})


# What a page may ask instead


def test_a_page_may_ask_how_it_stands_without_a_stream() -> None:
    with streams() as s:
        browser, elsewhere = s.w.logged_in(), s.w.logged_in()
        s.w.advance(HOUR - 90)
        answers = [at_this_moment(who) for who in (browser, browser, elsewhere)]
        assert [answer["expires_in"] for answer in answers] == [90, 90, 90]  # asking is no use
        mine, again, others = (answer["session"] for answer in answers)
        assert mine == again != others
        assert {mine, others} == {summary.reference for summary in s.run(s.w.bff.sessions.list(sub="alice"))}
        assert s.w.bff._live._hub_of(s.loop)._watches == {}
        s.w.advance(90)
        assert browser.fetch("/bff/events", csrf=False, headers=JSON).status_code == 401
        s.w.break_store()
        assert elsewhere.fetch("/bff/events", csrf=False, headers=JSON).status_code == 503


JSON = {"Accept": "application/json"}


def at_this_moment(browser: UserAgent) -> dict[str, Any]:
    answer = browser.fetch("/bff/events", csrf=False, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.spec("SES-13")
def test_who_asks_after_the_announced_end_of_the_refresh_token_has_no_session_any_more() -> None:
    with streams() as s:
        s.w.provider.tamper("token", lambda answer: {**answer, "refresh_expires_in": 600})
        browser = s.w.logged_in()
        s.w.advance(600)
        source = s.open(browser)
        assert (source.status, source.headers["coatcheck-error"]) == (401, "session_ended")
        assert s.w.sessions() == 0


# In cookies


def test_in_cookies_the_session_is_called_the_same_when_the_cookie_has_slid() -> None:
    with streams(sessions="cookie", coordination=MemoryStore()) as s:
        browser = s.w.logged_in()
        before = at_this_moment(browser)
        s.w.advance(HOUR / 2)
        assert browser.fetch("/bff/user").headers["set-cookie"]
        assert at_this_moment(browser) == before


@pytest.mark.spec("SES-05")
def test_in_cookies_a_page_comes_back_with_its_newest_cookie_before_it_is_warned() -> None:
    with streams(sessions="cookie", coordination=MemoryStore()) as s:
        browser = s.w.logged_in()
        source = s.open(browser)
        s.let_time_pass(HOUR - 60)
        assert s.next(source) == ("", {})  # over without a word, so the browser comes back by itself
        source = s.open(browser)
        assert s.next(source) == ("expiring", {"expires_in": 60})
        assert browser.fetch("/bff/user").status_code == 200  # its cookie slides
        s.let_time_pass(60)
        assert s.next(source) == ("", {})
        source = s.open(browser)
        s.settle()
        assert "event" not in source.said()
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        assert s.next(source) == ("ended", {"reason": "logout"})


@pytest.mark.spec("SES-05", "BCL-19")
def test_in_cookies_an_administrator_ends_streams_too() -> None:
    with streams(sessions="cookie", coordination=MemoryStore()) as s:
        browser, bob = s.w.logged_in(), s.w.logged_in("bob")
        source, bobs = s.open(browser), s.open(bob)
        s.w.advance(1)
        assert s.run(s.w.bff.sessions.revoke(sub="alice")) is None
        assert s.next(source) == ("ended", {"reason": "revoked"})
        assert browser.fetch("/bff/user").status_code == 401
        assert bob.fetch("/bff/user").status_code == 200
        s.settle()
        assert "ended" not in bobs.said()
        s.w.advance(1)
        assert s.w.logged_in().fetch("/bff/user").status_code == 200  # a new login is not about to be undone


# Nodes


@pytest.mark.spec("SES-05", "WSS-04")
def test_another_node_hears_of_it_at_once() -> None:
    with streams() as s:
        node, browser = s.node(), s.w.logged_in()
        source = s.open(browser, at=node)
        s.settle()
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        assert s.next(source) == ("ended", {"reason": "logout"})
        s.run(node.aclose())


class WithoutMessages(MemoryStore):
    """A store that is no `Notifier`."""

    publish = None  # type: ignore[assignment]
    loads = 0

    async def load(self, key: bytes) -> SessionRow | None:
        self.loads += 1
        return await super().load(key)


class Deaf(MemoryStore):
    """Its messages arrive nowhere."""

    async def publish(self, channel: str, message: bytes) -> None:
        pass


@pytest.mark.spec("SES-05")
@pytest.mark.parametrize(
    ("kind", "every"), [(WithoutMessages, LOOK_EVERY), (Deaf, LOOK_EVERY_WITH_MESSAGES)], ids=["none", "lost"]
)
def test_a_node_that_hears_nothing_looks_by_itself(kind: Callable[..., MemoryStore], every: float) -> None:
    with streams() as s:
        s.w.store = kind(s.w.clock)  # type: ignore[assignment]
        s.w.start()
        node, browser = s.node(), s.w.logged_in()
        source = s.open(browser, at=node)
        s.settle()
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        s.let_time_pass(every - 1)
        assert "ended" not in source.said()
        s.let_time_pass(1)
        assert s.next(source) == ("ended", {"reason": "ended"})  # why, nobody has said
        s.run(node.aclose())


@pytest.mark.spec("SES-12")
def test_a_store_that_is_away_ends_no_stream_and_what_was_missed_is_seen_later() -> None:
    with streams() as s:
        browser = s.w.logged_in()
        source = s.open(browser)
        s.settle()
        s.w.break_store()
        s.let_time_pass(LOOK_EVERY_WITH_MESSAGES)
        s.let_time_pass(HOUR)
        assert "event" not in source.said()
        s.w.store.broken = False
        s.let_time_pass(LOOK_EVERY)
        assert s.next(source) == ("ended", {"reason": "expired"})


def test_a_forged_message_ends_nothing() -> None:
    with streams() as s:
        source = s.open(s.w.logged_in())
        s.settle()
        channel = f"coatcheck:{s.w.bff.application_id}:endings"
        watch = next(iter(s.w.bff._live._hub_of(s.loop)._watches))
        name = base64url.encode(watch.names[0])
        for message in (b"", b"{", codec.encode(["logout", ["!"]]), codec.encode(["logout", [name]])):
            s.run(s.w.store.publish(channel, message))
        s.settle()
        assert "event" not in source.said()


# Who may listen, and for how long


@pytest.mark.spec("CSR-02")
@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": ""},
        {"origin": "https://evil.example"},
    ],
)
def test_cross_site_event_source_hears_nothing(headers: dict[str, str]) -> None:
    with streams() as s:
        cookie = s.cookie(s.w.logged_in())
        source = EventSource(s.w.transport.apps["localhost:8000"], cookie, **headers)
        s.run(source.open())
        assert source.status == 403


def test_a_stranger_is_sent_to_the_login() -> None:
    with streams() as s:
        source = EventSource(s.w.transport.apps["localhost:8000"], None)
        s.run(source.open())
        assert source.status == 401
        assert b'"login_url":"/bff/login"' in s.run(source.body())


def test_one_session_has_a_bounded_number_of_streams() -> None:
    with streams() as s:
        browser = s.w.logged_in()
        for _ in range(MAX_STREAMS):
            assert s.open(browser).status == 200
        refused = s.open(browser)
        assert (refused.status, refused.headers["coatcheck-error"]) == (429, "too_many_streams")
        assert s.open(s.w.logged_in()).status == 200
        s.run(s.sources[0].leave())
        assert s.open(browser).status == 200


def test_nothing_is_left_of_a_page_that_went() -> None:
    with streams() as s:
        before = len(asyncio.all_tasks(s.loop))
        browser = s.w.logged_in()
        for _ in range(3):
            s.run(s.open(browser).leave())
        s.settle()
        hub = s.w.bff._live._hub_of(s.loop)
        assert (hub._watches, hub.by_name, hub._suspects, hub._task) == ({}, {}, {}, None)
        assert len(asyncio.all_tasks(s.loop)) == before


def test_a_server_that_stops_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with streams() as s:
        source = s.open(s.w.logged_in())
        s.settle()
        monkeypatch.setattr(stopping, "_stopping", True)
        assert s.next(source) == ("", {})


def test_uvicorn_is_seen_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what answers SIGTERM: `uvicorn.Server.handle_exit`, which sets `should_exit`."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(application))
    monkeypatch.setattr("signal.getsignal", lambda _: server.handle_exit)
    assert not stopping.is_stopping()
    server.handle_exit(15, None)
    assert stopping.is_stopping()
