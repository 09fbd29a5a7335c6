"""One reading of a path: what could mean two things is refused, what is accepted is what will be sent."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyreqwest.http import Url

from coatcheck.bff.paths import RouteTable, canonical_path, carries_token, forwardable_query
from coatcheck.errors import ConfigurationError

ORIGIN = "http://127.0.0.1:9"
TRICKS = re.findall(r"\S+", r"""/ \ . .. %2e %2E %25 %5c %2f %00 %c3%a9 ; # ? a ~ | ^ ' " < { [ @ : // % %4 %61 é""")


@pytest.mark.spec("PRX-02")
@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/api/orders",
        b"/api/orders/",
        b"/api/a%20b/caf%C3%A9",
        b"/api/orders;version=2/x;y",
        b"/api/~tilde/-_.x/...",
        b"/api/.well-known/..x",
        b"/api/!$&'()*+,=:@/[1]|^",
        b"/api/100%25",
    ],
)
def test_an_honest_path_is_taken_as_it_stands(path: bytes) -> None:
    assert canonical_path(path) == path.decode()


@pytest.mark.spec("PRX-03")
@pytest.mark.parametrize(
    "path",
    [
        b"/api/..",
        b"/api/../admin",
        b"/api/orders/..",
        b"/api/./orders",
        b"/api/.",
        b"/..",
        b"/api/%2e%2e/admin",
        b"/api/.%2e/admin",
        b"/api/%2E./admin",
        b"/api/%2e",
        b"/api/..;/admin",
        b"/api/.;x=1/admin",
        b"/api/..;x/admin",
        b"/api/..%3b/admin",
        b"/api/.%3Bx/admin",
        b"/api/%252e%252e/admin",
        b"/api/%25252e/admin",
        b"/api/..%5cadmin",
        b"/api/..%2fadmin",
        b"/api/.//admin",
        b"/api/..\\admin",
        b"/api/%c0%ae%c0%ae/admin",
    ],
)
def test_traversal_is_refused_and_never_cleaned_up(path: bytes) -> None:
    assert canonical_path(path) is None


@pytest.mark.spec("PRX-04")
@pytest.mark.parametrize("encoded", [b"%2f", b"%2F", b"%5c", b"%5C", b"%252f", b"%255C", b"%25252F"])
def test_encoded_separators_are_refused(encoded: bytes) -> None:
    assert canonical_path(b"/api/a" + encoded + b"b") is None


@pytest.mark.spec("PRX-06")
@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"*",
        b"api/orders",
        b"@evil.example/",
        b"http://evil.example/api",
        b"//evil.example/api",
        b"/api//orders",
        b"/api/orders//",
        b"/api/a#b",
        b"/api/a?b",
        b"/api/\x00",
        b"/api/%00",
        b"/api/%0d%0aHost:%20evil",
        b"/api/%1f",
        b"/api/%7f",
        b"/api/a b",
        b"/api/a\tb",
        b"/api/a\\b",
        b"/api/%zz",
        b"/api/%4",
        b"/api/%",
        b"/api/caf\xc3\xa9",
        b"/api/%ff",
        b"/api/%c3",
        b"/api/%c0%af",
        b"/api/%e0%80%af",
        b"/api/%ed%a0%80",
        b'/api/"',
        b"/api/<b>",
        b"/api/{id}",
        b"/api/`",
    ],
)
def test_what_readers_disagree_about_is_refused(path: bytes) -> None:
    assert canonical_path(path) is None


@pytest.mark.spec("PRX-02", "PRX-07")
@pytest.mark.parametrize("encoded", [b"%61", b"%41", b"%30", b"%39", b"%2d", b"%2D", b"%5f", b"%5F", b"%7e", b"%7A"])
def test_a_letter_in_disguise_cannot_pass_by_a_stricter_route(encoded: bytes) -> None:
    """`/api/%61dmin` is `/api/admin` to the server behind us, and would be another path to the match."""
    assert canonical_path(b"/api/" + encoded + b"dmin") is None


def test_each_encoded_byte_that_need_not_be_encoded_is_refused_and_no_other() -> None:
    unreserved = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    for byte in range(0x80):
        refused = byte in unreserved or byte < 0x20 or byte == 0x7F or byte in b"/\\"
        assert (canonical_path(b"/a%%%02x" % byte) is None) == refused, bytes([byte])
        assert (canonical_path(b"/a%%%02X" % byte) is None) == refused, bytes([byte])


@pytest.mark.spec("PRX-02")
@settings(deadline=None)
@given(st.binary(max_size=24).map(lambda tail: b"/" + tail))
def test_no_url_parser_changes_an_accepted_path(path: bytes) -> None:
    _assert_parsers_agree(path)


@pytest.mark.spec("PRX-02", "PRX-03")
@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([*TRICKS, " ", "\t", "\n"]),
        max_size=8,
    ).map(lambda parts: ("/" + "".join(parts)).encode())
)
def test_no_url_parser_changes_an_accepted_path_made_of_tricks(path: bytes) -> None:
    _assert_parsers_agree(path)


def _assert_parsers_agree(path: bytes) -> None:
    accepted = canonical_path(path)
    if accepted is not None:
        assert accepted.encode() == path
        assert str(Url(ORIGIN + accepted)) == ORIGIN + accepted
        parts = urlsplit(ORIGIN + accepted)
        assert (parts.path, parts.query, parts.fragment, parts.netloc) == (accepted, "", "", "127.0.0.1:9")


@pytest.mark.spec("PRX-35")
@settings(deadline=None)
@given(st.binary(max_size=24))
def test_no_url_parser_changes_an_accepted_query(query: bytes) -> None:
    if forwardable_query(query):
        text = query.decode()
        assert str(Url(f"{ORIGIN}/?{text}")) == f"{ORIGIN}/?{text}"


@pytest.mark.spec("PRX-35")
@pytest.mark.parametrize("query", [b"a=1&b=%20+c", b"q=%zz", b"q=\\", b"q={1}|`^[]", b"q=1?2/3", b"=&&;"])
def test_a_query_is_data_and_goes_on_as_it_is(query: bytes) -> None:
    assert forwardable_query(query)
    assert canonical_path(b"/", query) == "/"


@pytest.mark.spec("PRX-35")
@pytest.mark.parametrize(
    "query", [b"a=b c", b'a="', b"a='", b"a=<b>", b"a=#b", b"a=\xc3\xa9", b"a=\x00", b"a=\r\nb", b"a=\x7f"]
)
def test_a_query_that_would_be_rewritten_is_refused(query: bytes) -> None:
    assert not forwardable_query(query)
    assert canonical_path(b"/", query) is None


@pytest.mark.spec("PRX-35", "OAU-31")
@pytest.mark.parametrize(
    "query",
    [
        b"access_token=x",
        b"a=1&access_token=x",
        b"a=1;access_token=x",
        b"access_token",
        b"id_token=x",
        b"access%5Ftoken=x",
        b"%61ccess_token=x",
        b"Access_Token=x",
        b"+access_token=x",
        b"%20access_token%20=x",
    ],
)
def test_a_token_in_a_query_is_recognised(query: bytes) -> None:
    assert carries_token(query)


@pytest.mark.spec("PRX-35")
@pytest.mark.parametrize(
    "query", [b"", b"q=access_token", b"token=1", b"next_page_token=2", b"my_access_token=3", b"a=%20"]
)
def test_other_parameters_are_no_tokens(query: bytes) -> None:
    assert not carries_token(query)


def table(*paths: str) -> RouteTable[str]:
    routes: RouteTable[str] = RouteTable()
    for path in paths:
        routes.add(path, path)
    return routes


@pytest.mark.spec("PRX-02")
def test_a_route_matches_whole_segments_in_exact_case() -> None:
    routes = table("/api", "/files/v1")
    assert routes.match("/api") == routes.match("/api/") == routes.match("/api/orders/1") == "/api"
    assert routes.match("/files/v1/x") == "/files/v1"
    for other in ("/apix", "/api-x", "/API", "/Api/x", "/", "/files", "/files/v10", "/x/api", "/api;x"):
        assert routes.match(other) is None, other


@pytest.mark.spec("PRX-07")
@pytest.mark.parametrize("order", [("/api", "/api/admin"), ("/api/admin", "/api")])
def test_the_longest_route_wins_whatever_came_first(order: tuple[str, str]) -> None:
    routes = table(*order, "/")
    assert routes.match("/api/admin/x") == "/api/admin"
    assert routes.match("/api/administrator") == "/api"
    assert routes.match("/else") == "/"


@pytest.mark.parametrize("second", ["/api", "/API", "/Api"])
def test_two_routes_with_one_meaning_are_refused(second: str) -> None:
    with pytest.raises(ConfigurationError, match="overlaps '/api'"):
        table("/api", second)


@pytest.mark.spec("PRX-02")
@pytest.mark.parametrize(
    "path", ["", "api", "/api/", "//api", "/api//x", "/a b", "/caf%C3%A9", "/é", "/api/..", "/.x", "/a?b", "/a*"]
)
def test_a_route_has_one_spelling(path: str) -> None:
    with pytest.raises(ConfigurationError, match="plain segments"):
        table(path)
