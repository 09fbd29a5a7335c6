"""The jar keeps, sends and refuses what a browser would."""

from __future__ import annotations

import httpx2
import pytest

from tests.rig.cookie_jar import CookieJar

LOOPBACK = httpx2.URL("http://localhost:8000/app/page")
PLAIN = httpx2.URL("http://shop.example.com/app/page")
TLS = httpx2.URL("https://shop.example.com/app/page")


def sent(header: str, url: httpx2.URL, to: str = "", *, initiator: str | None = None, method: str = "GET") -> str:
    """What comes back to *to* after *url* has set a cookie."""
    jar = CookieJar()
    jar.store(url, [header])
    started_by = httpx2.URL(initiator) if initiator else None
    return jar.header(httpx2.URL(to) if to else url, initiator=started_by, method=method)


@pytest.mark.parametrize(
    ("header", "url", "kept"),
    [
        ("a=1", PLAIN, True),
        ("a=1; Secure", PLAIN, False),
        ("a=1; Secure", TLS, True),
        ("a=1; Secure", LOOPBACK, True),
        ("__Secure-a=1", TLS, False),
        ("__Host-a=1; Secure; Path=/", TLS, True),
        ("__Host-a=1; Secure; Path=/", LOOPBACK, True),
        ("__Host-a=1; Secure; Path=/app", TLS, False),
        ("__Host-a=1; Secure; Path=/; Domain=shop.example.com", TLS, False),
        ("__Host-Http-a=1; Secure; Path=/", TLS, False),
        ("__Host-Http-a=1; Secure; Path=/; HttpOnly", TLS, True),
        ("a=1; SameSite=None", TLS, False),
        ("a=1; Domain=example.com", TLS, True),
        ("a=1; Domain=other.example", TLS, False),
        ("a=1; Max-Age=0", TLS, False),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", TLS, False),
        ("a=1; Path=/other", TLS, False),
    ],
)
def test_what_is_kept(header: str, url: httpx2.URL, kept: bool) -> None:
    assert (sent(header, url) == header.partition(";")[0]) is kept


@pytest.mark.parametrize(
    ("same_site", "method", "arrives"),
    [("Strict", "GET", False), ("Lax", "GET", True), ("Lax", "POST", False), ("None", "POST", True)],
)
def test_what_a_foreign_page_may_send(same_site: str, method: str, arrives: bool) -> None:
    header = f"a=1; Secure; SameSite={same_site}"
    cookies = sent(header, TLS, initiator="https://evil.example/", method=method)
    assert cookies == ("a=1" if arrives else "")


def test_ports_do_not_isolate_cookies() -> None:
    assert sent("a=1; Path=/", LOOPBACK, "http://localhost:9999/") == "a=1"


def test_a_cookie_is_replaced_and_deleted_by_name_domain_and_path() -> None:
    jar = CookieJar()
    jar.store(TLS, ["a=1; Path=/", "a=2; Path=/"])
    assert jar.header(TLS, initiator=None) == "a=2"
    jar.store(TLS, ["a=; Path=/; Max-Age=0"])
    assert jar.header(TLS, initiator=None) == ""
