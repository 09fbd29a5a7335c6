"""The one source of origins and redirect URIs."""

from __future__ import annotations

import pytest

from coatcheck.bff.public_url import parse_public_url
from coatcheck.errors import ConfigurationError


@pytest.mark.spec("OAU-19")
@pytest.mark.parametrize(
    ("text", "origin", "path", "loopback"),
    [
        ("https://shop.example", "https://shop.example", "", False),
        ("https://shop.example/", "https://shop.example", "", False),
        ("https://Shop.Example:443/store/", "https://shop.example", "/store", False),
        ("https://shop.example:8443", "https://shop.example:8443", "", False),
        ("http://localhost:8000", "http://localhost:8000", "", True),
        ("http://localhost:80", "http://localhost", "", True),
        ("http://127.0.0.1:8000/a/b", "http://127.0.0.1:8000", "/a/b", True),
        ("http://[::1]:8000", "http://[::1]:8000", "", True),
        ("https://app.localhost", "https://app.localhost", "", True),
    ],
)
def test_origin_and_path_are_written_as_a_browser_writes_them(
    text: str, origin: str, path: str, loopback: bool
) -> None:
    url = parse_public_url(text)
    assert (url.origin, url.path, url.loopback) == (origin, path, loopback)


@pytest.mark.spec("OAU-19")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop.example",
        "/shop",
        "//shop.example",
        "ftp://shop.example",
        "http://shop.example",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "https://shop.example#top",
        "https://shop.example/#",
        "https://shop.example?a=b",
        "https://user@shop.example",
        "https://shop.example/a/../b",
        "https://shop.example/a//b",
        "https://shop.example/a b",
        "https://shop.example:port",
        " https://shop.example",
        "https://größe.example",
    ],
)
def test_anything_that_cannot_carry_a_redirect_uri_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^public_url: .*http://localhost:8000"):
        parse_public_url(text)


def test_the_path_is_taken_off_where_it_is() -> None:
    url = parse_public_url("https://shop.example/store")
    assert [url.strip(path) for path in ("/store", "/store/", "/store/a", "/a", "/storefront")] == [
        "/",
        "/",
        "/a",
        "/a",
        "/storefront",
    ]
    assert url.absolute("/bff/callback") == "https://shop.example/store/bff/callback"
