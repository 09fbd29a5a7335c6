"""Sessions that are ended from outside: all of them, those that are just being made, and none that came later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from coatcheck.audit import AUDIT_LOGGER, session_reference, user_reference
from coatcheck.bff.backchannel import serves_backchannel
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.sessions import SessionFilter
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from tests.bff.world import ISSUER, World, session_cookie, world
from tests.rig.user_agent import UserAgent


def run(w: World, work: Awaitable[Any]) -> Any:
    return w.transport.loop.run_until_complete(asyncio.wait_for(work, 10))


def end(w: World, *, issued_until: float | None = None, **who: str) -> int | None:
    """What a back-channel logout does."""
    about = SessionFilter(ISSUER, **who)
    ended: int | None = run(w, w.bff._ending.end_about(about, reason="backchannel_logout", issued_until=issued_until))
    return ended


def alive(browser: UserAgent) -> bool:
    return browser.fetch("/bff/user").status_code == 200


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]


# Administration


@pytest.mark.spec("SES-09", "RPL-10")
def test_an_administrator_lists_and_ends_the_sessions_of_a_user() -> None:
    with world() as w:
        first = w.logged_in()
        w.advance(5)
        second, bob = w.logged_in(), w.logged_in("bob")
        w.advance(600)
        assert alive(first)
        listed = run(w, w.bff.sessions.list(sub="alice"))
        assert [entry.seen_at - entry.created_at for entry in listed] == [605, 0]
        assert {(entry.iss, entry.sub, entry.user) for entry in listed} == {
            (ISSUER, "alice", user_reference(ISSUER, "alice"))
        }
        assert {entry.expires_at - entry.created_at for entry in listed} == {8 * 3600}
        assert not [
            cookie for cookie in map(session_cookie, (first, second)) if cookie is None or cookie in repr(listed)
        ]
        assert run(w, w.bff.sessions.revoke(sub="alice")) == 2
        assert [alive(browser) for browser in (first, second, bob)] == [False, False, True]
        assert run(w, w.bff.sessions.list(sub="alice")) == []
        assert run(w, w.bff.sessions.revoke(sub="alice")) == 0
        w.advance(1)
        assert alive(w.logged_in())


@pytest.mark.spec("SES-14")
def test_what_is_listed_is_what_the_audit_log_calls_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    with world() as w:
        w.logged_in()
        (entry,) = run(w, w.bff.sessions.list(sub="alice"))
        run(w, w.bff.sessions.revoke(sid=entry.sid))
        began, ended = (event for event in events(caplog) if "session" in event)
    assert began == {"event": "logged_in", "iss": ISSUER, "session": entry.reference, "user": entry.user}
    assert ended == {**began, "event": "session_ended", "reason": "revoked"}


def test_tokens_of_sessions_that_were_ended_are_given_back_behind_the_answer() -> None:
    with world() as w:
        for _ in range(3):
            w.logged_in()
        run(w, w.bff.sessions.revoke(sub="alice"))
        run(w, w.bff._ending.aclose())
        assert len(set(w.revoked())) == 3


def test_a_session_is_found_by_its_sid_at_the_provider() -> None:
    with world() as w:
        one, other = w.logged_in(), w.logged_in()
        sids = [entry.sid for entry in run(w, w.bff.sessions.list(sub="alice"))]
        assert len(set(sids)) == 2
        (newest, *_) = sids
        assert run(w, w.bff.sessions.revoke(sid=newest, sub="bob")) == 0
        assert run(w, w.bff.sessions.revoke(sid=newest, iss="https://idp.example.org")) == 0
        assert run(w, w.bff.sessions.revoke(sid=newest, sub="alice")) == 1
        assert sorted(map(alive, (one, other))) == [False, True]


def test_nobody_cannot_be_meant() -> None:
    with world() as w:
        w.logged_in()
        for work in (w.bff.sessions.list, w.bff.sessions.revoke):
            with pytest.raises(ValueError, match="say whose"):
                run(w, work(sub="", sid=None))
        assert w.sessions() == 1


@pytest.mark.parametrize("who", [{"sub": "", "sid": "s1"}, {"sub": "alice", "sid": ""}])
def test_a_name_that_is_empty_is_no_silent_zero(who: dict[str, str]) -> None:
    with world() as w:
        browser = w.logged_in()
        for work in (w.bff.sessions.list, w.bff.sessions.revoke):
            with pytest.raises(ValueError, match="say whose"):
                run(w, work(**who))
        assert alive(browser)


def test_sessions_in_cookies_cannot_be_listed_and_are_ended_all_the_same() -> None:
    with world(sessions="cookie", coordination=MemoryStore()) as w:
        browser = w.logged_in()
        with pytest.raises(ConfigurationError, match="in the cookies of their browsers"):
            run(w, w.bff.sessions.list(sub="alice"))
        assert alive(browser)
        w.advance(1)
        assert run(w, w.bff.sessions.revoke(sub="alice")) is None
        assert not alive(browser)


@pytest.mark.spec("SES-12", "BCL-21")
def test_a_store_that_does_not_answer_is_an_error_and_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    with world() as w:
        browser = w.logged_in()

        async def fails(*_: object) -> list[SessionRow]:
            raise StoreUnavailable("the test broke it")

        monkeypatch.setattr(w.store, "find", fails)
        with pytest.raises(StoreUnavailable):
            run(w, w.bff.sessions.revoke(sub="alice"))
        monkeypatch.undo()
        assert alive(browser)
        assert run(w, w.bff.sessions.revoke(sub="alice")) == 1


@pytest.mark.spec("BCL-08", "BCL-21")
def test_where_only_the_coordination_store_is_away_what_can_be_found_is_ended_and_the_failure_is_told() -> None:
    coordination = Breakable()
    with world(coordination=coordination) as w:
        browser = w.logged_in()
        coordination.broken = True
        with pytest.raises(StoreUnavailable):  # a login under way may escape: it has to be done again
            run(w, w.bff.sessions.revoke(sub="alice"))
        assert not alive(browser)


@pytest.mark.spec("RPL-02")
@pytest.mark.parametrize("fault", [StoreUnavailable("the test broke it"), RuntimeError("the driver said so")])
def test_a_logout_ends_the_session_whatever_the_coordination_store_raises(fault: Exception) -> None:
    coordination = Breakable()
    with world(coordination=coordination) as w:
        browser = w.logged_in()
        coordination.broken, coordination.fault = True, fault
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        assert w.sessions() == 0


class Breakable(MemoryStore):
    """A store in which nothing can be added while it is broken."""

    broken = False
    fault: Exception = StoreUnavailable("the test broke it")

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        if self.broken:
            raise self.fault
        return await super().add(key, value, until=until)


# The rule of `iat`


@pytest.mark.spec("BCL-07", "BCL-20")
def test_a_logout_that_arrives_late_ends_what_was_there_and_not_what_came_since() -> None:
    with world() as w:
        before = w.logged_in()
        at = w.clock.time()
        w.advance(5)
        since = w.logged_in()
        assert end(w, sub="alice", issued_until=at) == 1
        assert (alive(before), alive(since)) == (False, True)
        assert end(w, sub="alice", issued_until=at) == 0  # and again


@pytest.mark.spec("BCL-07", "BCL-20")
def test_in_cookies_too() -> None:
    with world(sessions="cookie", coordination=MemoryStore()) as w:
        before = w.logged_in()
        at = w.clock.time()
        w.advance(5)
        since = w.logged_in()
        for _ in range(2):
            assert end(w, sub="alice", issued_until=at) is None
            assert (alive(before), alive(since)) == (False, True)


# Logins under way


class Meeting(MemoryStore):
    """Lets something happen right before or right after a session is made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.before: list[Callable[[], Awaitable[object]]] = []
        self.after: list[Callable[[], Awaitable[object]]] = []

    async def create(self, row: SessionRow) -> None:
        for happen in self.before:
            await happen()
        await super().create(row)
        for happen in self.after:
            await happen()


@pytest.mark.spec("BCL-20")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("by", ["sub", "sid", "both"])
def test_a_logout_wins_over_the_login_that_it_meets(moment: str, by: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    with world() as w:
        w.store = store = Meeting(w.clock)  # type: ignore[assignment]
        w.start()
        browser = w.logged_in()
        (entry,) = run(w, w.bff.sessions.list(sub="alice"))
        callback = w.callback(browser)  # the provider knows its session, so it has the same sid

        async def log_out() -> None:
            issued, sid = w.clock.time(), entry.sid
            who = {"sub": {"sub": "alice"}, "sid": {"sid": sid}, "both": {"sub": "alice", "sid": sid}}[by]
            await w.bff._ending.end_about(
                SessionFilter(ISSUER, **who), reason="backchannel_logout", issued_until=issued
            )

        getattr(store, moment).append(log_out)
        answer = browser.click(callback)
        assert answer.status_code == 400
        assert answer.headers["coatcheck-error"] == "login_ended"
        assert w.sessions() == 0 and not alive(browser)
        run(w, w.bff._ending.aclose())
        assert len(set(w.revoked())) == 2  # of the session before, and of the one that was about to begin
        assert {"event": "login_failed", "reason": "login_ended", "iss": ISSUER} in events(caplog)
        store.before.clear()
        store.after.clear()
        w.advance(1)
        assert alive(w.logged_in())


@pytest.mark.spec("RPL-02")
@pytest.mark.parametrize("store", ["memory", "cookie"])
def test_a_logout_in_one_tab_wins_over_the_login_that_another_tab_has_begun(store: str) -> None:
    """Its answer is back from the provider already, which is slow to redeem the code."""
    with world(**({"sessions": "cookie"} if store == "cookie" else {})) as w:
        browser = w.logged_in()
        callback = w.callback(browser, path="/bff/login?prompt=login")
        cookies = browser.cookies.header(httpx2.URL(callback), initiator=None) or ""
        gate, loop = w.provider.hold("token"), w.transport.loop
        headers = {"cookie": cookies, "sec-fetch-mode": "navigate", "accept": "text/html"}
        late = loop.create_task(w.transport.call(httpx2.Request("GET", callback, headers=headers)))
        loop.run_until_complete(gate.wait_reached())
        assert browser.fetch("/bff/logout", "POST", initiator=w.public_url).status_code == 303
        gate.open()
        answer = loop.run_until_complete(late)
        assert (answer.status_code, answer.headers["coatcheck-error"]) == (400, "login_ended")
        assert not [line for line in answer.headers.get_list("set-cookie") if "Max-Age=0" not in line]
        assert alive(w.logged_in())


@pytest.mark.spec("BCL-20")
def test_a_login_that_was_done_elsewhere_meanwhile_is_not_met() -> None:
    """A logout is about sessions from before it: this one's id_token is younger."""
    with world() as w:
        at = w.clock.time()
        w.advance(1)
        assert end(w, sub="alice", issued_until=at) == 0
        assert alive(w.logged_in())


@pytest.mark.spec("BCL-20")
def test_in_cookies_a_logout_wins_over_the_login_that_it_meets() -> None:
    with world(sessions="cookie", coordination=MemoryStore()) as w:
        browser = w.browser()
        callback = w.callback(browser)
        end(w, sub="alice", issued_until=w.clock.time() + 5)
        answer = browser.click(callback)
        assert answer.headers["coatcheck-error"] == "login_ended"
        assert session_cookie(browser) is None


@pytest.mark.spec("BCL-20", "SES-12")
def test_when_nobody_can_say_whether_the_user_was_logged_out_no_session_begins() -> None:
    class Forgetful(MemoryStore):
        """Tombstones cannot be read."""

        async def get(self, key: bytes) -> ExpiringValue | None:
            raise StoreUnavailable("the test broke it")

    with world(coordination=Forgetful()) as w:
        browser = w.browser()
        answer = browser.login("/bff/login")
        assert answer.status_code == 503
        assert answer.headers["coatcheck-error"] == "store_unavailable"
        assert w.sessions() == 0 and session_cookie(browser) is None


# Where it cannot be done


class WithoutIndex:
    """The four methods of a `SessionStore`, and no more."""

    def __init__(self, store: MemoryStore) -> None:
        self.create, self.load, self.update, self.delete = store.create, store.load, store.update, store.delete


def test_a_store_without_an_index_is_no_silent_success() -> None:
    with world(sessions=WithoutIndex(MemoryStore())) as w:
        assert alive(w.logged_in())
        for work in (w.bff.sessions.list, w.bff.sessions.revoke):
            with pytest.raises(ConfigurationError, match="SessionIndex"):
                run(w, work(sub="alice"))
        assert w.bff.backchannel_logout_uri is None
    with pytest.raises(ConfigurationError, match=r"logout\.backchannel"):
        serves_backchannel(True, w.bff._storage)


def test_what_is_to_be_registered() -> None:
    with world(logout=LogoutOptions(frontchannel=True)) as w:
        assert w.bff.backchannel_logout_uri == "http://localhost:8000/bff/backchannel"
        assert w.bff.frontchannel_logout_uri == "http://localhost:8000/bff/frontchannel"
    with world(logout=LogoutOptions(backchannel=False)) as w:
        assert (w.bff.backchannel_logout_uri, w.bff.frontchannel_logout_uri) == (None, None)


def test_the_reference_of_a_session_cannot_be_used_in_its_place() -> None:
    with world() as w:
        browser = w.logged_in()
        (entry,) = run(w, w.bff.sessions.list(sub="alice"))
        cookie = session_cookie(browser) or ""
        assert len(entry.reference) == 12 and entry.reference not in cookie
        assert entry.reference == session_reference(run(w, _ids(w))[0])


async def _ids(w: World) -> list[str]:
    handles = await w.bff._storage.sessions.find_all(  # type: ignore[attr-defined]
        SessionFilter(ISSUER, sub="alice"), now=w.clock.time()
    )
    return [handle.session.id for handle in handles]


def test_lifetimes_of_tombstones_cover_what_they_are_for() -> None:
    with world(lifetime=timedelta(minutes=5)) as w:
        assert w.bff._storage.tombstones_last == 20 * 60
    with world(sessions="cookie", lifetime=timedelta(hours=2)) as w:
        assert w.bff._storage.tombstones_last == 2 * 3600
