"""Cookies: read letter by letter, never believed when others have planted them, and in time that grows as they do."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.sessions import CookiePolicy, parse_cookies
from coatcheck.sessions.chunks import chunk_names, join
from tests.fuzz.cookie_models import (
    MAN_IN_THE_MIDDLE,
    SCRIPT,
    SIBLING,
    Planted,
    Planter,
    letter_by_letter,
    plant,
    sent,
    work,
)

NAME = CookiePolicy("abcdefgh").session
OURS = Planted(NAME.encode(), b"dGlja2V0", b"", b"/")

ORDINARY = [NAME.encode(), b"=", b"=", b";", b";", b" ", b"\t", b"a", b"theme", b"dGlja2V0", b"A-_9", b"+", b","]
QUOTED = [b"$Version=1", b'"', b'\\"', b"\\073", b"%3B", b"%5F"]
BLANK = [b"\x00", b"\x0b", b"\x0c", b"\r", b"\n", b"\x7f", b"\x85", b"\xa0", b"\xe2\x80\x80", b"\xff"]
PIECES = st.sampled_from([*ORDINARY, *QUOTED, *BLANK])
HEADERS = st.lists(st.lists(PIECES, max_size=12).map(b"".join), min_size=1, max_size=3)
ATTRIBUTES = st.sampled_from(
    [b"; Domain=example.com", b"; Domain=example.com", b"; Secure", b"; HttpOnly", b"; Path=/", b"; path=/bff"]
)
LINES = st.builds(
    lambda before, after: b"".join([*before, *after]),
    st.lists(PIECES, max_size=6),
    st.lists(ATTRIBUTES, max_size=4),
)
PLANTERS = st.sampled_from([SIBLING, MAN_IN_THE_MIDDLE, SCRIPT])


@pytest.mark.spec("COO-06", "COO-07", "COO-10")
@given(HEADERS)
@example([b"\t" + NAME.encode() + b" = dGlja2V0 ", b"theme=dark"])
@example([NAME.encode() + b"=dGlja2V0", NAME.encode() + b"=b3RoZXI"])
@example([b"=" + NAME.encode() + b"=dGlja2V0"])
def test_cookies_are_read_letter_by_letter(headers: list[bytes]) -> None:
    found = parse_cookies([(b"cookie", header) for header in headers])
    pairs = letter_by_letter(headers)
    names = {name for name, _ in pairs}
    for name in {NAME.encode(), b"theme", b"a", *names}:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            continue
        values = [value for other, value in pairs if other == name]
        ours = len(values) == 1 and re.fullmatch(rb"[A-Za-z0-9_-]*", values[0])
        assert found.get(text) == (values[0].decode() if ours else None)
        assert found.presented(text) == bool(values)
        assert found.duplicated(text) == (len(values) > 1)
    spelled = {name.decode() for name in names if re.fullmatch(rb"[A-Za-z0-9_.-]+", name)}
    assert sorted(found.starting_with("")) == sorted(spelled)


@pytest.mark.spec("COO-06", "COO-07")
@given(st.lists(st.tuples(LINES, PLANTERS), max_size=5), st.booleans())
@example([(b"\xa0" + NAME.encode() + b"=evil; Domain=example.com", SIBLING)], False)
@example([(b"\xe2\x80\x80" + NAME.encode() + b"=evil", SCRIPT)], True)
@example([(b"=" + NAME.encode() + b"=evil; Domain=example.com", SIBLING)], False)
@example([(b"theme=dark; Domain=example.com", SIBLING), (b"theme=light", MAN_IN_THE_MIDDLE)], True)
def test_cookie_tossing_nothing_that_others_plant_in_a_browser_is_read_as_ours(
    lines: list[tuple[bytes, Planter]], own: bool
) -> None:
    kept = [cookie for line, planter in lines if (cookie := plant(line, planter)) is not None]
    jar = {(cookie.name, cookie.domain, cookie.path): cookie for cookie in ([OURS] if own else []) + kept}
    found = parse_cookies([(b"cookie", sent(jar.values()))])
    assert found.get(NAME) == ("dGlja2V0" if own else None)


@pytest.mark.parametrize(
    ("line", "planter", "is_kept"),
    [
        (b"theme=dark; Domain=example.com", SIBLING, True),
        (b"theme=dark", SIBLING, False),
        (NAME.encode() + b"=evil; Secure; HttpOnly; Domain=example.com", SIBLING, False),
        (NAME.encode() + b"=evil; Secure; HttpOnly", MAN_IN_THE_MIDDLE, False),
        (NAME.encode() + b"=evil; Secure", SCRIPT, False),
        (NAME.encode() + b"=evil; Secure; HttpOnly", SCRIPT, False),
        (b"=" + NAME.encode() + b"=evil", SCRIPT, False),
        (NAME.upper().encode() + b"=evil; Secure", SCRIPT, False),
        (b"__Host-x=1; Secure", SCRIPT, True),
        (b"__Host-x=1; Secure; Path=/bff", SCRIPT, False),
        (b"__Secure-x=1", SCRIPT, False),
        (NAME.encode() + b"=ours; Secure; HttpOnly", Planter(sibling=False, secure_origin=True, script=False), True),
        (b"a=b\x00", SCRIPT, False),
    ],
)
def test_the_browser_of_these_tests_guards_names_as_real_ones_do(line: bytes, planter: Planter, is_kept: bool) -> None:
    assert (plant(line, planter) is not None) == is_kept


@pytest.mark.spec("COO-09")
@given(st.lists(st.lists(st.sampled_from(["0", "1", "2", "3", "4", "9999", "-", "_", "a"]), max_size=4).map("".join)))
@example(["1a"])
@example(["2a", "b"])
@example(["3", "", "c", "d"])
def test_planted_chunks_are_read_as_many_as_the_first_one_says(values: list[str]) -> None:
    names = chunk_names(NAME)
    present = dict(zip(names, values, strict=False))
    header = "; ".join(f"{name}={value}" for name, value in present.items())
    said = present.get(NAME, "")[:1]
    there = int(said) if said in ("1", "2", "3") else 0
    whole = 0 < there <= len(present)
    expected = "".join(present[name] for name in names[:there])[1:] if whole else None
    assert join(names, parse_cookies([(b"cookie", header.encode())])) == expected


@pytest.mark.spec("COO-06")
@pytest.mark.parametrize(
    "piece", [b";", b"=", b"a=b;", b'"', b'a="', b"\\", b" ", b" ;", b"\t=", b"$Version=1;", b"x,", b" a = b ; "]
)
def test_the_work_of_reading_cookies_grows_with_their_length_only(piece: bytes) -> None:
    """Eight times the length is eight times the bytes that are gone through, not sixty-four (CVE-2024-7592)."""
    short, long = (work((piece * length)[:length]) for length in (5_000, 40_000))
    assert 5_000 <= short <= 8 * 5_000
    assert long <= 8.1 * short


@pytest.mark.spec("COO-06")
def test_the_work_of_many_names_grows_with_their_length_only() -> None:
    short, long = (work(b";".join(b"n%06d=v" % number for number in range(count))) for count in (500, 4_000))
    assert long <= 8.1 * short
