"""Back-channel logout over HTTP: what a logout token does, and what nobody gets done without a good one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coatcheck import telemetry
from coatcheck.audit import AUDIT_LOGGER, EVENTS, user_reference
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.sparing import LINES, Sparing
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.session import SessionFilter
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import RegisteredClient
from coatcheck.transport import BackChannel
from tests.bff.logouts import AWAY, FORM, WatchedEnding, alive, logouts, me, mint, post, revocations, second_node, send
from tests.bff.world import ISSUER, LOCAL, PUBLIC, World, claims, session_cookie, warnings, world
from tests.oauth.issuer import MISSING
from tests.oauth.logout_tokens import MALFORMED

Fixture = tuple[World, WatchedEnding]
ENDPOINT = LOCAL + "/bff/backchannel"


@pytest.fixture
def place() -> Iterator[Fixture]:
    with logouts() as (w, ending):
        yield w, ending


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What the audit log says of logout tokens."""
    found = [record.__dict__["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]
    return [event for event in found if event["event"].startswith("logout_token")]


def check_refused(answer: httpx2.Response, code: str = "logout_token_refused") -> None:
    """400, and nothing about why."""
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["coatcheck-error"] == code
    check_headers(answer)


def check_headers(answer: httpx2.Response) -> None:
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.spec("BCL-12", "BCL-15", "BCL-16")
def test_a_logout_token_ends_the_session_that_it_names(place: Fixture) -> None:
    w, ending = place
    here, elsewhere, bob = w.logged_in(), w.logged_in(), w.logged_in("bob")
    of_here = mint(w, here)
    answer = post(w, of_here.token())
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    check_headers(answer)
    assert (alive(here), alive(elsewhere), alive(bob)) == (False, True, True)
    whose = SessionFilter(ISSUER, of_here.about["sub"], of_here.about["sid"])
    assert ending.asked == [(whose, "backchannel_logout", of_here.now, True)]


@pytest.mark.spec("BCL-12")
def test_with_both_sub_and_sid_both_have_to_fit(place: Fixture) -> None:
    w, _ = place
    browser, bob = w.logged_in(), w.logged_in("bob")
    sid, bobs = claims(me(browser))["sid"], claims(me(bob))["sid"]
    for about in ({"sub": "bob", "sid": sid}, {"sub": "alice", "sid": bobs}, {"sub": "alice", "sid": "s"}):
        assert post(w, mint(w).token(**about, jti=str(about))).status_code == 200
    assert alive(browser) and alive(bob)
    assert post(w, mint(w).token(sid=sid)).status_code == 200
    assert not alive(browser) and alive(bob)


@pytest.mark.spec("BCL-13")
def test_a_token_with_sub_alone_ends_all_sessions_of_the_user(place: Fixture) -> None:
    w, _ = place
    browsers, bob = [w.logged_in() for _ in range(3)], w.logged_in("bob")
    assert post(w, mint(w).token(sub="alice"), at=second_node(w)).status_code == 200
    assert [alive(browser) for browser in browsers] == [False] * 3
    assert alive(bob)


@pytest.mark.spec("BCL-14")
def test_the_same_user_and_sid_at_another_issuer_are_untouched(place: Fixture) -> None:
    w, _ = place
    with logouts(issuer="http://127.0.0.1:9001", sessions=w.store) as (other, _):
        other.store = w.store
        here, there = w.logged_in(), other.logged_in()
        about = mint(other, there).about
        assert post(w, mint(w).token(**about)).status_code == 200
        assert post(w, mint(w).token(sub="alice", iss=other.provider.issuer)).status_code == 400
        assert alive(there) and alive(here)
        assert post(w, mint(w).token(sub="alice", jti="2")).status_code == 200
        assert alive(there) and not alive(here)


@pytest.mark.spec("BCL-19")
def test_what_ends_at_one_node_has_ended_at_the_other_when_the_provider_has_its_answer(place: Fixture) -> None:
    w, _ = place
    node = second_node(w)
    browser = w.logged_in()
    cookie = browser.cookies.header(httpx2.URL(w.public_url), initiator=None) or ""
    as_script = {"cookie": cookie, "x-csrf": "1"}
    assert send(w, "GET", node + "/bff/user", headers=as_script).status_code == 200
    assert post(w, mint(w, browser).token()).status_code == 200
    assert send(w, "GET", node + "/bff/user", headers=as_script).status_code == 401


@pytest.mark.spec("BCL-20")
@pytest.mark.parametrize("about", [("sub",), ("sid",), ("sub", "sid")])
def test_a_logout_that_comes_while_its_login_is_finishing_wins(about: tuple[str, ...], place: Fixture) -> None:
    w, _ = place
    gate = w.provider.hold("token", after=True)
    browser = w.browser()
    url = w.callback(browser)
    named: dict[str, str] = {}

    def note(claims: dict[str, Any]) -> dict[str, Any]:
        named.update({name: claims[name] for name in about})
        return claims

    w.provider.tamper("id_token", note)

    async def log_out_meanwhile() -> tuple[int, int]:
        cookie = browser.cookies.header(httpx2.URL(url), initiator=None) or ""
        headers = {"cookie": cookie, "sec-fetch-mode": "navigate", "accept": "text/html"}
        callback = asyncio.create_task(w.transport.call(httpx2.Request("GET", url, headers=headers)))
        await gate.wait_reached()
        content = str(httpx2.QueryParams({"logout_token": mint(w).token(**named)}))
        told = await w.transport.call(httpx2.Request("POST", ENDPOINT, headers=FORM, content=content))
        gate.open()
        return told.status_code, (await callback).status_code

    told, answered = w.transport.loop.run_until_complete(log_out_meanwhile())
    assert set(named) == set(about) and told == 200 and answered >= 400
    assert w.sessions() == 0
    w.advance(1)
    assert alive(w.logged_in()), "and the next login is not touched"


def test_the_tokens_of_the_sessions_are_given_back(place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    assert post(w, mint(w, browser).token()).status_code == 200
    assert revocations(w) == 2


@pytest.mark.spec("BCL-12", "BCL-13")
def test_sessions_in_cookies_end_likewise(tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    with logouts(sessions="cookie", coordination=shared, logout=LogoutOptions(backchannel=True)) as (w, _):
        here, there, bob = w.logged_in(), w.logged_in(), w.logged_in("bob")
        assert post(w, mint(w, here).token()).status_code == 200
        assert (alive(here), alive(there), alive(bob)) == (False, True, True)
        assert post(w, mint(w).token(sub="alice", jti="2")).status_code == 200
        assert (alive(there), alive(bob)) == (False, True)
        w.advance(1)
        assert alive(w.logged_in())


class WithoutIndex:
    """The methods of a session store and of coordination, and no more."""

    def __init__(self) -> None:
        memory = MemoryStore()
        for name in ("create", "load", "update", "delete", "acquire", "mark_sent", "extend", "release"):
            setattr(self, name, getattr(memory, name))
        for name in ("add", "get", "replace", "discard"):
            setattr(self, name, getattr(memory, name))


@pytest.mark.parametrize(
    ("stores", "works"),
    [
        ({"sessions": "memory"}, True),
        ({"sessions": "cookie", "coordination": "sqlite"}, True),
        ({"sessions": "cookie"}, False),
        ({"sessions": WithoutIndex()}, False),
    ],
)
def test_it_is_served_wherever_it_can_work_and_refuses_to_start_elsewhere_when_it_is_wanted(
    stores: dict[str, Any], works: bool, tmp_path: Path
) -> None:
    if stores.get("coordination") == "sqlite":
        stores = stores | {"coordination": f"sqlite:///{tmp_path / 'shared.db'}"}
    with world(**stores) as w:
        assert send(w, "POST", ENDPOINT, headers=FORM).status_code == (400 if works else 404)
        w.options["logout"] = LogoutOptions(backchannel=False)
        w.start()
        assert send(w, "POST", ENDPOINT, headers=FORM).status_code == 404
        w.options["logout"] = LogoutOptions(backchannel=True)
        if works:
            w.start()
            assert send(w, "POST", ENDPOINT, headers=FORM).status_code == 400
        else:
            with pytest.raises(ConfigurationError, match=r"^logout\.backchannel: "):
                w.start()


@pytest.mark.spec("BCL-15")
def test_a_session_that_nobody_knows_has_ended_well(place: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    w, _ = place
    browser = w.logged_in()
    token = mint(w, browser)
    with caplog.at_level(logging.INFO):
        for jti, about in (("1", {"sub": "nobody"}), ("2", {"sid": "none"}), ("3", {}), ("4", {})):
            assert post(w, token.token(jti=jti, **about)).status_code == 200
    assert [event["ended"] for event in events(caplog)] == ["0", "0", "1", "0"]


@pytest.mark.spec("BCL-03", "BCL-04", "BCL-05", "BCL-06", "BCL-09", "BCL-10", "BCL-11", "BCL-15", "BCL-17", "BCL-22")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_token_is_400_and_the_session_lives(
    name: str, place: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    w, ending = place
    browser = w.logged_in()
    reason, make = MALFORMED[name]
    fetched = w.provider.count("jwks")
    with caplog.at_level(logging.INFO):
        check_refused(post(w, make(mint(w, browser))))
    assert ending.asked == [] and alive(browser)
    (event,) = events(caplog)
    assert (event["event"], event["reason"], event["iss"]) == ("logout_token_refused", reason, ISSUER)
    assert len(warnings(caplog)) == 1 and "alice" not in caplog.text
    assert w.provider.count("jwks") - fetched == (1 if reason == "unknown_key" else 0)
    assert post(w, mint(w, browser).token()).status_code == 200 and not alive(browser), "but for that, it is good"


@pytest.mark.spec("BCL-17")
def test_cross_jwt_tokens_that_the_provider_issued_for_something_else_log_nobody_out(place: Fixture) -> None:
    w, ending = place
    tokens = w.provider.log_in("alice", nonce="n")
    browser = w.logged_in()
    for name in ("id_token", "access_token", "refresh_token"):
        check_refused(post(w, tokens[name]))
    assert ending.asked == [] and alive(browser)


@pytest.mark.spec("BCL-01")
@pytest.mark.parametrize(
    ("method", "query", "content_type", "body", "status"),
    [
        ("GET", "?logout_token={}", None, "", 405),
        ("PUT", "", FORM["content-type"], "logout_token={}", 405),
        ("OPTIONS", "", None, "", 405),
        ("HEAD", "?logout_token={}", None, "", 405),
        ("POST", "", "application/json", '{{"logout_token": "{}"}}', 400),
        ("POST", "", "text/plain", "logout_token={}", 400),
        ("POST", "", "multipart/form-data; boundary=x", "logout_token={}", 400),
        ("POST", "", "application/jwt", "{}", 400),
        ("POST", "", None, "logout_token={}", 400),
        ("POST", "?logout_token={}", FORM["content-type"], "", 400),
        ("POST", "?logout_token={}", FORM["content-type"], "other=1", 400),
        ("POST", "", FORM["content-type"], "", 400),
        ("POST", "", FORM["content-type"], "logout_token=", 400),
        ("POST", "", FORM["content-type"], "Logout_Token={}", 400),
        ("POST", "", FORM["content-type"], "logout_token={0}&logout_token={0}", 400),
        ("POST", "", FORM["content-type"], "logout_token={}&logout_token=", 400),
        ("POST", "", FORM["content-type"], "logout_token={}&filler=" + "x" * 66_000, 413),
        ("POST", "", FORM["content-type"], "logout_token={}", 200),
        ("POST", "", FORM["content-type"] + "; charset=utf-8", "logout_token={}", 200),
        ("POST", "", FORM["content-type"].upper(), "logout_token={}&state=1&logout_hint=2", 200),
        ("POST", "?tenant=eu&logout_token=no", FORM["content-type"], "logout_token={}", 200),
    ],
)
def test_one_field_of_a_small_form_and_nothing_else(
    method: str, query: str, content_type: str | None, body: str, status: int, place: Fixture
) -> None:
    w, ending = place
    browser = w.logged_in()
    token = mint(w, browser).token()
    headers = {"content-type": content_type} if content_type else {}
    answer = send(w, method, ENDPOINT + query.format(token), headers=headers, content=body.format(token))
    assert answer.status_code == status
    check_headers(answer)
    assert ("coatcheck-error" in answer.headers) == (status != 200)
    assert (alive(browser), ending.asked == []) == ((False, False) if status == 200 else (True, True))


@pytest.mark.spec("BCL-02")
@pytest.mark.parametrize(
    "extra",
    [
        {"origin": "https://idp.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"origin": "null"},
        {"cookie": "__Host-Http-coatcheck-12345678=x; other=y"},
        {"x-csrf": "0", "accept": "text/html"},
    ],
)
def test_neither_cookie_nor_header_nor_origin_is_needed_or_harms(extra: dict[str, str], place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    answer = post(w, mint(w, browser).token(), headers={**FORM, **extra})
    assert answer.status_code == 200 and not alive(browser)
    check_headers(answer)
    check_refused(post(w, "x", headers={**FORM, **extra}))


@pytest.mark.spec("BCL-02")
def test_the_session_of_whoever_sends_it_is_not_even_looked_at(place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    cookie = browser.cookies.header(httpx2.URL(w.public_url), initiator=None) or ""
    assert (session_cookie(browser) or "none") in cookie
    w.store.loads = 0
    check_headers(post(w, mint(w).token(sub="somebody else"), headers={**FORM, "cookie": cookie}))
    assert w.store.loads == 0 and alive(browser)


@pytest.mark.spec("BCL-07")
def test_replay_at_another_node_after_a_new_login_is_refused(place: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    w, ending = place
    node = second_node(w)
    token = mint(w, w.logged_in()).token(sid=MISSING)
    assert post(w, token).status_code == 200
    w.advance(1)
    again = w.logged_in()
    asked = len(ending.asked)
    with caplog.at_level(logging.INFO):
        for at in (node, None):
            check_refused(post(w, token, at=at))
    assert alive(again) and len(ending.asked) == asked
    assert [event["reason"] for event in events(caplog)] == ["replayed"] * 2
    w.advance(1)
    assert post(w, mint(w).token(sub="alice", jti="another")).status_code == 200
    assert not alive(again), "another token of the same provider is no replay"


@pytest.mark.spec("BCL-07", "BCL-14")
def test_two_applications_that_share_a_store_and_keys_do_not_use_up_each_others_tokens(place: Fixture) -> None:
    w, _ = place
    with logouts(public_url=PUBLIC, sessions=w.store) as (other, _):
        here, there = w.logged_in(), other.logged_in()
        token = mint(w).token(sub="alice")
        assert post(w, token).status_code == 200
        assert (alive(here), alive(there)) == (False, True)
        assert post(other, token).status_code == 200
        assert not alive(there)


@pytest.mark.spec("BCL-01")
def test_a_token_that_came_in_a_query_does_not_stay_in_access_logs(place: Fixture) -> None:
    """Servers write their access log from the scope, once the answer begins."""
    w, _ = place
    app, seen = w.transport.apps["localhost:8000"], []

    async def server(scope: Any, receive: Any, send_: Any) -> None:
        await app(scope, receive, send_)
        seen.append(scope["query_string"])

    w.serve(server)
    answer = send(w, "POST", f"{ENDPOINT}?logout_token={mint(w).token(sub='alice')}", headers=FORM)
    assert answer.status_code == 400 and seen == [b""]


@pytest.mark.spec("BCL-07")
@pytest.mark.parametrize("without_exp", [False, True])
def test_a_token_is_remembered_until_it_would_be_refused_for_its_age(without_exp: bool) -> None:
    with logouts() as (w, _):
        w.options["client"] = w.provider.client(logout_token_without_exp=without_exp)
        node = second_node(w)
        given = mint(w)
        token = given.token(sub="alice", exp=MISSING if without_exp else given.now + 120)
        assert post(w, token, at=node).status_code == 200
        for _ in range(100):
            w.advance(10)
            check_refused(post(w, token, at=node))


class Forgetful(MemoryStore):
    """A coordination store of which a test can break the replay memory: what has no value."""

    broken = False

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        if self.broken and not value:
            raise AWAY
        return await super().add(key, value, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        found = await super().get(key)
        if self.broken and (found is None or not found.value):
            raise AWAY
        return found


class Counted:
    """Takes the place of an instrument."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, amount: int, attributes: Any = None) -> None:
        self.values.append(attributes["outcome"] if attributes else amount)


@pytest.mark.spec("BCL-08")
def test_without_the_replay_memory_the_logout_is_carried_out_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, memory = Counted(), Forgetful()
    monkeypatch.setattr(telemetry, "unchecked_replays", counted)
    with logouts(coordination=memory, logout=LogoutOptions(backchannel=True)) as (w, _):
        browser = w.logged_in()
        token = mint(w, browser).token(sid=MISSING)
        memory.broken = True
        assert post(w, token).status_code == 200 and not alive(browser)
        assert counted.values == [1, 1], "neither looked up nor written down"
        assert "logout_replay_unchecked" in caplog.text
        memory.broken = False
        w.advance(2)
        again = w.logged_in()
        memory.broken = True
        assert post(w, token).status_code == 200, "nobody can tell that it is a replay"
        assert alive(again), "and yet it ends nothing that began later"


@pytest.mark.spec("BCL-21", "BCL-07")
@pytest.mark.parametrize("fault", [AWAY, LookupError("no such table")])
def test_a_logout_that_failed_is_400_and_may_be_tried_again_with_the_same_token(
    fault: Exception, place: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    w, ending = place
    browser = w.logged_in()
    token = mint(w, browser).token()
    ending.fault = fault
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            check_refused(post(w, token), "logout_failed")
    assert alive(browser)
    assert {(event["event"], event["reason"]) for event in events(caplog)} == {("logout_token_failed", "store")}
    assert events(caplog)[0]["user"] == user_reference(ISSUER, "alice")
    assert "no such table" not in caplog.text
    ending.fault = None
    assert post(w, token).status_code == 200 and not alive(browser)
    check_refused(post(w, token))


@pytest.mark.spec("BCL-07", "BCL-15")
def test_two_nodes_with_one_token_at_the_same_time_both_end_the_session(
    place: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that tries again at another node is not told that the logout failed, whatever becomes of the first."""
    w, _ = place
    node = second_node(w)
    browser, bob = w.logged_in(), w.logged_in("bob")
    content = str(httpx2.QueryParams({"logout_token": mint(w, browser).token()}))
    requests = [httpx2.Request("POST", at + "/bff/backchannel", headers=FORM, content=content) for at in (LOCAL, node)]
    monkeypatch.setattr(WatchedEnding, "barrier", asyncio.Barrier(2))

    async def together() -> list[int]:
        async with asyncio.timeout(10):
            return [answer.status_code for answer in await asyncio.gather(*map(w.transport.call, requests))]

    assert w.transport.loop.run_until_complete(together()) == [200, 200]
    assert not alive(browser) and alive(bob)
    assert [w.transport.handle_request(request).status_code for request in requests] == [400, 400]


@pytest.mark.spec("JOS-09")
def test_a_token_signed_by_a_key_that_is_newer_than_the_last_login_is_accepted(place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    w.provider.keys.rotate(keep=False, alg="RS256")
    assert post(w, mint(w, browser).token()).status_code == 200
    assert not alive(browser)


@pytest.mark.spec("JOS-02", "BCL-04", "BCL-22")
def test_a_flood_of_invented_kids_and_issuers_makes_us_fetch_once(place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    tokens, before = mint(w, browser), len(w.provider.log)
    for number in range(100):
        check_refused(post(w, tokens.token(iss=f"https://evil{number}.example")))
    assert len(w.provider.log) == before
    for number in range(100):
        check_refused(post(w, tokens.token({"kid": f"k{number}"})))
    assert [entry.endpoint for entry in w.provider.log[before:]] == ["jwks"]
    assert alive(browser)


@pytest.mark.spec("BCL-21")
def test_while_the_keys_cannot_be_had_a_logout_fails_and_the_next_try_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with logouts() as (w, ending):
        w.provider.fail("jwks", times=None)
        token = mint(w).token(sub="alice")
        with caplog.at_level(logging.INFO):
            for _ in range(50):
                check_refused(post(w, token), "logout_failed")
        assert ending.asked == [] and w.provider.count("jwks") == 1
        assert [event["reason"] for event in events(caplog)] == ["keys"] * LINES
        w.provider.faults.clear()
        w.advance(10)
        assert post(w, token).status_code == 200


@pytest.mark.spec("BCL-22", "LOG-01")
def test_strangers_cannot_fill_the_log(place: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    """
    There is no limit by address: behind a proxy all callers may share one, and then a stranger's flood would lock the
    provider out. What is bounded is what a request costs, and what it leaves in the log.
    """
    w, ending = place
    browser = w.logged_in()
    with caplog.at_level(logging.INFO):
        for _ in range(60):
            check_refused(post(w, "x"))
        assert len(warnings(caplog)) == len(events(caplog)) == LINES
        check_refused(post(w, mint(w, browser).token(nonce="n")))
        assert events(caplog)[-1]["reason"] == "nonce", "one kind does not hide another"
        w.advance(60)
        check_refused(post(w, "x"))
    assert "55 more of this kind were not logged" in warnings(caplog)[-1]
    assert events(caplog)[-1]["unwritten"] == "55"
    assert ending.asked == [] and alive(browser)


def test_lines_are_let_through_again_after_a_minute() -> None:
    lines = Sparing()
    assert [lines.lets_through("a", now=second) for second in range(LINES)] == [0] * LINES
    assert lines.lets_through("a", now=59.9) is None
    assert lines.lets_through("b", now=59.9) == 0
    assert [lines.lets_through("a", now=60 + second) for second in range(LINES)] == [1, 0, 0, 0, 0]
    assert lines.lets_through("a", now=119.9) is None
    assert [lines.lets_through("b", now=119.9) for _ in range(LINES + 1)] == [0] * LINES + [None]


@pytest.mark.spec("BCL-22")
def test_the_audit_log_says_how_many_ended_and_whose_without_saying_who(
    place: Fixture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, _ = place
    counted = Counted()
    monkeypatch.setattr(telemetry, "logout_tokens", counted)
    browsers = [w.logged_in() for _ in range(2)]
    sid = claims(me(browsers[0]))["sid"]
    token = mint(w).token(sub="alice")
    with caplog.at_level(logging.DEBUG):
        post(w, token)
        post(w, mint(w).token(sid=sid, jti="2"))
        post(w, "x")
    accepted = {"event": "logout_token_accepted", "iss": ISSUER}
    assert events(caplog)[:2] == [
        accepted | {"ended": "2", "user": user_reference(ISSUER, "alice")},
        accepted | {"ended": "0"},
    ]
    assert {event["event"] for event in events(caplog)} <= set(EVENTS)
    assert not any(secret in caplog.text for secret in ("alice", sid, *token.split(".")))
    assert counted.values == ["accepted", "accepted", "refused"]


def test_all_sessions_of_the_user_end_where_the_options_say_so() -> None:
    with logouts(logout=LogoutOptions(backchannel_all_sessions=True)) as (w, ending):
        browsers, bob = [w.logged_in() for _ in range(2)], w.logged_in("bob")
        assert post(w, mint(w, browsers[0]).token()).status_code == 200
        assert [alive(browser) for browser in browsers] == [False, False] and alive(bob)
        assert ending.asked[0][0] == SessionFilter(ISSUER, "alice")


def test_a_token_that_names_no_user_ends_the_session_that_it_names_whatever_the_options_say() -> None:
    with logouts(logout=LogoutOptions(backchannel_all_sessions=True)) as (w, _):
        here, there = w.logged_in(), w.logged_in()
        assert post(w, mint(w, here).token(sub=MISSING)).status_code == 200
        assert not alive(here) and alive(there)


@pytest.mark.spec("BCL-05")
def test_a_provider_without_exp_can_be_let_in_by_its_registration() -> None:
    with logouts() as (w, _):
        browser = w.logged_in()
        token = mint(w, browser).token(exp=MISSING)
        check_refused(post(w, token))
        assert alive(browser)
        w.options["client"] = w.provider.client(logout_token_without_exp=True)
        assert post(w, token, at=second_node(w)).status_code == 200
        assert not alive(browser)


def test_the_provider_for_tests_sends_logout_tokens_itself() -> None:
    registered = RegisteredClient(client_id="app", client_secret="app-secret", backchannel_logout_uri=ENDPOINT)
    with logouts(registered=[registered]) as (w, _):
        here, there = w.logged_in(), w.logged_in()
        sid = claims(me(here))["sid"]

        async def log_out(**whom: Any) -> dict[str, int]:
            app = w.transport.apps["localhost:8000"]
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as client:
                return await w.provider.log_out(**whom, send=BackChannel(client).send)

        assert w.transport.loop.run_until_complete(log_out(sid=sid)) == {"app": 200}
        assert not alive(here) and alive(there)
        assert w.transport.loop.run_until_complete(log_out(sub="alice")) == {"app": 200}
        assert not alive(there)
