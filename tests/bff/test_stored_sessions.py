"""
What logins and logouts leave in a store that several browsers, applications and processes share.

T271 to T277 of the scenarios that `docs/differences.md` refers to, and where each is shown:

| | what has to hold | shown here, or by |
|---|---|---|
| T271 | a login takes the place of its own browser's session only | here |
| T272 | two applications on one store: a row each, and each ends its own | here, `test_applications_on_one_host.py` |
| T273 | without a choice: SQLite in development, elsewhere no start | `test_storage.py` |
| T274 | what is over is removed by any process, by several at once | `stores/test_cleaning_together.py` |
| | nobody has to switch that on: it comes with writes | `stores/test_sqlite.py`, `stores/test_postgresql.py` |
| T275 | an unknown key loads None | the rule `an_unknown_key_loads_none` |
| | it is deleted without an error, and takes no update | `delete_returns_the_row_once`, `an_update_never_creates` |
| | neither of two applications finds the other's sessions | `partitions_do_not_see_each_other` |
| | by `sub`, by `sid`, by both; never everybody | here, `sessions/test_search.py`, `test_ending.py` |
| T276 | of two who delete one row, one gets it and none an error | `each_revoked_row_is_returned_once` |
| T277 | claims come back as they were, null among them | here |

The rules are those of `coatcheck.testing`, which every store of ours keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coatcheck import BFF
from coatcheck.bff.administration import SessionSummary
from coatcheck.sessions import SessionFilter
from coatcheck.stores import SQLiteStore
from coatcheck.testing import RegisteredClient
from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT
from tests.bff.world import ISSUER, World, application, claims, world
from tests.rig.user_agent import UserAgent

OTHER = "http://localhost:8001"


@pytest.fixture(params=["memory", "sqlite"])
def w(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    clients = [RegisteredClient(client_id=name, client_secret=f"{name}-secret") for name in ("app", "other")]
    with world(registered=clients) as w:
        if request.param == "sqlite":
            w.options["sessions"] = SQLiteStore(tmp_path / "sessions.db", w.clock)
            w.start()
        yield w


def run(w: World, work: Awaitable[Any]) -> Any:
    return w.transport.loop.run_until_complete(asyncio.wait_for(work, 10))


def listed(w: World, bff: BFF | None = None, **who: str) -> list[SessionSummary]:
    found: list[SessionSummary] = run(w, (bff or w.bff).sessions.list(**who))
    return found


def is_logged_in(browser: UserAgent, at: str = "") -> bool:
    return browser.fetch(f"{at}/bff/user").status_code == 200


@pytest.fixture
def other(w: World) -> Iterator[BFF]:
    """Another application, with the same keys and on the same store."""
    bff = BFF(
        w.provider.client(client_id="other", client_secret="other-secret"),
        public_url=OTHER,
        keys=w.keys,
        sessions=w.options.get("sessions", w.store),
        http_clients={BACK_CHANNEL_HTTP_CLIENT: w.back_channel},
        clock=w.clock,
    )
    w.serve(bff.wrap(application), at="localhost:8001")
    yield bff
    run(w, bff.aclose())


@pytest.mark.spec("LGN-04")
def test_a_login_takes_the_place_of_the_session_of_its_browser_and_of_no_other(w: World) -> None:
    laptop, telephone, copy = w.logged_in(), w.logged_in(), w.browser()
    for cookie in laptop.cookies.all():
        copy.cookies.put(cookie)
    assert is_logged_in(copy)
    sid, before = claims(laptop.fetch("/bff/user"))["sid"], listed(w, sub="alice")
    laptop.login("/bff/login")
    assert claims(laptop.fetch("/bff/user"))["sid"] == sid  # the session at the provider goes on
    after = listed(w, sub="alice")
    assert (len(before), len(after), len(listed(w, sid=sid))) == (2, 2, 1)
    assert len({each.reference for each in before + after}) == 3
    assert [is_logged_in(browser) for browser in (laptop, telephone, copy)] == [True, True, False]


@pytest.mark.spec("SES-11")
def test_two_applications_on_one_store_have_a_row_each_and_end_their_own(w: World, other: BFF) -> None:
    browser = w.logged_in()
    browser.base_url = browser.base_url.copy_with(port=8001)
    browser.login(f"{OTHER}/bff/login")
    browser.base_url = browser.base_url.copy_with(port=8000)
    here, there = listed(w, sub="alice"), listed(w, other, sub="alice")
    assert (len(here), len(there)) == (1, 1)
    assert here[0].sid == there[0].sid  # one session at the provider
    assert here[0].reference != there[0].reference

    assert run(w, w.bff.sessions.revoke(sid=here[0].sid)) == 1
    assert (listed(w, sub="alice"), listed(w, other, sub="alice")) == ([], there)
    assert (is_logged_in(browser), is_logged_in(browser, OTHER)) == (False, True)


@pytest.mark.spec("SES-09")
def test_by_sub_by_sid_by_both_and_never_everybody(w: World) -> None:
    browsers = [w.logged_in("alice"), w.logged_in("alice"), w.logged_in("bob")]
    sids = [claims(browser.fetch("/bff/user"))["sid"] for browser in browsers]
    for who, count in (
        ({"sub": "alice"}, 2),
        ({"sid": sids[0]}, 1),
        ({"sub": "alice", "sid": sids[0]}, 1),
        ({"sub": "bob", "sid": sids[0]}, 0),
        ({"sub": "carol"}, 0),
        ({"sid": "unknown"}, 0),
        ({"sub": "alice", "iss": "https://idp.example.com"}, 0),
        ({"sub": "alice", "iss": ISSUER}, 2),
    ):
        assert len(listed(w, **who)) == count
        if count == 0:
            assert run(w, w.bff.sessions.revoke(**who)) == 0
    for nobody in ({}, {"sub": ""}, {"iss": ISSUER}, {"sub": "", "sid": ""}):
        for refused in (w.bff.sessions.list, w.bff.sessions.revoke):
            with pytest.raises(ValueError, match="say whose sessions"):
                run(w, refused(**nobody))
    assert [is_logged_in(browser) for browser in browsers] == [True, True, True]


CLAIMS = {
    "nickname": None,
    "address": {"country": None, "lines": [None, "", "Straße 1"]},
    "groups": [],
    "roles": ["a", "a"],
    "level": 0,
    "score": -1.5,
    "large": 2**53,
    "is_admin": False,
    "": "a claim without a name",
    "line\nends": "\u2028 \U0001f98a \u0000",
}


def test_claims_come_back_as_they_were(w: World) -> None:
    """From the provider into the store, and out of it in an application that was started later."""
    w.provider.tamper("id_token", lambda members: {**members, **CLAIMS})
    browser = w.logged_in()
    for _ in range(2):
        sessions = w.bff._storage.searchable
        assert sessions is not None
        (found,) = run(w, sessions.find_all(SessionFilter(ISSUER, sub="alice"), now=w.clock.time()))
        assert {name: found.session.claims[name] for name in CLAIMS} == CLAIMS
        shown = [claim for claim in browser.fetch("/bff/user").json() if claim["type"] in CLAIMS]
        assert {claim["type"] for claim in shown} == CLAIMS.keys() - {"nickname", "groups"}
        run(w, w.bff.aclose())
        w.start()
