"""Open redirects: a browser is sent back to a path of our own origin and to nothing else."""

from __future__ import annotations

from random import Random
from urllib.parse import quote, urljoin, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyreqwest.http import Url

from coatcheck.bff.public_url import parse_public_url
from coatcheck.bff.return_url import MAX_LENGTH, checked_return_url

SHOP = parse_public_url("https://shop.example/store")
ROOT = parse_public_url("https://shop.example")


def check(text: str) -> str | None:
    return checked_return_url(text, public_url=ROOT)


@pytest.mark.spec("RTU-01")
@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/orders",
        "/orders/",
        "/orders/7?sort=name&page=2",
        "/orders#details",
        "/a%20b/c?q=x%2Fy",
        "/a/b.c/d-e_f~g",
        "/@user/:id",
        "/?next=https://elsewhere.example/",
        "/files/a%2Fb",
        "/well-known/.hidden",
        "/...",
        "/bffs",
    ],
)
def test_paths_of_our_own_origin_pass_unchanged(text: str) -> None:
    assert check(text) == text


@pytest.mark.spec("RTU-01")
@pytest.mark.parametrize("text", ["", "orders", "?a=b", "#a", ".", "..", "./a", "../a", "a:b", "*"])
def test_what_is_not_an_absolute_path_is_refused(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-02")
@pytest.mark.parametrize(
    "text",
    ["//x", "///x", "////x", "/\\x", "/\\/x", "\\x", "\\\\x", "/x\\..\\\\y", "/a?b\\c", "/a#\\", "//x@y/z", "/a//b"],
)
def test_second_slashes_and_backslashes_never_become_an_authority(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-03")
@pytest.mark.parametrize(
    "text",
    [
        "/\t/x",
        "/%09/x",
        "/%0d%0aX:y",
        "/\r\nSet-Cookie: a=b",
        " /x",
        "/ /x",
        "/%20/x",
        "\x00/x",
        "/\x7f",
        "/%7f",
        "/\x85x",
        "/%C2%85x",
        "/\u2028x",
        "/%E2%80%A8x",
        "/\ufeffx",
        "/%EF%BB%BFx",
        "\ufeff/x",
        "/\u202ex",
        "/a?b=%0a",
        "/a?b= c",
        "/a#%00",
        "/%ff",
        "/\ud800",
    ],
)
def test_controls_and_invisible_characters_are_refused_raw_and_decoded(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-04")
@pytest.mark.parametrize(
    "text",
    [
        "https:x",
        "https://shop.example/",
        "http:///x",
        "HTTPS://x",
        "javascript:alert(1)",
        "data:text/html,x",
        "//user@x",
        "https://shop.example@x",
        "https://shop.example.x",
        "mailto:a@b",
        "://x",
    ],
)
def test_schemes_and_authorities_are_refused_even_our_own(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-05")
@pytest.mark.parametrize(
    "text",
    [
        "/.//x",
        "/..//x",
        "/a/..//x",
        "/%2e//x",
        "/%2f%2fx",
        "/%2fx",
        "/%5cx",
        "/a/../b",
        "/a/./b",
        "/.",
        "/..",
        "/%2e%2e/x",
        "/%252e%252e/x",
        "/%252f%252fx",
        "/%25252f%25252fx",
        "/%255cx",
        "/%25%32%66x",
        "/%",
        "/%zz",
        "/%2",
        "/%" + "25" * 6 + "2fx",
    ],
)
def test_dot_segments_empty_segments_and_double_encodings_are_refused(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-06")
def test_what_urls_cannot_hold_is_percent_encoded() -> None:
    assert check("/größe?q=ü") == "/gr%C3%B6%C3%9Fe?q=%C3%BC"
    assert check('/a"b<c>') == "/a%22b%3Cc%3E"
    assert check("/\uff0f\uff0fevil.example") == "/%EF%BC%8F%EF%BC%8Fevil.example"  # full-width slashes stay letters


@pytest.mark.spec("RTU-08")
def test_a_long_return_url_is_refused_and_none_can_split_a_header() -> None:
    assert check("/" + "a" * (MAX_LENGTH - 1)) is not None
    assert check("/" + "a" * MAX_LENGTH) is None
    assert check("/" + "ü" * (MAX_LENGTH // 2)) is None  # it is the encoded length that counts


@pytest.mark.spec("RTU-09")
@pytest.mark.parametrize(
    "text",
    [
        "/bff/logout",
        "/bff/login?returnUrl=/",
        "/bff",
        "/BFF/Logout",
        "/%62ff/logout",
        "/store/bff/logout",
        "/store/store/bff/logout",  # what a proxy in front that takes /store off would make of it
        "/store/store/store/bff/login",
        "/bff/x",
    ],
)
def test_a_return_to_our_own_endpoints_would_be_a_loop_or_a_forged_logout(text: str) -> None:
    assert checked_return_url(text, public_url=SHOP) is None


@pytest.mark.spec("RTU-09")
@pytest.mark.parametrize(
    "text", ["/Auth/logout", "/auth/logout", "/AUTH", "/%41uth/login", "/Store/Auth/login", "/STORE/store/auth/x"]
)
def test_endpoints_are_refused_in_whatever_case_they_and_our_own_path_are_written(text: str) -> None:
    shop = parse_public_url("https://shop.example/Store")
    assert checked_return_url(text, public_url=shop, endpoints="/Auth") is None
    assert checked_return_url("/Store/orders", public_url=shop, endpoints="/Auth") == "/Store/orders"


@pytest.mark.spec("RTU-05")
@pytest.mark.parametrize("text", ["/a/..;/bff/logout", "/..;x=1/b", "/.;/b", "/%2e%2e;/b", "/a/..%3B/b", "/a/..;"])
def test_dot_segments_of_servers_that_cut_at_a_semicolon_are_refused(text: str) -> None:
    assert check(text) is None


@pytest.mark.spec("RTU-10", "RTU-05")
@given(
    st.lists(
        st.sampled_from(
            [
                "/",
                "\\",
                ".",
                "..",
                "%2f",
                "%5c",
                "%2e",
                "%25",
                "a",
                "@",
                ":",
                "?",
                "#",
                " ",
                "\t",
                "x.y",
                "//",
                "%09",
                "ü",
            ]
        ),
        max_size=12,
    ).map("".join)
    | st.text(max_size=30).map(lambda text: "/" + text)
)
@settings(max_examples=1000, deadline=None, database=None)
@example("/\u2215evil.example")
@example("/;//evil.example")
def test_every_accepted_value_stays_on_our_origin(text: str) -> None:
    url = check(text)
    if url is None:
        return
    assert url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    assert url[0] == "/" and url[1:2] != "/"
    joined = urlsplit(urljoin("https://shop.example/bff/callback?code=x", url))
    assert (joined.scheme, joined.netloc) == ("https", "shop.example")
    assert check(url) == url  # what was checked is what is emitted, also the second time


@pytest.mark.spec("RTU-10")
def test_a_hundred_thousand_strings_stay_on_our_origin_for_two_parsers() -> None:
    """`urllib` and a WHATWG parser (as browsers have) agree on the origin of every accepted value."""
    random = Random(7)
    callback = "https://shop.example/bff/callback?code=x"
    whatwg = Url(callback)
    accepted = 0
    for _ in range(100_000):
        url = check("".join(random.choices(PIECES, k=random.randrange(1, 8))))
        if url is None:
            continue
        accepted += 1
        browsers = whatwg.join(url)
        assert (browsers.scheme, browsers.host_str, browsers.port) == ("https", "shop.example", None)
        joined = urlsplit(urljoin(callback, url))
        assert (joined.scheme, joined.netloc) == ("https", "shop.example")
        assert (
            browsers.path == url.partition("#")[0].partition("?")[0]
        )  # nothing is tidied away: what was checked is where the browser goes
    assert accepted > 3000


PIECES = [
    "/",
    "/",
    "/",
    "\\",
    ".",
    "..",
    "%2f",
    "%5C",
    "%2e",
    "%25",
    "a",
    "b",
    "@",
    ":",
    "?",
    "#",
    " ",
    "\t",
    "%0a",
    "%20",
]
PIECES += [
    "//",
    "https:",
    "evil.example",
    "ü",
    "\u2044",
    "\u3002",
    "\uff0f",
    ";",
    "&",
    "=",
    "[",
    "]",
    "|",
    "^",
    "'",
    '"',
    "<",
]


@pytest.mark.spec("RTU-01")
@pytest.mark.parametrize("character", "[]@!$&'()*+,;=:%?#/")
def test_each_character_that_urls_have_stays_as_it_is(character: str) -> None:
    text = f"/a?b{character}c" if character != "%" else "/a?b%25c"
    assert check(text) == text


@pytest.mark.spec("RTU-03")
@pytest.mark.parametrize(
    "character", "\u061c\u200b\u200d\u200f\u2028\u202a\u202e\u2060\u2066\u2069\ufeff\x7f\x80\x9f\x00\x1f"
)
def test_each_invisible_character_is_refused_in_path_query_and_fragment(character: str) -> None:
    for text in (f"/a{character}", f"/a?b={character}", f"/a#{character}"):
        assert check(text) is None
        assert check(quote(text, safe="/?#=")) is None


@pytest.mark.spec("RTU-06")
@pytest.mark.parametrize("text", ["/a%c3%a9", "/a%C3%A9", "/a/ b", "/a/%20b", "/a?b=%20c"])
def test_encodings_in_either_case_and_inner_spaces_of_a_path_are_fine(text: str) -> None:
    assert (check(text) is None) == (" " in text)


@pytest.mark.spec("RTU-05")
@pytest.mark.parametrize("text", ["/a?x=%ff", "/a#%c3", "/%20a", "/a?b=%25252541"])
def test_what_is_no_text_or_begins_with_a_space_is_refused(text: str) -> None:
    assert check(text) is None or text.startswith("/a?b")


@pytest.mark.spec("RTU-05")
def test_encoding_upon_encoding_ends_somewhere() -> None:
    three, four = "/a%252541", "/a%25252541"
    assert (check(three), check(four)) == (three, None)


@pytest.mark.spec("RTU-08")
def test_the_greatest_length_counts_what_is_emitted() -> None:
    assert check("/" + "a" * 1999) == "/" + "a" * 1999
    assert check("/" + "a" * 2000) is None
    assert check("/" + "\u00e9" * 334) is None
