"""Front-channel logout over HTTP: what `iss` and `sid` end, and that nothing else does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.sparing import LINES
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.session import SessionFilter
from tests.bff.logouts import AWAY, WatchedEnding, alive, logouts, me, revocations, send
from tests.bff.world import ISSUER, LOCAL, World, claims, warnings, world
from tests.rig.user_agent import UserAgent

Fixture = tuple[World, WatchedEnding]
IN_A_FRAME = {"sec-fetch-dest": "iframe", "sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}


@pytest.fixture
def place() -> Iterator[Fixture]:
    with logouts() as (w, ending):
        yield w, ending


def frame(w: World, query: str, browser: UserAgent | None = None) -> httpx2.Response:
    """What a page of the provider has the browser load; with the session's cookie, as if SameSite did not exist."""
    cookie = browser.cookies.header(httpx2.URL(w.public_url), initiator=None) if browser else None
    headers = {**IN_A_FRAME, **({"cookie": cookie} if cookie else {})}
    return send(w, "GET", f"{w.public_url}/bff/frontchannel?{query}", headers=headers)


def about(browser: UserAgent) -> dict[str, str]:
    return {"iss": ISSUER, "sid": claims(me(browser))["sid"]}


def check_page(answer: httpx2.Response, *, status: int = 200, framed_by: str = ISSUER) -> None:
    """An empty page for a frame of the issuer's."""
    assert answer.status_code == status
    assert answer.text == "<!doctype html><title>&hellip;</title>"
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy == ["default-src 'none'", f"frame-ancestors {framed_by}", "base-uri 'none'", "form-action 'none'"]
    assert answer.headers["cache-control"] == "no-store"
    assert not {"x-frame-options", "set-cookie", "access-control-allow-origin"} & set(answer.headers)


@pytest.mark.spec("FCL-01", "FCL-02")
def test_iss_and_sid_end_that_session_and_nothing_at_the_provider(place: Fixture) -> None:
    w, ending = place
    here, there = w.logged_in(), w.logged_in()
    asked = about(here)
    check_page(frame(w, urlencode(asked)))
    assert not alive(here) and alive(there)
    assert ending.asked == [(SessionFilter(ISSUER, sid=asked["sid"]), "frontchannel_logout", None, False)]
    assert revocations(w) == 0


@pytest.mark.spec("FCL-01", "FCL-02")
@pytest.mark.parametrize(
    "query",
    [
        "",
        "iss={iss}",
        "sid={sid}",
        "iss=&sid={sid}",
        "iss={iss}&sid=",
        "iss={iss}/&sid={sid}",
        "iss=https://evil.example&sid={sid}",
        "iss={iss}&iss={iss}&sid={sid}",
        "iss={iss}&iss=https://evil.example&sid={sid}",
        "iss={iss}&sid={sid}&sid={sid}",
        "iss={iss}&sid={sid}&sid=other",
        "iss={iss}&sub=alice",
        "iss={iss}&sid&sub=alice",
        "ISS={iss}&SID={sid}",
    ],
)
def test_nothing_happens_unless_both_are_there_once_and_ours(query: str, place: Fixture) -> None:
    w, ending = place
    browser = w.logged_in()
    w.store.loads = 0
    check_page(frame(w, query.format(**about(browser)), browser))
    assert ending.asked == [] and alive(browser)


@pytest.mark.spec("FCL-01")
def test_another_sid_is_answered_alike_and_ends_nothing(place: Fixture) -> None:
    w, _ = place
    browser = w.logged_in()
    check_page(frame(w, urlencode({"iss": ISSUER, "sid": "another"}), browser))
    check_page(frame(w, urlencode({"iss": ISSUER, "sid": "alice"}), browser))
    assert alive(browser)


@pytest.mark.spec("FCL-02")
def test_forced_logout_by_a_strangers_page_that_knows_no_sid_ends_nothing(place: Fixture) -> None:
    """The cookie of whoever opens it is not looked at."""
    w, ending = place
    browser = w.logged_in()
    w.store.loads = 0
    check_page(frame(w, "", browser))
    check_page(frame(w, urlencode({"iss": ISSUER}), browser))
    assert w.store.loads == 0 and ending.asked == [] and alive(browser)


@pytest.mark.spec("FCL-03")
@pytest.mark.parametrize("options", [{}, {"logout": LogoutOptions(backchannel=True)}])
def test_it_is_off_unless_asked_for(options: dict[str, LogoutOptions]) -> None:
    with world(**options) as w:
        browser = w.logged_in()
        answer = send(w, "GET", f"{LOCAL}/bff/frontchannel?{urlencode(about(browser))}", headers=IN_A_FRAME)
        assert answer.status_code == 404 and alive(browser)


@pytest.mark.spec("FCL-03")
def test_a_flood_of_invented_sids_leaves_nothing_in_the_store(place: Fixture) -> None:
    w, ending = place
    browser = w.logged_in()
    before = len(w.store._values)
    for number in range(200):
        check_page(frame(w, urlencode({"iss": ISSUER, "sid": f"invented-{number}"})))
    assert (len(w.store._values), ending.asked) == (before, []) and alive(browser)


@pytest.mark.spec("FCL-03")
def test_it_refuses_to_start_where_invented_sids_would_have_to_be_kept(tmp_path: Path) -> None:
    with world(sessions="cookie", coordination=f"sqlite:///{tmp_path / 'shared.db'}") as w:
        w.options["logout"] = LogoutOptions(frontchannel=True)
        with pytest.raises(ConfigurationError, match=r"^logout\.frontchannel: "):
            w.start()


@pytest.mark.spec("FCL-04")
def test_only_the_issuer_may_frame_it_and_nothing_else_of_ours(place: Fixture) -> None:
    w, _ = place
    check_page(frame(w, ""))
    for path in ("/bff/frontchannel/x", "/bff/user", "/bff/logout", "/bff/backchannel"):
        answer = send(w, "GET", LOCAL + path, headers=IN_A_FRAME)
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.spec("FCL-04")
@pytest.mark.parametrize(
    ("issuer", "origin"),
    [
        ("https://idp.example.com", "https://idp.example.com"),
        ("https://idp.example.com/realms/shop", "https://idp.example.com"),
        ("https://idp.example.com:8443/", "https://idp.example.com:8443"),
    ],
)
def test_the_frame_belongs_to_the_origin_of_the_issuer(issuer: str, origin: str) -> None:
    with logouts(issuer=issuer) as (w, _):
        check_page(frame(w, ""), framed_by=origin)


@pytest.mark.spec("FCL-04")
@pytest.mark.parametrize("fault", [AWAY, LookupError("no such table")])
def test_a_store_that_fails_is_a_page_too_and_is_told_in_the_log(
    fault: Exception, place: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    w, ending = place
    browser = w.logged_in()
    ending.fault = fault
    answer = frame(w, urlencode(about(browser)))
    check_page(answer, status=503)
    assert (answer.headers["coatcheck-error"], answer.headers["retry-after"]) == ("store_unavailable", "5")
    (line,) = warnings(caplog)
    assert "front-channel logout failed" in line and "no such table" not in line
    assert alive(browser)


@pytest.mark.spec("FCL-04")
def test_the_sid_does_not_stay_in_access_logs_nor_in_ours(place: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    """Servers write their access log from the scope, once the answer begins."""
    w, _ = place
    browser = w.logged_in()
    asked = about(browser)
    seen: list[bytes] = []
    app = w.transport.apps["localhost:8000"]

    async def server(scope: dict[str, object], receive: object, send_: object) -> None:
        await app(scope, receive, send_)
        seen.append(scope["query_string"])  # type: ignore[arg-type]

    w.serve(server)
    with caplog.at_level(logging.DEBUG, "coatcheck"):
        check_page(frame(w, urlencode(asked)))
        check_page(frame(w, urlencode({"sid": asked["sid"]})))
    assert seen == [b"", b""] and asked["sid"] not in caplog.text


def test_what_was_ignored_is_told_sparingly(place: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    w, _ = place
    with caplog.at_level(logging.INFO, "coatcheck"):
        for _ in range(50):
            frame(w, "")
        w.advance(60)
        frame(w, "")
    lines = [record.getMessage() for record in caplog.records if "frontchannel_ignored" in record.getMessage()]
    assert len(lines) == LINES + 1 and "(45 more" in lines[-1]


def test_no_other_method_is_answered(place: Fixture) -> None:
    w, ending = place
    browser = w.logged_in()
    for method in ("POST", "HEAD", "OPTIONS", "DELETE"):
        url = f"{LOCAL}/bff/frontchannel?{urlencode(about(browser))}"
        assert send(w, method, url, headers=IN_A_FRAME).status_code == 405
    assert ending.asked == [] and alive(browser)
