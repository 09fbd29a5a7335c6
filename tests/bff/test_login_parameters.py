"""What a page may say about a login, and what nobody may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from coatcheck import ConfigurationError, LoginOptions
from coatcheck.bff.login_parameters import LoginParameters, read_login_parameters
from coatcheck.bff.refusals import Refused
from tests.bff.test_login import begin
from tests.bff.world import ISSUER, LOCAL, World, query_of, world

STEP_UPS = LoginOptions(acr_values=["phr", "phrh"], max_age=[0, 300])


def asked(w: World, query: str) -> dict[str, str]:
    return query_of(begin(w, f"?{query}").headers["location"])


@pytest.mark.spec("OAU-29")
def test_hints_for_the_login_page_are_passed_on() -> None:
    with world() as w:
        sent = asked(w, "login_hint=ada%40example.org&ui_locales=de-CH%20de")
        assert (sent["login_hint"], sent["ui_locales"]) == ("ada@example.org", "de-CH de")
        assert {"login_hint", "ui_locales"}.isdisjoint(asked(w, "login_hint=&ui_locales="))


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("query", ["acr_values=phr", "acr_values=phrh%20phr", "max_age=0", "max_age=300"])
def test_configured_step_ups_are_passed_on(query: str) -> None:
    with world(login=STEP_UPS) as w:
        name, _, value = query.partition("=")
        assert asked(w, query)[name] == value.replace("%20", " ")


REFUSED = [
    "acr_values=other",
    "acr_values=phr%20other",
    "acr_values=phr%20%20phrh",
    "acr_values=PHR",
    "max_age=1",
    "max_age=-1",
    "max_age=00",
    "max_age=0&max_age=300",
    "login_hint=a%0d%0ab",
    "login_hint=a%00",
    "login_hint=" + quote("\u202eevil"),
    "login_hint=" + "a" * 257,
    "login_hint=a&login_hint=b",
    "ui_locales=de;q=1",
    "ui_locales=" + "%20".join(["de"] * 11),
    "ui_locales=de%20",
]


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("query", REFUSED)
def test_other_values_are_refused(query: str) -> None:
    with world(login=STEP_UPS) as w:
        response = begin(w, f"?{query}")
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "login_parameter_refused")
        assert "set-cookie" not in response.headers


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("query", ["acr_values=phr", "max_age=0"])
def test_without_configuration_no_step_up_can_be_asked_for(query: str) -> None:
    with world() as w:
        assert begin(w, f"?{query}").headers["coatcheck-error"] == "login_parameter_refused"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"acr_values": "phr"}, "acr_values"),
        ({"acr_values": ["a b"]}, "acr_values"),
        ({"acr_values": [""]}, "acr_values"),
        ({"max_age": [-1]}, "max_age"),
        ({"max_age": ["5m"]}, "max_age"),
        ({"max_age": [True]}, "max_age"),
        ({"max_age": 5}, "max_age"),
        ({"response_mode": "fragment"}, "response_mode"),
    ],
)
def test_options_that_cannot_work_stop_the_start(options: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LoginOptions(**options)
    assert caught.value.path == path


# Logins that another site starts

FOREIGN = {"Sec-Fetch-Site": "cross-site"}


@pytest.mark.spec("OAU-27")
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("query", ["?returnUrl=/a&login_hint=mallory", "?returnUrl=/a&login_hint=mallory&hop=1"])
def test_login_csrf_another_sites_link_asks_the_user_first(site: str, query: str) -> None:
    with world() as w:
        page = begin(w, query, headers={"Sec-Fetch-Site": site})
        assert page.status_code == 200 and "location" not in page.headers and "set-cookie" not in page.headers
        assert "http-equiv" not in page.text and "<script" not in page.text
        assert "Log in to localhost:8000?" in page.text
        link = "/bff/login?returnUrl=%2Fa&amp;login_hint=mallory&amp;hop=1"
        assert f'href="{link}"' in page.text
        went_on = begin(
            w, link.partition("/bff/login")[2].replace("&amp;", "&"), headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert went_on.headers["location"].startswith(ISSUER)


@pytest.mark.spec("OAU-27")
@pytest.mark.parametrize("name", ["Sec-Purpose", "Purpose", "X-Moz"])
@pytest.mark.parametrize("value", ["prefetch", "prefetch;prerender", "Prefetch"])
def test_a_browser_that_looks_ahead_begins_no_login(name: str, value: str) -> None:
    with world() as w:
        response = begin(w, headers={name: value})
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "navigation_required")


THIRD_PARTY = LoginOptions(third_party=True)


@pytest.mark.spec("OAU-28")
@pytest.mark.parametrize("target", [f"{LOCAL}/orders?a=1", "/orders?a=1"])
def test_a_portal_starts_a_login(target: str) -> None:
    with world(login=THIRD_PARTY) as w:
        query = f"?iss={quote(ISSUER)}&target_link_uri={quote(target)}&login_hint=alice&scope=admin&acr_values="
        hop = begin(w, query, headers=FOREIGN)
        assert hop.status_code == 200 and 'http-equiv="refresh"' in hop.text and "set-cookie" not in hop.headers
        browser = w.browser()
        page = browser.login(f"/bff/login{query}")
        assert (page.url.path, page.url.query) == ("/orders", b"a=1")
        sent = [entry for entry in w.provider.log if entry.endpoint == "authorization"][-1]
        assert sent.values("login_hint") == ["alice"]
        assert sent.values("scope") == ["openid profile offline_access"]
        assert sent.values("iss") == sent.values("target_link_uri") == []


@pytest.mark.spec("OAU-28")
@pytest.mark.parametrize("site", ["cross-site", "none"])
def test_a_portal_may_send_a_form(site: str) -> None:
    with world(login=THIRD_PARTY) as w:
        response = w.browser().fetch(
            "/bff/login",
            "POST",
            csrf=False,
            data={"iss": ISSUER, "target_link_uri": f"{LOCAL}/orders"},
            headers={"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": site},
        )
        assert response.status_code == 200
        assert "url=/bff/login?returnUrl=%2Forders&amp;hop=1" in response.text


@pytest.mark.spec("OAU-28")
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("iss=https://evil.example", "third_party_login_refused"),
        (f"iss={ISSUER}/", "third_party_login_refused"),
        (f"iss={ISSUER.upper()}", "third_party_login_refused"),
        (f"iss={ISSUER}&iss={ISSUER}", "login_parameter_refused"),
        (f"iss={ISSUER}&target_link_uri=https://evil.example/", "return_url_invalid"),
        (f"iss={ISSUER}&target_link_uri={LOCAL}.evil.example/", "return_url_invalid"),
        (f"iss={ISSUER}&target_link_uri={LOCAL}@evil.example/", "return_url_invalid"),
        (f"iss={ISSUER}&target_link_uri={LOCAL}//evil.example/", "return_url_invalid"),
        (f"iss={ISSUER}&target_link_uri={LOCAL}/bff/logout", "return_url_invalid"),
        (f"iss={ISSUER}&target_link_uri=javascript:alert(1)", "return_url_invalid"),
        (f"iss={ISSUER}&max_age=0", "login_parameter_refused"),
    ],
)
def test_open_redirect_a_third_party_chooses_neither_the_provider_nor_another_site(query: str, code: str) -> None:
    with world(login=THIRD_PARTY) as w:
        response = begin(w, f"?{query}", headers=FOREIGN)
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, code)


@pytest.mark.spec("OAU-28")
def test_third_party_logins_are_off_by_default() -> None:
    with world() as w:
        response = begin(w, f"?iss={ISSUER}")
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "third_party_login_refused")
        assert w.browser().fetch("/bff/login", "POST").status_code == 405


# The parameters as values


def read(query: str, *, login: LoginOptions = STEP_UPS) -> LoginParameters:
    with world(login=login) as w:
        scope = {"type": "http", "method": "GET", "query_string": query.encode(), "headers": []}
        desk = w.bff._desk
        return read_login_parameters(desk.current(scope, "/bff/login"), desk.settings)


def test_what_was_not_asked_for_is_none() -> None:
    assert read("") == LoginParameters(return_url="/")
    assert read("returnUrl=&prompt=&login_hint=&ui_locales=&acr_values=&max_age=") == LoginParameters(return_url="/")
    assert not LoginParameters(return_url="/").again and not LoginParameters(return_url="/").hopped


def test_everything_that_is_asked_for_survives_a_hop() -> None:
    query = "returnUrl=%2Fa&prompt=login&login_hint=h&ui_locales=de&acr_values=phr+phrh&max_age=0&again=1"
    wanted = read(query)
    assert wanted == LoginParameters(
        return_url="/a", prompt="login", login_hint="h", ui_locales="de", acr_values="phr phrh", max_age=0, again=True
    )
    assert wanted.path("/bff/login") == f"/bff/login?{query}&hop=1"
    assert read(wanted.path("").removeprefix("?")) == replace(wanted, hopped=True)


def test_what_makes_a_login_a_step_up() -> None:
    assert [read(query).is_step_up for query in ("", "acr_values=phr", "max_age=0", "acr_values=phr&max_age=300")] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("character", "\x01\x1f\x7f\x85\x9f\u2028\u2029\u202a\u202e\u2066\u2069")
def test_each_character_that_could_mislead_is_kept_out_of_the_hint(character: str) -> None:
    with pytest.raises(Refused, match="login_parameter_refused"):
        read(f"login_hint={quote('a' + character)}")


@pytest.mark.parametrize(
    "hint", ["\xe9", "a b", "1234567890", "a-b+c@example.org", "\u2027", "\u202f", "\u206a", "x" * 256]
)
def test_other_text_is_a_hint(hint: str) -> None:
    assert read(f"login_hint={quote(hint)}").login_hint == hint


@pytest.mark.parametrize(
    "locales", ["de", "de-CH-1996", "zh-Hant-TW fr", "x-a-b-c-d-e", "ABCDEFGH-12345678", " ".join(["d0"] * 10)]
)
def test_language_tags_are_passed_on(locales: str) -> None:
    assert read(f"ui_locales={quote(locales)}").ui_locales == locales


@pytest.mark.parametrize(
    "locales", ["abcdefghi", "a-123456789", "-a", "a-", "a--b", "a  b", " a", "a-b-c-d-e-f-g", "d\xe9", "a b-"]
)
def test_what_is_no_language_tag_is_refused(locales: str) -> None:
    with pytest.raises(Refused, match="login_parameter_refused"):
        read(f"ui_locales={quote(locales)}")


def test_refusals_say_what_was_asked_for_and_what_is_allowed() -> None:
    for query, cause, remedy in (
        (
            "acr_values=gold",
            "/login was called with acr_values='gold'.",
            "Allowed by acr_values of the login options: phr, phrh.",
        ),
        ("max_age=7", "/login was called with max_age='7'.", "Allowed by max_age of the login options: 0, 300."),
        (
            "returnUrl=x" + "y" * 300,
            "returnUrl was 'x" + "y" * 199 + "'.",
            "Pass a path of your own such as /orders?page=2: one leading slash, no host, at most 2000 characters.",
        ),
    ):
        with pytest.raises(Refused) as caught:
            read(query)
        assert (caught.value.diagnosis.cause, caught.value.diagnosis.remedy) == (cause, remedy)
    with pytest.raises(Refused) as caught:
        read("max_age=7", login=LoginOptions())
    assert caught.value.diagnosis.remedy == "Allowed by max_age of the login options: none."


def test_a_target_on_another_host_is_no_path_of_ours() -> None:
    with pytest.raises(Refused, match="return_url_invalid"):
        read(f"iss={quote(ISSUER)}&target_link_uri={quote('https://evil.example' + '/' * 3)}", login=THIRD_PARTY)
    assert read(f"iss={quote(ISSUER)}&target_link_uri=/a", login=THIRD_PARTY).return_url == "/a"


@pytest.mark.spec("OAU-27", "LGN-04")
def test_another_site_cannot_skip_the_hop_of_a_third_party_login() -> None:
    with world(login=THIRD_PARTY) as w:
        asked = begin(w, f"?iss={ISSUER}&hop=1", headers=FOREIGN)
        assert asked.status_code == 200 and "set-cookie" not in asked.headers
        assert "Continue to the login" in asked.text and "http-equiv" not in asked.text


@pytest.mark.spec("OAU-27")
@pytest.mark.parametrize("name", ["sec-fetch-dest", "sec-purpose"])
def test_a_doubled_header_is_not_taken_for_an_absent_one(name: str) -> None:
    value = "iframe" if name == "sec-fetch-dest" else "prefetch"
    with world() as w:
        headers = [("sec-fetch-mode", "navigate"), (name, value), (name, value)]
        response = w.transport.handle_request(httpx2.Request("GET", f"{LOCAL}/bff/login", headers=headers))
        assert response.headers["coatcheck-error"] == "navigation_required"
