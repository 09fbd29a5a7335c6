"""
No page of another origin acts in the name of a user who is logged in in the same browser, or learns anything of them.

`cross_origin.txt` says what each vector did at each route: `WRITE_DOCS=1 pytest tests/scenarios/test_cross_origin.py`
writes it anew, and the difference is to be read. The other tests hold whatever the list says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.rig.oidc_provider import OIDCProvider
from tests.scenarios.cross_origin import ATTACKERS, TAKING_ALONG, UNSEEN, Campaign, campaign

pytestmark = pytest.mark.browser

LIST = Path(__file__).with_name("cross_origin.txt")
NAVIGATIONS = ("link", "form, GET")
"""What leads a window to the application by GET. There a page may be made for the user, who sees it."""

LEGEND = [
    "What pages of other origins can do with the browser of a user who is logged in. Made by test_cross_origin.py.",
    "",
    "attacker | vector | route | what its page can tell | what is sent, and what comes of it: +cookie means that the",
    "browser sent the session cookie, `hop` is a page of ours that leads on, `as alice`: a handler learned the user.",
    "",
]


@pytest.fixture(scope="module")
def result(oidc_provider: OIDCProvider, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    try:
        return campaign(oidc_provider, browser, tmp_path_factory.mktemp("static"))
    finally:
        oidc_provider.reset()


def test_every_vector_at_every_route_does_what_the_list_says(result: Campaign):
    matrix = "\n".join([*LEGEND, *(shot.line() for shot in result.shots)]) + "\n"
    print(matrix)
    if "WRITE_DOCS" in os.environ:
        LIST.write_text(matrix)
    assert matrix.splitlines() == LIST.read_text().splitlines(), "WRITE_DOCS=1 writes the list; read what changed"


def test_each_vector_reaches_the_server_and_a_sibling_brings_the_cookie(result: Campaign):
    """Else nothing would be shown by what follows."""
    assert {shot.vector for shot in result.shots} == {*UNSEEN, *TAKING_ALONG}
    assert [shot.line() for shot in result.shots if not shot.exchanges] == []
    first = [(shot.attacker, shot.exchanges[0].with_session) for shot in result.shots if shot.vector != "fetch, X-CSRF"]
    assert set(first) == {("cross-site", False), ("same-site", True), ("sandboxed", False)}


@pytest.mark.spec("CSR-01", "CSR-02", "CSR-03")
def test_no_request_that_another_origin_starts_tells_a_handler_who_the_user_is(result: Campaign):
    exchanges = [exchange for shot in result.shots for exchange in shot.exchanges]
    assert [e for e in exchanges if e.user and e.from_elsewhere] == []
    assert {(s.vector, s.route) for s in result.shots if any(e.user for e in s.exchanges)} == {
        (vector, "/page") for vector in NAVIGATIONS
    }
    assert [stray for stray in result.strays if stray.user or stray.path != "/"] == []


@pytest.mark.spec("CSR-01", "CSR-02")
def test_no_remote_api_is_called_for_another_origin(result: Campaign):
    assert [shot.line() for shot in result.shots if shot.upstream] == []


@pytest.mark.spec("RPL-01")
def test_the_user_stays_logged_in_through_all_of_it(result: Campaign):
    assert result.users == ["alice"] * len(ATTACKERS)
    changed = [
        (shot.vector, shot.route, change) for shot in result.shots for e in shot.exchanges for change in e.cookies
    ]
    assert [change for change in changed if change[2] == "session deleted"] == []
    assert result.after_the_right_sid == 401, "and the sid of the logout link is what stands between"


@pytest.mark.spec("OAU-27")
def test_no_vector_that_the_user_does_not_notice_begins_a_login(result: Campaign):
    begun = [shot for shot in result.shots for e in shot.exchanges if "login set" in e.cookies]
    assert {shot.vector for shot in begun}.isdisjoint(UNSEEN)
    assert result.logins == 2 + len(begun), "the attacker's own and the victim's own, before it all"


@pytest.mark.spec("CSR-04")
def test_no_page_of_another_origin_can_read_anything(result: Campaign):
    assert [shot.line() for shot in result.shots if shot.seen.startswith(("READ", "message", "open"))] == []
    assert result.messages == []


@pytest.mark.spec("CSR-04")
def test_no_page_of_another_origin_can_tell_whether_somebody_is_logged_in(result: Campaign):
    assert result.seen_when_logged_out
    shots = {(shot.attacker, shot.vector, shot.route): shot.seen for shot in result.shots}
    differ = {key: (shots[key], seen) for key, seen in result.seen_when_logged_out.items() if shots[key] != seen}
    assert differ == {}
