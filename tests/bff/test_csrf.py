"""Forged requests: only a script of our own page may use the session behind the cookie."""

from __future__ import annotations

import pytest

from coatcheck.bff.csrf import CSRFRules, check_api, check_without_header, navigation, read_claims

RULES = CSRFRules(origin=b"https://shop.example")
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
