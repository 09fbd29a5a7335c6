"""Logout: the session is gone before the browser leaves, and nobody else can cause it."""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx2
import pytest

from coatcheck.audit import AUDIT_LOGGER, user_reference
from coatcheck.bff.logout import PROVIDER_DEADLINE
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.seal import new_key
from tests.bff.world import ISSUER, LOCAL, claims, query_of, session_cookie, warnings, world
from tests.rig.user_agent import UserAgent
from tests.tokens.scene import TableUserTokenStore

END_SESSION = f"{ISSUER}/logout"


def logout_url(browser: UserAgent) -> str:
    return str(claims(browser.fetch("/bff/user"))["bff:logout_url"])


def leave(browser: UserAgent, query: str = "") -> httpx2.Response:
    """Follow the logout link up to the provider."""
    return browser.navigate(logout_url(browser) + query, stop_at=END_SESSION)


@pytest.mark.spec("RPL-02", "SES-05")
def test_the_session_is_gone_before_the_browser_leaves() -> None:
    with world() as w:
        browser = w.logged_in()
        copy = w.browser()
        for cookie in browser.cookies.all():
            copy.cookies.put(cookie)
        assert copy.fetch("/api/me").status_code == 200
        response = leave(browser)
        assert response.status_code == 302
        assert w.sessions() == 0
        assert copy.fetch("/api/me").status_code == 401
        assert copy.fetch("/bff/user").json()["code"] == "session_expired"


def test_the_refresh_token_is_revoked() -> None:
    with world() as w:
        browser = w.logged_in()
        leave(browser)
        assert (len(w.revoked()), len(w.revoked("access_token"))) == (1, 1)
        assert {entry.status for entry in w.provider.log if entry.endpoint == "revocation"} == {200}


@pytest.mark.spec("RPL-03", "COO-01", "COO-02")
def test_the_deletion_repeats_every_attribute_so_that_browsers_obey() -> None:
    with world() as w:
        browser = w.logged_in()
        response = leave(browser)
        (line,) = [line for line in response.headers.get_list("set-cookie") if "-logins=" not in line]
        name, *attributes = line.split("; ")
        assert name.startswith("__Host-Http-coatcheck-") and name.endswith("=")
        assert set(attributes) == {"Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=0"}
        assert session_cookie(browser) is None


@pytest.mark.spec("RPL-03")
def test_cookie_sessions_are_deleted_with_every_chunk() -> None:
    with world(sessions="cookie") as w:
        w.provider.behaviour.claims["groups"] = ["g" * 40] * 60  # more than one cookie holds
        browser = w.logged_in()
        assert len([c for c in browser.cookies.all() if c.name.startswith("__Host-Http-coatcheck")]) > 1
        browser.logout(logout_url(browser))
        assert [c for c in browser.cookies.all() if c.name.startswith("__Host-Http-coatcheck")] == []


@pytest.mark.spec("RPL-01")
@pytest.mark.parametrize("query", ["", "?sid=", "?sid=x", "?sid=\u00e9", "?sid=a&sid=b"])
def test_forged_logout_a_link_without_the_sid_changes_nothing(query: str) -> None:
    with world() as w:
        browser = w.logged_in()
        response = browser.navigate("/bff/logout" + query)
        assert response.status_code == 400
        assert browser.fetch("/api/me").status_code == 200
        assert w.provider.count("revocation") == 0


@pytest.mark.spec("RPL-01")
def test_forged_logout_the_sid_of_another_session_changes_nothing() -> None:
    with world() as w:
        browser, mallory = w.logged_in(), w.logged_in("mallory")
        response = browser.navigate(logout_url(mallory))
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "logout_sid_invalid")
        assert browser.fetch("/api/me").status_code == 200


@pytest.mark.spec("RPL-01")
def test_forged_logout_the_providers_sid_is_not_ours() -> None:
    with world() as w:
        browser = w.logged_in()
        sid = claims(browser.fetch("/bff/user"))["sid"]
        assert browser.navigate(f"/bff/logout?sid={quote(sid)}").status_code == 400
        assert browser.fetch("/api/me").status_code == 200


@pytest.mark.spec("RPL-01")
def test_forged_logout_another_site_sends_no_session_cookie() -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        browser.page = httpx2.URL("https://evil.example/")
        response = browser.click(url)  # even with the right sid
        assert response.status_code == 200
        assert browser.history[-1].url.host == "localhost"  # no redirect to the provider
        browser.page = None
        assert browser.fetch("/api/me").status_code == 200


@pytest.mark.spec("RPL-01")
def test_a_refused_logout_stands_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        caplog.clear()
        browser.navigate(url + "x")
        browser.fetch("/bff/logout", "POST", csrf=False)
        browser.navigate(url, headers={"Sec-Purpose": "prefetch"})
        browser.navigate(url + "&returnUrl=x")
        by_sid, by_header = [record.__dict__["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]
        assert (by_sid["event"], by_sid["reason"], by_sid["iss"]) == ("logout_refused", "logout_sid_invalid", ISSUER)
        assert by_sid["user"] == user_reference(ISSUER, "alice")
        assert by_header == {"event": "logout_refused", "reason": "csrf_header_missing"}


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender", "prefetch;anonymous-client-ip"])
def test_a_browser_that_looks_ahead_logs_nobody_out(purpose: str) -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        assert browser.navigate(url, headers={"Sec-Purpose": purpose}).status_code == 400
        assert browser.fetch("/api/me").status_code == 200


@pytest.mark.spec("RPL-01")
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"X-CSRF": "1"}, 303), ({}, 403), ({"X-CSRF": "1", "Origin": "https://evil.example"}, 403)],
)
def test_a_post_needs_the_header(headers: dict[str, str], status: int) -> None:
    with world() as w:
        browser = w.logged_in()
        response = browser.fetch("/bff/logout", "POST", csrf=False, headers=headers)
        assert response.status_code == status
        assert browser.fetch("/api/me").status_code == (401 if status == 303 else 200)


@pytest.mark.spec("RPL-05", "RPL-04")
def test_the_provider_is_told_who_leaves_and_one_constant_address() -> None:
    with world() as w:
        response = leave(w.logged_in(), "&returnUrl=/goodbye")
        asked = query_of(response.headers["location"])
        assert asked["post_logout_redirect_uri"] == f"{LOCAL}/bff/logged-out"
        assert asked["client_id"] == "app"
        assert asked["id_token_hint"].count(".") == 2
        assert "goodbye" not in response.headers["location"]


@pytest.mark.spec("RPL-04")
def test_a_long_id_token_stays_at_home() -> None:
    with world() as w:
        w.provider.behaviour.claims["groups"] = ["group"] * 300
        asked = query_of(leave(w.logged_in()).headers["location"])
        assert "id_token_hint" not in asked
        assert asked["logout_hint"] == "alice"


@pytest.mark.spec("RPL-05")
def test_the_way_back_leads_to_the_return_url_once() -> None:
    with world() as w:
        browser = w.logged_in()
        page = browser.logout(logout_url(browser) + "&returnUrl=/goodbye?x=1")
        assert str(page.url) == f"{LOCAL}/goodbye?x=1"
        logged_out = str(browser.history[-2].url)
        assert browser.navigate(logged_out).url.path == "/"  # the state was used


@pytest.mark.spec("RPL-05")
def test_the_way_back_leads_there_once_whichever_process_is_asked() -> None:
    with world() as w:
        browser = w.logged_in()
        assert browser.logout(logout_url(browser) + "&returnUrl=/goodbye").url.path == "/goodbye"
        logged_out = str(browser.history[-2].url)
        w.start()
        assert browser.navigate(logged_out).url.path == "/"


@pytest.mark.spec("RPL-05")
def test_while_nobody_can_say_whether_a_state_was_used_the_way_back_leads_home() -> None:
    with world() as w:
        response = leave(w.logged_in(), "&returnUrl=/goodbye")
        state = query_of(response.headers["location"])["state"]

        async def away(*_: object, **__: object) -> bool:
            raise StoreUnavailable("the test took it away")

        w.store.add = away  # type: ignore[method-assign]
        assert w.browser().navigate(f"/bff/logged-out?state={state}").url.path == "/"


@pytest.mark.spec("RPL-05", "RTU-09")
@pytest.mark.parametrize("state", [None, "", "/goodbye", "https://evil.example", "x" * 100])
def test_open_redirect_an_invented_state_leads_home(state: str | None) -> None:
    with world() as w:
        query = "" if state is None else f"?state={quote(state, safe='')}"
        assert str(w.browser().navigate(f"/bff/logged-out{query}").url) == f"{LOCAL}/"


@pytest.mark.spec("RPL-05")
def test_the_state_of_a_logout_expires() -> None:
    with world() as w:
        state = query_of(leave(w.logged_in(), "&returnUrl=/goodbye").headers["location"])["state"]
        w.advance(15 * 60)
        assert w.browser().navigate(f"/bff/logged-out?state={state}").url.path == "/"


@pytest.mark.spec("RTU-01")
@pytest.mark.parametrize("return_url", ["https://evil.example", "//evil.example", "/bff/login", "x"])
def test_open_redirect_a_bad_return_url_refuses_the_logout(return_url: str) -> None:
    with world() as w:
        browser = w.logged_in()
        response = browser.navigate(f"{logout_url(browser)}&returnUrl={quote(return_url, safe='')}")
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "return_url_invalid")
        assert browser.fetch("/api/me").status_code == 200


@pytest.mark.spec("RPL-07")
def test_without_a_session_logout_succeeds_here_and_tells_nothing() -> None:
    with world() as w:
        for url in ("/bff/logout", "/bff/logout?sid=x", "/bff/logout?returnUrl=/goodbye"):
            response = w.browser().navigate(url)
            assert (response.status_code, response.url.host) == (200, "localhost")
            assert "logged out" in response.text


@pytest.mark.spec("RPL-07")
def test_logging_out_twice_succeeds() -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        browser.logout(url)
        assert browser.navigate(url).status_code == 200
        assert w.provider.count("end_session") == 1


@pytest.mark.spec("RPL-06")
@pytest.mark.parametrize("missing", ["end_session_endpoint", "revocation_endpoint"])
def test_a_provider_without_endpoints_does_not_keep_anybody_here(missing: str) -> None:
    with world() as w:
        w.provider.tamper("metadata", lambda m: {key: value for key, value in m.items() if key != missing})
        browser = w.logged_in()
        response = browser.navigate(logout_url(browser))
        assert w.sessions() == 0
        assert browser.fetch("/bff/user").status_code == 401
        if missing == "end_session_endpoint":
            assert "may still be logged in there" in response.text


@pytest.mark.spec("RPL-06")
def test_without_an_end_session_endpoint_a_return_url_is_followed() -> None:
    with world() as w:
        w.provider.tamper("metadata", lambda m: {k: v for k, v in m.items() if k != "end_session_endpoint"})
        browser = w.logged_in()
        assert browser.navigate(logout_url(browser) + "&returnUrl=/goodbye").url.path == "/goodbye"


@pytest.mark.spec("RPL-06")
@pytest.mark.parametrize("fault", ["fail", "drop"])
def test_a_provider_that_fails_does_not_keep_anybody_here(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        if fault == "fail":
            w.provider.fail("revocation", status=503, times=None)
        else:
            w.provider.drop("revocation", times=None)
        browser.navigate(url, stop_at=END_SESSION)
        assert w.sessions() == 0
        (line,) = warnings(caplog)
        assert "revoked" in line and ISSUER in line


@pytest.mark.spec("RPL-06")
def test_a_provider_that_hangs_keeps_nobody_here_for_longer_than_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        w.in_virtual_time()
        began = w.clock.time()
        w.provider.hold("revocation", times=None)
        assert browser.navigate(url, stop_at=END_SESSION).status_code == 302
        assert w.clock.time() - began == pytest.approx(PROVIDER_DEADLINE)
        assert w.sessions() == 0
        [line] = warnings(caplog)
        assert "within 5 s" in line and ISSUER in line


@pytest.mark.spec("RPL-06")
@pytest.mark.parametrize("fault", ["hangs", "is away"])
@pytest.mark.parametrize("return_url", ["", "&returnUrl=/goodbye"])
def test_a_provider_whose_metadata_cannot_be_had_leaves_a_logout_that_says_so(fault: str, return_url: str) -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        w.start()  # a process that has not fetched them yet
        w.in_virtual_time()
        began = w.clock.time()
        if fault == "hangs":
            w.provider.hold("metadata", times=None)
        else:
            w.provider.drop("metadata", times=None)
        page = browser.navigate(url + return_url)
        assert w.clock.time() - began <= PROVIDER_DEADLINE + 0.001
        assert page.status_code == 200
        assert "may still be logged in there" in page.text
        assert f'href="{"/goodbye" if return_url else "/"}"' in page.text
        assert w.sessions() == 0
        assert session_cookie(browser) is None


def test_a_store_that_fails_is_no_logout() -> None:
    with world() as w:
        browser = w.logged_in()
        url = logout_url(browser)
        w.break_store()
        response = browser.navigate(url)
        assert (response.status_code, response.headers["coatcheck-error"]) == (503, "store_unavailable")
        assert session_cookie(browser)


@pytest.mark.spec("RPL-01")
@pytest.mark.parametrize("new_first", [True, False])
@pytest.mark.parametrize("made_by_the_next", [True, False])
def test_while_keys_rotate_every_node_takes_the_logout_links_of_all(new_first: bool, made_by_the_next: bool) -> None:
    """The new key is appended by one deploy and moved to the front by another; during each, two kinds of nodes run."""
    with world() as w:
        new = new_key()
        rings = [[*w.keys, new], [new, *w.keys]] if new_first else [w.keys, [*w.keys, new]]
        if made_by_the_next:
            rings.reverse()
        browser = w.logged_in()
        w.options["keys"] = rings[0]
        w.start()
        url = logout_url(browser)
        w.options["keys"] = rings[1]
        w.start()
        assert browser.navigate(url, stop_at=END_SESSION).status_code == 302
        assert w.sessions() == 0


@pytest.mark.spec("RPL-02")
def test_a_token_store_of_the_application_that_fails_does_not_stop_a_logout(caplog: pytest.LogCaptureFixture) -> None:
    store = TableUserTokenStore()
    with world(user_token_store=store) as w:
        browser = w.logged_in()
        url = logout_url(browser)

        async def fail(*_: object) -> None:
            raise RuntimeError("the table is gone")

        store.get_token = fail  # type: ignore[method-assign, assignment]
        assert browser.navigate(url, stop_at=END_SESSION).status_code == 302
        assert w.sessions() == 0
    assert len(warnings(caplog)) == 1


@pytest.mark.spec("RPL-02")
@pytest.mark.parametrize("store", ["memory", "cookie"])
def test_the_session_is_over_while_the_provider_takes_its_time_to_revoke(store: str) -> None:
    with world(**({"sessions": "cookie"} if store == "cookie" else {})) as w:
        browser = w.logged_in()
        cookie = browser.cookies.header(httpx2.URL(LOCAL), initiator=None) or ""
        own_script = {"cookie": cookie, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "x-csrf": "1"}
        gate, loop = w.provider.hold("revocation", times=None), w.transport.loop
        leaving = loop.create_task(w.transport.call(httpx2.Request("POST", LOCAL + "/bff/logout", headers=own_script)))
        loop.run_until_complete(gate.wait_reached())
        assert not leaving.done()
        asked = w.transport.handle_request(httpx2.Request("GET", LOCAL + "/bff/user", headers=own_script))
        assert asked.status_code == 401
        gate.open()
        assert loop.run_until_complete(leaving).status_code == 303
        assert len(w.revoked()) == 1
