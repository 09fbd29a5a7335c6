"""Header hygiene: nothing a browser writes can pass for ours, nothing a remote API writes can speak for the origin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.bff.headers import (
    CHUNKED,
    HeaderRefused,
    RequestHeaderFilter,
    RequestHeaders,
    _response_fate,
    response_headers,
)

Line = tuple[bytes, bytes]


def filtered(*lines: Line, csrf_header: bytes = b"x-csrf") -> RequestHeaders:
    headers, _ = RequestHeaderFilter(csrf_header=csrf_header)(lines)
    return headers


def length_of(*lines: Line) -> int | None:
    _, length = RequestHeaderFilter(csrf_header=b"x-csrf")(lines)
    return length


def answered(*lines: tuple[str, str], status: int = 200, personal: bool = True) -> list[Line]:
    headers, _ = response_headers(lines, status=status, personal=personal)
    return headers


def values(headers: list[Line], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def test_what_a_page_says_to_an_api_goes_through_in_order_and_with_repetitions() -> None:
    lines = [
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, br"),
        (b"accept", b"text/plain"),
        (b"content-type", b"application/json"),
        (b"if-none-match", b'"1"'),
        (b"range", b"bytes=0-9"),
        (b"traceparent", b"00-1-2-01"),
        (b"sec-fetch-site", b"same-origin"),
        (b"x-own", b""),
    ]
    assert filtered(*lines) == [(name.decode(), value.decode()) for name, value in lines]


@pytest.mark.spec("PRX-09", "PRX-10")
@pytest.mark.parametrize(
    "name",
    [
        b"cookie",
        b"authorization",
        b"proxy-authorization",
        b"dpop",
        b"x-csrf",
        b"host",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-user",
        b"x-forwarded-anything-new",
        b"x-real-ip",
        b"remote-user",
        b"x-remote-user",
        b"x-auth-request-email",
        b"x-ssl-client-cert",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"expect",
        b"via",
    ],
)
def test_a_forged_header_is_dropped_in_every_spelling(name: bytes) -> None:
    underscored, dotted = name.replace(b"-", b"_"), name.replace(b"-", b".")
    spellings = [name, name.title(), name.upper()]
    if b"-" in name:
        spellings += [underscored, dotted, underscored.title(), dotted.upper()]
    assert filtered(*((spelling, b"forged") for spelling in spellings), (b"accept", b"a")) == [("accept", "a")]


@pytest.mark.spec("PRX-10", "CSR-11")
def test_the_configured_anti_forgery_header_is_for_us_alone() -> None:
    lines = [(b"x-csrf", b"1"), (b"x-requested-by", b"shop")]
    assert filtered(*lines, csrf_header=b"X-Requested-By") == [("x-csrf", "1")]


@pytest.mark.spec("PRX-11")
@pytest.mark.parametrize(
    "name", [b"x_auth_user", b"x.auth.user", b"x auth", b"x!", b"x\xc3\xa9", b"", b"x\r\ny", b"x:y"]
)
def test_a_name_of_other_characters_is_dropped(name: bytes) -> None:
    assert filtered((name, b"1")) == []


@pytest.mark.spec("PRX-12")
def test_hop_by_hop_headers_end_here() -> None:
    names = [b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings"]
    assert filtered(*((name, b"x-nothing") for name in names)) == []


@pytest.mark.spec("PRX-12")
@pytest.mark.parametrize("where", ["before", "after"])
def test_what_connection_names_ends_here_too(where: str) -> None:
    named = [(b"x-secret", b"1"), (b"x-other", b"2"), (b"accept", b"*/*")]
    connection = [(b"connection", b"close, X-Secret"), (b"Connection", b" x-other ,,")]
    lines = [*connection, *named] if where == "before" else [*named, *connection]
    assert filtered(*lines) == [("accept", "*/*")]


def test_a_value_is_read_as_utf_8_and_refused_if_it_is_not() -> None:
    assert filtered((b"x-name", "Zoë".encode())) == [("x-name", "Zoë")]
    with pytest.raises(HeaderRefused, match="'x-name'") as caught:
        filtered((b"x-name", b"secret\xff"))
    assert "secret" not in str(caught.value)


@pytest.mark.spec("PRX-14")
def test_the_length_of_the_body_is_read_once_and_never_copied() -> None:
    assert filtered((b"content-length", b"5"), (b"x-a", b"1")) == [("x-a", "1")]
    assert filtered((b"transfer-encoding", b"chunked"), (b"x-a", b"1")) == [("x-a", "1")]


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], None),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"0012")], 12),
        ([(b"transfer-encoding", b"chunked")], CHUNKED),
        ([(b"transfer-encoding", b" Chunked ")], CHUNKED),
    ],
)
def test_a_body_has_one_framing(lines: list[Line], length: int | None) -> None:
    assert length_of(*lines) == length


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    "lines",
    [
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"5"), (b"content-length", b"6")],
        [(b"content-length", b"5, 5")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"0x5")],
        [(b"content-length", b"")],
        [(b"content-length", "\u0665".encode())],
        [(b"content-length", b"9" * 30)],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity")],
    ],
)
def test_smuggling_a_framing_with_two_readings_is_refused(lines: list[Line]) -> None:
    with pytest.raises(HeaderRefused):
        length_of(*lines)


def test_a_flood_of_invented_names_is_not_remembered() -> None:
    take = RequestHeaderFilter(csrf_header=b"x-csrf")
    for number in range(5000):
        take([(b"x-%d" % number, b"1")])
    assert take([(b"authorization", b"forged"), (b"x-late", b"1")])[0] == [("x-late", "1")]
    assert len(take._fate) <= 1024


def test_a_flood_of_long_names_takes_no_memory() -> None:
    take = RequestHeaderFilter(csrf_header=b"x-csrf")
    for number in range(1000):
        take([(b"x-%d-" % number + b"a" * 30_000, b"1")])
        response_headers([(f"x-{number}-" + "a" * 30_000, "1")], status=200, personal=False)
    assert sum(map(len, take._fate)) + sum(map(len, _response_fate)) < 256 * 1024


@pytest.mark.spec("PRX-10", "PRX-12")
@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=12), st.binary(max_size=8)), max_size=6))
def test_whatever_comes_in_only_plain_names_go_out(lines: list[Line]) -> None:
    try:
        headers = filtered(*lines, (b"connection", b"x-named"), (b"x-named", b"1"))
    except HeaderRefused:
        return
    for name, _ in headers:
        assert name != "x-named"
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.spec("PRX-21", "PRX-20")
@pytest.mark.parametrize(
    "name",
    [
        "set-cookie",
        "coatcheck-error",
        "x-accel-redirect",
        "x-accel-expires",
        "x-sendfile",
        "clear-site-data",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "service-worker-allowed",
        "alt-svc",
        "strict-transport-security",
        "refresh",
        "proxy-authenticate",
        "server",
        "cdn-cache-control",
        "report-to",
    ],
)
def test_a_remote_api_cannot_speak_for_the_origin(name: str) -> None:
    kept = answered((name, "x"), ("content-type", "text/plain"))
    assert values(kept, name.encode()) == []
    assert values(kept, b"content-type") == [b"text/plain"]


@pytest.mark.spec("PRX-21")
@pytest.mark.parametrize(
    ("challenge", "relayed"),
    [
        ('Bearer error="insufficient_user_authentication"', True),
        ('DPoP error="use_dpop_nonce"', True),
        ('Basic realm="x"', False),
        ("Negotiate", False),
        ("NTLM", False),
    ],
)
def test_a_challenge_that_opens_a_password_dialogue_is_dropped(challenge: str, relayed: bool) -> None:
    kept = answered(("www-authenticate", challenge), status=401)
    assert values(kept, b"www-authenticate") == ([challenge.encode()] if relayed else [])


@pytest.mark.spec("PRX-12")
@pytest.mark.parametrize("where", [0, 1])
def test_hop_by_hop_headers_of_the_answer_end_here(where: int) -> None:
    lines = [("x-hop", "1"), ("keep-alive", "timeout=5"), ("trailer", "x"), ("upgrade", "h2c"), ("etag", "1")]
    lines.insert(where * len(lines), ("connection", "keep-alive, X-Hop"))
    assert answered(*lines, personal=False) == [(b"etag", b"1"), (b"vary", b"Cookie")]


@pytest.mark.spec("PRX-22")
@pytest.mark.parametrize(
    ("upstream", "leaves"),
    [
        ([], b"no-store"),
        (["public, max-age=600"], b"no-store"),
        (["max-age=600"], b"no-store"),
        (["s-maxage=600, private"], b"no-store"),
        (["no-cache"], b"no-store"),
        (['private="x-header", max-age=1'], b"no-store"),
        (["privately"], b"no-store"),
        (["private, max-age=60"], b"private, max-age=60"),
        (["max-age=60", "Private"], b"max-age=60, Private"),
        (["no-store"], b"no-store"),
    ],
)
def test_an_answer_to_a_session_is_kept_by_no_shared_cache(upstream: list[str], leaves: bytes) -> None:
    kept = answered(*(("cache-control", value) for value in upstream))
    assert values(kept, b"cache-control") == [leaves]
    assert values(kept, b"vary")[-1] == b"Cookie"


@pytest.mark.spec("PRX-22")
def test_without_a_session_the_remote_api_decides_but_a_cookie_still_matters() -> None:
    kept = answered(("cache-control", "public, max-age=600"), ("vary", "Accept"), personal=False)
    assert values(kept, b"cache-control") == [b"public, max-age=600"]
    assert values(kept, b"vary") == [b"Accept", b"Cookie"]


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(("status", "length"), [(200, 12), (206, 12), (204, None), (304, None)])
def test_an_answer_without_a_body_has_no_length(status: int, length: int | None) -> None:
    headers, known = response_headers([("content-length", "12")], status=status, personal=True)
    assert known == length
    assert values(headers, b"content-length") == ([b"12"] if length else [])


@pytest.mark.spec("PRX-15")
@pytest.mark.parametrize("text", ["12", "12, 12", "12,12", " 12", "012"])
def test_a_length_that_was_said_twice_is_said_once(text: str) -> None:
    headers, known = response_headers([("content-length", text)], status=200, personal=True)
    assert (known, values(headers, b"content-length")) == (12, [b"12"])
