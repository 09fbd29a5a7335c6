"""Forged requests: only a script of our own page may use the session behind the cookie."""

from __future__ import annotations

import pytest

from coatcheck.bff.csrf import (
    Claims,
    CSRFRules,
    Protection,
    check_api,
    check_websocket,
    check_without_header,
    navigation,
    read_claims,
)

RULES = CSRFRules(origin=b"https://shop.example")
OWN = RULES.origin
HEADER = (b"x-csrf", b"1")


def api(*headers: tuple[bytes, bytes]) -> str | None:
    return check_api(read_claims(headers, RULES), RULES)


@pytest.mark.spec("CSR-01")
@pytest.mark.parametrize(
    "headers",
    [[], [(b"x-csrf", b"")], [(b"x-csrf", b"0")], [(b"x-csrf", b"1 ")], [HEADER, HEADER], [(b"x-csrf-token", b"1")]],
)
def test_without_the_one_header_a_call_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert api(*headers) == "csrf_header_missing"


@pytest.mark.spec("CSR-01")
def test_our_own_script_passes() -> None:
    assert api(HEADER) is None
    assert api(HEADER, (b"sec-fetch-site", b"same-origin"), (b"origin", b"https://shop.example")) is None


@pytest.mark.spec("CSR-02")
@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"none", b"", b"Same-Origin", b"same-origin, none"])
def test_fetch_metadata_of_a_sibling_or_a_stranger_is_refused_in_spite_of_the_header(site: bytes) -> None:
    assert api(HEADER, (b"sec-fetch-site", site)) == "cross_site"


@pytest.mark.spec("CSR-02")
def test_two_fetch_metadata_lines_prove_nothing() -> None:
    line = (b"sec-fetch-site", b"same-origin")
    assert api(HEADER, line, line) == "cross_site"


@pytest.mark.spec("CSR-03")
@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://shop.example.evil.example",
        b"http://shop.example",
        b"https://shop.example:443",
        b"https://shop.example:8443",
        b"https://a.shop.example",
        b"https://SHOP.example",
        b"https://shop.example/",
    ],
)
def test_any_other_origin_is_refused(origin: bytes) -> None:
    assert api(HEADER, (b"origin", origin)) == "cross_site"


def test_another_header_can_be_chosen() -> None:
    rules = CSRFRules(origin=b"https://shop.example", header_name=b"x-requested-by", header_value=b"shop")
    assert check_api(read_claims([HEADER], rules), rules) == "csrf_header_missing"
    assert check_api(read_claims([(b"x-requested-by", b"shop")], rules), rules) is None


@pytest.mark.spec("CSR-02")
@pytest.mark.parametrize(
    ("method", "site", "verdict"),
    [
        ("GET", b"same-origin", None),
        ("GET", b"none", None),
        ("GET", b"cross-site", "cross_site"),
        ("GET", b"same-site", "cross_site"),
        ("POST", b"same-origin", None),
        ("POST", b"none", "cross_site"),
    ],
)
def test_routes_without_the_header_still_ask_who_sends(method: str, site: bytes, verdict: str | None) -> None:
    claims = read_claims([(b"sec-fetch-site", site)], RULES)
    assert check_without_header(claims, RULES, method=method) == verdict


@pytest.mark.spec("CSR-09")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ([], "csrf_header_missing"),
        ([(b"x-csrf", b"0")], "csrf_header_missing"),
        ([(b"origin", b"null")], "cross_site"),
        ([(b"origin", b"https://evil.example")], "cross_site"),
        ([(b"origin", b"https://shop.example")], None),
        ([(b"sec-fetch-site", b"same-origin")], None),
        ([HEADER], None),
        ([HEADER, (b"sec-fetch-site", b"same-site")], "cross_site"),
    ],
)
def test_where_the_header_is_not_needed_silence_proves_nothing(
    method: str, headers: list[tuple[bytes, bytes]], verdict: str | None
) -> None:
    assert check_without_header(read_claims(headers, RULES), RULES, method=method) == verdict


@pytest.mark.parametrize(
    ("method", "mode", "site", "kind"),
    [
        ("GET", b"navigate", b"same-origin", "own"),
        ("GET", b"navigate", b"none", "own"),
        ("HEAD", b"navigate", b"none", "own"),
        ("GET", b"navigate", b"cross-site", "foreign"),
        ("GET", b"navigate", b"same-site", "foreign"),
        ("POST", b"navigate", b"same-origin", "none"),
        ("GET", b"cors", b"same-origin", "none"),
        ("GET", b"no-cors", b"same-origin", "none"),
        ("GET", b"nested-navigate", b"same-origin", "none"),
    ],
)
def test_a_page_is_a_navigation_of_our_own_or_one_that_needs_a_hop(
    method: str, mode: bytes, site: bytes, kind: str
) -> None:
    claims = read_claims([(b"sec-fetch-mode", mode), (b"sec-fetch-site", site)], RULES)
    assert navigation(claims, method=method) == kind


def test_which_endpoints_bring_their_own_proof() -> None:
    assert {protection.name for protection in Protection if protection.exempts} == {"SID", "LOGIN"}


@pytest.mark.parametrize(
    ("origin", "site", "allowed"),
    [
        ((OWN,), (b"same-origin",), True),
        ((OWN,), (), True),
        ((), (b"same-origin",), False),
        ((b"https://evil.example",), (b"same-origin",), False),
        ((b"null",), (), False),
        ((OWN, OWN), (b"same-origin",), False),
        ((OWN,), (b"cross-site",), False),
        ((OWN,), (b"same-site",), False),
        ((OWN,), (b"none",), False),
    ],
)
@pytest.mark.spec("CSR-03")
def test_a_websocket_handshake_comes_from_our_own_origin(
    origin: tuple[bytes, ...], site: tuple[bytes, ...], allowed: bool
) -> None:
    verdict = check_websocket(Claims(header=(b"1",), origin=origin, site=site, mode=(b"websocket",)), RULES)
    assert verdict == (None if allowed else "cross_site")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("header", "origin", "site", "verdict"),
    [
        ((), (), (b"same-origin",), None),
        ((), (OWN,), (), None),
        ((b"1",), (), (), None),
        ((b"0",), (), (), "csrf_header_missing"),
        ((), (), (), "csrf_header_missing"),
        ((), (b"https://evil.example",), (b"same-origin",), "cross_site"),
        ((b"1",), (b"https://evil.example",), (), "cross_site"),
        ((b"1",), (OWN,), (b"same-site",), "cross_site"),
        ((b"1",), (), (b"cross-site",), "cross_site"),
        ((), (), (b"same-origin", b"same-origin"), "cross_site"),
    ],
)
@pytest.mark.spec("CSR-02", "CSR-09")
def test_without_the_header_something_else_speaks_for_the_call(
    method: str,
    header: tuple[bytes, ...],
    origin: tuple[bytes, ...],
    site: tuple[bytes, ...],
    verdict: str | None,
) -> None:
    claims = Claims(header=header, origin=origin, site=site, mode=())
    assert check_without_header(claims, RULES, method=method) == verdict


@pytest.mark.parametrize(("method", "verdict"), [("GET", None), ("HEAD", None), ("POST", "cross_site")])
def test_a_person_at_the_address_bar_may_look_and_not_act(method: str, verdict: str | None) -> None:
    claims = Claims(header=(), origin=(), site=(b"none",), mode=(b"navigate",))
    assert check_without_header(claims, RULES, method=method) == verdict


@pytest.mark.parametrize(
    ("method", "header", "mode", "kind"),
    [
        ("GET", (), (), "own"),
        ("HEAD", (), (b"navigate",), "own"),
        ("GET", (b"1",), (b"navigate",), "own"),
        ("GET", (b"1",), (), "none"),
        ("GET", (), (b"cors",), "none"),
        ("POST", (), (b"navigate",), "none"),
    ],
)
def test_what_carries_the_header_and_says_nothing_else_is_no_navigation(
    method: str, header: tuple[bytes, ...], mode: tuple[bytes, ...], kind: str
) -> None:
    assert navigation(Claims(header=header, origin=(), site=(), mode=mode), method=method) == kind


def test_rules_say_what_was_configured_and_no_more() -> None:
    assert RULES.written == "X-CSRF"
    assert "judged" not in repr(RULES)
