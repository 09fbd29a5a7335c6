"""The authorization server ends a grant; the session that stands on it goes with it, and no other."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import api_user, page_user
from coatcheck.errors import InvalidGrant
from coatcheck.tokens.verdicts import judge
from tests.bff.world import LOCAL, session_cookie, world
from tests.rig.echo_api import EchoAPI

LONGER_THAN_A_TOKEN = 400


@pytest.mark.spec("REF-12")
@pytest.mark.parametrize("store", ["memory", "cookie"])
def test_a_call_whose_grant_has_ended_ends_the_session(store: str) -> None:
    with EchoAPI.serve() as api, world(**({"sessions": "cookie"} if store == "cookie" else {})) as w:
        w.bff.remote_api("/api/orders", api.url)
        browser, other_browser = w.logged_in(), w.logged_in("bob")
        assert browser.fetch("/api/orders").status_code == 200
        before = w.sessions()
        w.provider.end_all_grants()
        w.advance(LONGER_THAN_A_TOKEN)

        refused = browser.fetch("/api/orders")
        assert (refused.status_code, refused.headers["coatcheck-error"]) == (401, "session_ended")
        assert refused.json()["login_url"] == "/bff/login"
        assert session_cookie(browser) is None
        assert browser.fetch("/bff/user").status_code == 401
        if store == "memory":
            assert w.sessions() == before - 1, "the other user's session is left alone"
        assert other_browser.fetch("/bff/user").status_code == 200


@pytest.mark.spec("REF-12")
def test_a_handler_that_meets_an_ended_grant_ends_the_session() -> None:
    with world() as w:

        async def mine(scope: Any, receive: Any, send: Any) -> None:
            token = await w.bff.tokens.user_token(await api_user(scope))
            await json_answer(token.token_type.encode())(scope, receive, send)

        browser = w.logged_in()
        w.serve(w.bff.wrap(mine))
        assert browser.fetch("/mine").text == "Bearer"
        w.provider.end_all_grants()
        w.advance(LONGER_THAN_A_TOKEN)
        assert browser.fetch("/mine").headers["coatcheck-error"] == "session_ended"
        assert w.sessions() == 0
        assert session_cookie(browser) is None


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize("store", ["memory", "cookie"])
def test_a_call_whose_renewal_was_lost_ends_the_session(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """The answer to a refresh is lost, and a second use would be taken for theft: one new login, and it says why."""
    with EchoAPI.serve() as api, world(**({"sessions": "cookie"} if store == "cookie" else {})) as w:
        w.bff.remote_api("/api/orders", api.url)
        browser = w.logged_in()
        before = w.sessions()
        w.advance(LONGER_THAN_A_TOKEN)
        w.provider.drop("token", grant_type="refresh_token", after=True)

        refused = browser.fetch("/api/orders")
        assert (refused.status_code, refused.headers["coatcheck-error"]) == (401, "renewal_lost")
        assert refused.json()["login_url"] == "/bff/login"
        assert session_cookie(browser) is None
        assert w.provider.count("token", grant_type="refresh_token") == 1
        if store == "memory":
            assert w.sessions() == before - 1
        (line,) = [record for record in caplog.records if record.getMessage().startswith("renewal_lost (401): ")]
        assert line.levelname == "WARNING"
        assert "set rotation to" in line.getMessage()


@pytest.mark.spec("REF-10")
def test_a_page_whose_renewal_was_lost_comes_back_by_a_login_and_leaves_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world() as w:

        async def page(scope: Any, receive: Any, send: Any) -> None:
            token = await w.bff.tokens.user_token(await page_user(scope))
            await json_answer(token.token_type.encode())(scope, receive, send)

        browser = w.logged_in()
        w.serve(w.bff.wrap(page))
        w.advance(LONGER_THAN_A_TOKEN)
        w.provider.drop("token", grant_type="refresh_token", after=True)
        assert browser.navigate("/orders").text == "Bearer", "after a login that nobody saw"
        assert "/bff/login" in [answer.url.path for answer in browser.history]
        assert w.sessions() == 1
        assert w.provider.count("token", grant_type="refresh_token") == 1
        assert sum(record.getMessage().startswith("renewal_lost (401): ") for record in caplog.records) == 1


def test_the_end_of_another_registrations_grant_does_not_mean_the_session() -> None:
    ended = InvalidGrant("invalid_grant")
    codes = {client: judge(ended, issuer="i").error(client=client) for client in ("default", "other")}
    assert [getattr(error, "code", None) for error in codes.values()] == ["session_ended", "login_required"]


@pytest.mark.spec("SES-12")
def test_when_the_store_fails_meanwhile_the_answer_is_the_same() -> None:
    with EchoAPI.serve() as api, world() as w:
        w.bff.remote_api("/api/orders", api.url)
        browser = w.logged_in()
        w.provider.end_all_grants()
        w.advance(LONGER_THAN_A_TOKEN)
        deleting = w.store.delete

        async def unavailable(key: bytes) -> Any:
            w.break_store()
            w.store._fail()
            return await deleting(key)

        w.store.delete = unavailable  # type: ignore[method-assign]
        assert browser.fetch("/api/orders").headers["coatcheck-error"] == "session_ended"


@pytest.mark.spec("REF-12", "COO-13")
@pytest.mark.parametrize("store", ["memory", "cookie"])
def test_a_late_answer_about_an_ended_grant_leaves_the_next_logins_cookie_alone(store: str) -> None:
    """The renewal of one tab is refused after another tab has logged in anew, and its answer arrives last."""
    with EchoAPI.serve() as api, world(**({"sessions": "cookie"} if store == "cookie" else {})) as w:
        w.bff.remote_api("/api/orders", api.url)
        browser = w.logged_in()
        w.advance(LONGER_THAN_A_TOKEN)
        headers = {"cookie": browser.cookies.header(httpx2.URL(LOCAL), initiator=None) or "", **OWN_SCRIPT}
        gate = w.provider.hold("token", grant_type="refresh_token")
        loop = w.transport.loop
        late = loop.create_task(w.transport.call(httpx2.Request("GET", LOCAL + "/api/orders", headers=headers)))
        loop.run_until_complete(gate.wait_reached())
        browser.login(LOCAL + "/bff/login?prompt=login")
        w.provider.fail("token", status=400, error="invalid_grant")
        gate.open()
        answer = loop.run_until_complete(late)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert browser.fetch("/bff/user").status_code == 200


OWN_SCRIPT = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "x-csrf": "1"}
