from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CookieTooLarge
from coatcheck.sessions import CookiePolicy, parse_cookies
from coatcheck.sessions.chunks import chunk_names, join, split
from coatcheck.sessions.cookie import COOKIE_LIMIT, room_in_cookie
from tests.sessions.samples import POLICY, Browser

NAMES = chunk_names(POLICY.session)
ROOM = min(room_in_cookie(name, same_site="Strict") for name in NAMES)


def in_a_browser(text: str) -> Browser:
    browser = Browser()
    browser.receive(split(NAMES, text, same_site="Strict"))
    return browser


@pytest.mark.spec("COO-08", "COO-09")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("difference", [-2, -1, 0])
def test_texts_around_every_boundary_come_back(count: int, difference: int) -> None:
    """One character is for the number of chunks, so `count * ROOM - 1` characters just fit."""
    text = "x" * (count * ROOM - 1 + difference)
    lines = split(NAMES, text, same_site="Strict")
    assert all(len(line) <= COOKIE_LIMIT for line in lines)
    assert sum(b"Max-Age=0" not in line for line in lines) == count
    assert join(NAMES, in_a_browser(text).cookies()) == text


@pytest.mark.spec("COO-09")
@pytest.mark.parametrize("count", [1, 2])
def test_one_character_more_takes_one_more_cookie(count: int) -> None:
    lines = split(NAMES, "x" * (count * ROOM), same_site="Strict")
    assert sum(b"Max-Age=0" not in line for line in lines) == count + 1


@pytest.mark.spec("COO-09")
def test_more_than_three_cookies_are_refused_with_what_to_do() -> None:
    with pytest.raises(CookieTooLarge, match="use a session store"):
        split(NAMES, "x" * (3 * ROOM), same_site="Strict")


@pytest.mark.spec("COO-09")
def test_a_smaller_session_removes_the_chunks_of_a_larger_one() -> None:
    browser = in_a_browser("x" * 3 * (ROOM - 1))
    assert len(browser.jar) == 3
    browser.receive(split(NAMES, "small", same_site="Strict"))
    assert list(browser.jar) == [POLICY.session]
    assert join(NAMES, browser.cookies()) == "small"


@pytest.mark.spec("COO-09")
def test_chunks_left_over_by_a_lost_deletion_do_no_harm() -> None:
    browser = in_a_browser("small")
    browser.jar[NAMES[2]] = "stale"
    assert join(NAMES, browser.cookies()) == "small"


@pytest.mark.spec("COO-09")
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_chunk_is_no_text(missing: int) -> None:
    browser = in_a_browser("x" * 3 * (ROOM - 1))
    del browser.jar[NAMES[missing]]
    assert join(NAMES, browser.cookies()) is None


@pytest.mark.spec("COO-09")
@pytest.mark.parametrize("first", ["", "0abc", "4abc", "9abc", "-1abc", "99999999abc", "abc", "_"])
def test_a_hostile_number_of_chunks_costs_nothing(first: str) -> None:
    cookies = parse_cookies([(b"cookie", f"{NAMES[0]}={first}; {NAMES[1]}=abc; {NAMES[2]}=abc".encode())])
    assert join(NAMES, cookies) is None


@pytest.mark.spec("COO-09")
def test_no_more_chunks_are_read_than_there_are_names() -> None:
    cookies = parse_cookies([(b"cookie", "; ".join(f"{name}=3abc" for name in NAMES).encode())])
    assert join(NAMES[:2], cookies) is None
    assert join(NAMES, cookies) == "abc3abc3abc"


def test_the_names_of_chunks_stay_what_they_were() -> None:
    """Sessions of a former version are read, and deleted, by these names."""
    assert chunk_names("a") == ("a", "a.1", "a.2")


@pytest.mark.spec("RPL-03")
def test_every_chunk_is_set_and_deleted_with_all_attributes() -> None:
    lines = split(chunk_names(CookiePolicy("abcdefgh", same_site="Lax").session), "small", same_site="Lax")
    assert len(lines) == 3
    assert all(b"; Path=/; Secure; HttpOnly; SameSite=Lax" in line for line in lines)
    assert [line.endswith(b"; Max-Age=0") for line in lines] == [False, True, True]


@given(st.integers(0, 3 * ROOM - 1))
def test_any_length_up_to_the_limit_comes_back(length: int) -> None:
    text = ("0123456789abcdef" * 800)[:length]
    assert join(NAMES, in_a_browser(text).cookies()) == text
