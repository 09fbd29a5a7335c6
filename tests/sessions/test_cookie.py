"""Cookies: what we set, and that nothing but what a browser protected is read as ours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigurationError, CookieTooLarge
from coatcheck.sessions import CookiePolicy, Cookies, application_id, delete_cookie, parse_cookies, set_cookie
from coatcheck.sessions.cookie import COOKIE_LIMIT, SameSite, room_in_cookie
from tests.sessions.samples import ISSUER, POLICY

NAME = POLICY.session


def cookies(*headers: bytes) -> Cookies:
    return parse_cookies([(b"host", b"shop.example.com"), *((b"cookie", header) for header in headers)])


def attributes(line: bytes) -> list[str]:
    return line.decode("ascii").split("; ")[1:]


# What we set


@pytest.mark.spec("COO-01", "COO-02", "COO-03", "COO-12")
def test_the_session_cookie_has_one_set_of_attributes() -> None:
    line = set_cookie(NAME, "dGlja2V0", same_site=POLICY.same_site)
    assert line == f"{NAME}=dGlja2V0; Path=/; Secure; HttpOnly; SameSite=Strict".encode()


@pytest.mark.spec("COO-01", "COO-02")
@pytest.mark.parametrize("same_site", ["Strict", "Lax", "None"])
@pytest.mark.parametrize("max_age", [None, 0, 900])
def test_every_cookie_is_secure_http_only_and_of_this_host(same_site: SameSite, max_age: int | None) -> None:
    found = attributes(set_cookie(NAME, "dGlja2V0", same_site=same_site, max_age=max_age))
    assert found[:4] == ["Path=/", "Secure", "HttpOnly", f"SameSite={same_site}"]
    assert found[4:] == ([] if max_age is None else [f"Max-Age={max_age}"])


@pytest.mark.spec("COO-02", "COO-14")
def test_names_carry_the_strictest_prefix_and_the_application() -> None:
    assert re.fullmatch(r"__Host-Http-coatcheck-[a-z2-7]{8}", NAME)
    assert POLICY.login("c3RhdGU") == f"{NAME}-login-c3RhdGU"


@pytest.mark.spec("COO-14", "SES-11")
def test_applications_on_one_host_have_different_names() -> None:
    """Ports and paths keep no cookies apart, so each of the three things that tell applications apart counts."""
    ids = {
        application_id(ISSUER, "shop", "https://example.com"),
        application_id(ISSUER, "shop", "https://example.com:8443"),
        application_id(ISSUER, "shop", "https://example.com/admin"),
        application_id(ISSUER, "admin", "https://example.com"),
        application_id(f"{ISSUER}/tenant", "shop", "https://example.com"),
        application_id(f"{ISSUER}s", "hop", "https://example.com"),
    }
    assert len(ids) == 6
    assert application_id(ISSUER, "shop", "https://example.com/") in ids


@pytest.mark.spec("COO-03")
def test_the_session_cookie_is_strict_or_lax_by_choice() -> None:
    assert CookiePolicy("abcdefgh").same_site == "Strict"
    assert CookiePolicy("abcdefgh", same_site="Lax").same_site == "Lax"
    with pytest.raises(ConfigurationError, match="Strict or Lax"):
        CookiePolicy("abcdefgh", same_site="None")


@pytest.mark.parametrize("bad", ["", "a b", "a;b", "a-b", "ä", "x" * 33])
def test_an_application_id_that_fits_in_no_name_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        CookiePolicy(bad)


@pytest.mark.spec("COO-04")
def test_a_correlation_cookie_is_lax_short_lived_and_deletable() -> None:
    name = POLICY.login("c3RhdGU")
    line = set_cookie(name, "dHJhbnNhY3Rpb24", same_site="Lax", max_age=900)
    assert line == f"{name}=dHJhbnNhY3Rpb24; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=900".encode()
    assert (
        delete_cookie(name, same_site="Lax") == f"{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0".encode()
    )


@pytest.mark.spec("RPL-03")
@pytest.mark.parametrize("same_site", ["Strict", "Lax", "None"])
def test_a_deletion_repeats_every_attribute(same_site: SameSite) -> None:
    setting, deleting = (
        line(NAME, same_site=same_site)
        for line in (lambda n, same_site: set_cookie(n, "x", same_site=same_site), delete_cookie)
    )
    assert attributes(deleting) == [*attributes(setting), "Max-Age=0"]
    assert deleting.startswith(f"{NAME}=;".encode())


HOSTILE = [
    "\r",
    "\n",
    ";",
    ",",
    " ",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2000",
    '"',
    "\\",
    "=",
    "%",
    "ä",
    "+",
    "/",
]


@pytest.mark.spec("COO-10")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_can_end_a_cookie_and_begin_a_header(hostile: str) -> None:
    for value in (hostile, f"abc{hostile}", f"{hostile}abc", f"abc{hostile}Domain=example.com"):
        with pytest.raises(ValueError, match="base64url"):
            set_cookie(NAME, value)
        with pytest.raises(ValueError, match="base64url"):
            set_cookie(f"{NAME}{value}", "abc")


@pytest.mark.spec("COO-10")
@given(st.text(max_size=30))
def test_what_is_set_is_in_our_alphabet(value: str) -> None:
    try:
        line = set_cookie(NAME, value)
    except ValueError:
        assert re.fullmatch(r"[A-Za-z0-9_-]*", value) is None or value.endswith("\n")
    else:
        assert line == f"{NAME}={value}; Path=/; Secure; HttpOnly; SameSite=Strict".encode("ascii")


@pytest.mark.spec("COO-08")
def test_a_cookie_that_browsers_would_drop_is_not_sent() -> None:
    room = COOKIE_LIMIT - len(set_cookie(NAME, ""))
    assert len(set_cookie(NAME, "x" * room)) == COOKIE_LIMIT
    with pytest.raises(CookieTooLarge, match="use a session store"):
        set_cookie(NAME, "x" * (room + 1))


# What we read


def test_a_cookie_among_others_is_read() -> None:
    found = cookies(f"theme=dark; {NAME}=dGlja2V0;lang=en".encode())
    assert found.get(NAME) == "dGlja2V0"
    assert found.get("theme") == "dark"
    assert found.get("absent") is None
    assert found.presented(NAME) and not found.presented("absent")
    assert not found.duplicated(NAME)


@pytest.mark.spec("COO-06")
@pytest.mark.parametrize(
    "header",
    [
        b"NAME=dGlja2V0",
        b" NAME=dGlja2V0 ",
        b"\tNAME\t=\tdGlja2V0\t",
        b";;NAME=dGlja2V0;;",
        b"nonsense; NAME=dGlja2V0",
        b'a="; NAME=dGlja2V0; b="',
    ],
)
def test_pairs_are_cut_at_semicolons_and_stripped_of_spaces_and_tabs(header: bytes) -> None:
    assert cookies(header.replace(b"NAME", NAME.encode())).get(NAME) == "dGlja2V0"


@pytest.mark.spec("COO-06")
@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"=NAME=evil", id="a nameless cookie whose value looks like one"),
        pytest.param(b"NAME", id="a value without a name"),
        pytest.param(b"\xe2\x80\x80NAME=evil", id="U+2000 before the name"),
        pytest.param(b"\xe2\x80\x80 NAME=evil", id="U+2000 and a space before the name"),
        pytest.param(b"\x85NAME=evil", id="NEL before the name"),
        pytest.param(b"\xa0NAME=evil", id="no-break space before the name"),
        pytest.param(b"NAME\xa0=evil", id="no-break space after the name"),
        pytest.param(b"\x0bNAME=evil", id="vertical tab before the name"),
        pytest.param(b"\x0cNAME=evil", id="form feed before the name"),
        pytest.param(b"\rNAME=evil", id="carriage return before the name"),
        pytest.param(b"\x00NAME=evil", id="NUL before the name"),
        pytest.param(b"$Version=1, NAME=evil", id="a comma does not separate"),
        pytest.param(b"theme=dark, NAME=evil", id="a comma does not separate without $Version"),
        pytest.param(b'theme="dark\\073 NAME=evil"', id="an octal escape is no semicolon"),
        pytest.param(b'"NAME"=evil', id="a quoted name"),
        pytest.param(b"%5F%5FHost-Http-coatcheck=evil; " + NAME.replace("_", "%5F").encode() + b"=evil", id="percent"),
        pytest.param(NAME.upper().encode() + b"=evil", id="another case"),
        pytest.param(NAME.encode() + b"[]=evil", id="brackets"),
        pytest.param(NAME.replace(".", "_").replace("-", "_").encode() + b"=evil", id="underscores"),
    ],
)
def test_a_name_that_the_browser_did_not_protect_is_not_ours(header: bytes) -> None:
    found = cookies(header.replace(b"NAME", NAME.encode()))
    assert found.get(NAME) is None
    assert not found.presented(NAME)
    assert not found.presented("")


@pytest.mark.spec("COO-06")
@pytest.mark.parametrize("byte", [bytes([number]) for number in range(256) if chr(number) not in " \t;="])
def test_spaces_and_tabs_are_the_only_bytes_that_are_taken_off(byte: bytes) -> None:
    """Whatever else stands at either end belongs to the name, or to the value."""
    letter = byte.decode("latin-1")
    found = cookies(byte + b"name" + byte + b"=x; value=" + byte + b"v" + byte)
    assert not found.presented("name")
    assert found.presented(f"{letter}name{letter}") == byte.isascii()
    assert found.get("value") == (f"{letter}v{letter}" if re.fullmatch(rb"[A-Za-z0-9_-]", byte) else None)


@pytest.mark.spec("COO-06")
def test_the_quote_sandwich_neither_swallows_nor_unquotes() -> None:
    """A parser that honours quotes would read everything up to the closing quote as the value of `before`."""
    found = cookies(b'$Version=1; before="; ' + NAME.encode() + b'=dGlja2V0; after=";' + b' other="quoted"')
    assert found.get(NAME) == "dGlja2V0"
    assert found.get("other") is None


@pytest.mark.spec("COO-06", "COO-10")
@pytest.mark.parametrize(
    "value", [b'"dGlja2V0"', b"dGlj a2V0", b"dGlja2V0%3D", b"dGlja2V0=", b"\xe2\x80\x80dGlja", b"a\x00b"]
)
def test_a_value_that_we_never_set_is_no_value(value: bytes) -> None:
    found = cookies(NAME.encode() + b"=" + value)
    assert found.get(NAME) is None
    assert found.presented(NAME)


@pytest.mark.spec("COO-07")
@pytest.mark.parametrize(
    "headers",
    [
        (b"NAME=first; NAME=second",),
        (b"NAME=same; NAME=same",),
        (b"NAME=first; theme=dark", b"NAME=second"),
        (b"NAME=a; NAME=b; NAME=c",),
        (b"NAME=a; NAME=",),
    ],
)
def test_cookie_tossing_two_cookies_of_one_name_are_none(headers: tuple[bytes, ...]) -> None:
    found = cookies(*(header.replace(b"NAME", NAME.encode()) for header in headers))
    assert found.get(NAME) is None
    assert found.duplicated(NAME)
    assert found.presented(NAME)


def test_all_cookie_headers_are_read_and_no_others() -> None:
    found = parse_cookies([(b"cookie", b"a=1"), (b"x-cookie", b"b=2"), (b"cookie", b"c=3"), (b"set-cookie", b"d=4")])
    assert [found.get(name) for name in "abcd"] == ["1", None, "3", None]


def test_the_correlation_cookies_of_a_browser_can_be_counted() -> None:
    one, two = POLICY.login("b25l"), POLICY.login("dHdv")
    header = f"{one}=x; {NAME}=y; {two}=z; {two}=z; theme=dark; {NAME}-login-\xe4=q".encode("latin-1")
    assert cookies(header).starting_with(f"{NAME}-login-") == [one, two]


@pytest.mark.spec("COO-06")
@given(st.lists(st.tuples(st.sampled_from([b"cookie", b"Cookie", b"host"]), st.binary(max_size=80)), max_size=4))
def test_no_bytes_make_the_parser_fail(headers: list[tuple[bytes, bytes]]) -> None:
    found = parse_cookies(headers)
    for name in (NAME, "", "\u2000", "a"):
        value = found.get(name)
        assert value is None or re.fullmatch(r"[A-Za-z0-9_-]*", value)
        assert not (found.duplicated(name) and value)
    found.starting_with("")


PIECES = st.sampled_from(
    [
        NAME.encode(),
        b"=",
        b";",
        b" ",
        b"\t",
        b'"',
        b",",
        b"\\",
        b"$Version",
        b"\xa0",
        b"\xe2\x80\x80",
        b"abc",
        b"theme",
        b"%",
    ]
)


@pytest.mark.spec("COO-06")
@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_the_parser_agrees_with_the_grammar(header: bytes) -> None:
    """Compared with the sentence of RFC 6265bis written as one regular expression over one pair."""
    pair = re.compile(rb"[ \t]*(?P<name>[^=;]*?)[ \t]*=[ \t]*(?P<value>[^;]*?)[ \t]*", re.DOTALL)
    matches = [match for piece in header.split(b";") if (match := pair.fullmatch(piece))]
    values = [match["value"] for match in matches if match["name"] == NAME.encode()]
    expected = values[0].decode("latin-1") if len(values) == 1 and re.fullmatch(rb"[A-Za-z0-9_-]*", values[0]) else None
    assert cookies(header).get(NAME) == expected
    assert cookies(header).duplicated(NAME) == (len(values) > 1)


@pytest.mark.spec("COO-06")
def test_many_different_names_are_read() -> None:
    header = b";".join(b"n%d=v" % number for number in range(50_000))
    found = cookies(header + b";" + header)
    assert found.duplicated("n49999")
    assert found.get("n0") is None


def test_the_name_of_an_application_stays_what_it_was() -> None:
    """Another derivation would log everybody out, and leave the old cookies behind."""
    name = application_id("https://idp.example.com", "shop", "https://app.example.com")
    assert name == application_id("https://idp.example.com", "shop", "https://app.example.com/") == "mbuktljo"
    assert name != application_id("https://idp.example.com/", "shop", "https://app.example.com")
    assert name != application_id("https://idp.example.com", "shop", "/https://app.example.com")
    policy = CookiePolicy("ABCxyz09")
    assert (policy.session, policy.logins) == (
        "__Host-Http-coatcheck-ABCxyz09",
        "__Host-Http-coatcheck-ABCxyz09-logins",
    )


@pytest.mark.spec("COO-08")
@pytest.mark.parametrize("same_site", ["Strict", "Lax", "None"])
def test_a_cookie_takes_4096_bytes_and_not_one_more(same_site: SameSite) -> None:
    name = CookiePolicy("abcdefgh").session
    room = room_in_cookie(name, same_site=same_site)
    assert len(set_cookie(name, "a" * room, same_site=same_site)) == COOKIE_LIMIT == 4096
    with pytest.raises(CookieTooLarge):
        set_cookie(name, "a" * (room + 1), same_site=same_site)
    assert b"SameSite=Strict" in delete_cookie(name)
