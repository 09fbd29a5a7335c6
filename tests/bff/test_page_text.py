"""Text from outside, wherever it reaches a page of ours: it stays text, and outside development mode it stays away."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote, urlencode

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.bff.pages import hop, message_page, problem_page
from coatcheck.bff.problems import problem
from tests.bff.world import LOCAL, PUBLIC, World, query_of, world

MARK = "x-mark"
PIECES = (
    *("<", ">", '"', "'", "&", "&lt;", "&#60;", "`", "=", "/", "//", ";", " ", "\\", "\x00", "\r\n", "\x1b[2J"),
    *("<x-mark a=1>", "</title>", "</style>", "</svg>", "<!--", "-->", "]]>", "<script>", "javascript:", 'x" onload="'),
    *("\u2028", "\u202e", "\ufeff", "\xe9", "\U0001f9e5", "url=", "http-equiv"),
)
outside_text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=12).map(
    lambda pieces: MARK + "".join(pieces).encode("utf-8", "ignore").decode()
)

CARD = ["html", "head", "meta", "meta", "meta", "title", "style", "body", "main", "svg", "path", "path", "h1"]
"""The elements with which a page of ours begins. Then: a paragraph, reasons, a button, and what to quote."""
REST = {"p": 1, "dl": 1, "dt": 2, "dd": 2, "a": 1, "footer": 1, "code": 1}
PASSING = ["html", "head", "meta", "meta", "meta", "title", "meta", "style", "body", "a"]


class Elements(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.odd = ""
        """Comments, declarations and the like."""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.names[-1:] != ["style"]:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.odd += data

    def handle_pi(self, data: str) -> None:
        self.odd += data

    def unknown_decl(self, data: str) -> None:
        self.odd += data


def check_card(html: str, *, links_home: bool = True) -> Elements:
    """It has the elements of a card and no other, and its link leads somewhere on this site."""
    elements = Elements(html)
    rest = elements.names[len(CARD) :]
    assert elements.names[: len(CARD)] == CARD
    assert {name: rest.count(name) for name in rest if rest.count(name) > REST.get(name, 0)} == {}
    assert not elements.odd
    known = {"lang", "charset", "name", "content", "viewbox", "aria-hidden", "d", "class", "href"}
    assert {name for name, _ in elements.attributes} <= known
    if links_home:
        check_links(elements)
    return elements


def check_links(elements: Elements) -> None:
    links = [value for name, value in elements.attributes if name == "href"]
    assert [link for link in links if not link.startswith("/") or link[1:2] in ("/", "\\")] == []


@pytest.mark.spec("HDR-04")
@settings(max_examples=200, deadline=None)
@given(outside_text, outside_text)
def test_whatever_a_page_is_made_of_it_is_text(one: str, two: str) -> None:
    card = check_card(message_page(one, two, link=(one, two)).body.decode(), links_home=False)
    assert ("href", one.replace("\r\n", "\n")) in [
        (name, value.replace("\r\n", "\n")) for name, value in card.attributes
    ]
    refusal = problem_page(problem("login_failed"), trace_id=one, hint=two, link=("/", one), reason=(one, two))
    assert MARK in check_card(refusal.body.decode()).text
    passing = Elements(hop(one).body.decode())
    assert passing.names == PASSING and not passing.odd
    assert [name for name, _ in passing.attributes if name not in ("class", "href")] == [
        *("lang", "charset", "name", "content", "name", "content", "http-equiv", "content")
    ]


@pytest.fixture(scope="module", params=[LOCAL, PUBLIC], ids=["development", "production"])
def shop(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(public_url=request.param) as w:
        yield w


@pytest.fixture(scope="module")
def under_way(shop: World) -> tuple[str, dict[str, str]]:
    """The cookie of a browser that is just logging in, and the parameters with which it comes back."""
    browser = shop.browser()
    parameters = query_of(shop.callback(browser))
    del parameters["code"]
    return browser.cookies.header(httpx2.URL(shop.public_url), initiator=None), parameters


PLACES = {
    "return URL of a login": ("/bff/login", "returnUrl"),
    "prompt": ("/bff/login", "prompt"),
    "return URL of a logout": ("/bff/logout", "returnUrl"),
    "sid": ("/bff/logout", "sid"),
    "state": ("/bff/callback", "state"),
    "error": ("/bff/callback", "error"),
    "what the error means": ("/bff/callback", "error_description"),
}


@pytest.mark.spec("HDR-04")
@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=40, deadline=None)
@given(text=outside_text)
def test_what_a_request_says_is_text_in_development_and_nowhere_else(
    shop: World, under_way: tuple[str, dict[str, str]], place: str, text: str
) -> None:
    path, name = PLACES[place]
    cookie, parameters = under_way
    in_an_answer = {**parameters, "error": "access_denied", name: text}
    parameters = in_an_answer if name.startswith("error") else {name: text, "code": "c"}
    answer = shop.transport.handle_request(
        httpx2.Request(
            "GET",
            f"{shop.public_url}{path}?{urlencode(parameters)}",
            headers={"sec-fetch-mode": "navigate", "sec-fetch-site": "same-origin", "cookie": cookie},
        )
    )
    if name == "state":  # starts over, by a hop that says nothing of it
        assert Elements(answer.text).names == PASSING and MARK not in answer.text
    else:
        shown = MARK in check_card(answer.text).text  # what looks like a secret is left out in development, too
        assert not shown or (shop.bff.development and name != "sid")
    assert not [value for value in answer.headers.values() if MARK in value]


@pytest.mark.spec("HDR-04")
@settings(max_examples=60, deadline=None)
@given(text=outside_text)
def test_the_address_of_a_page_is_text_where_it_is_passed_on(shop: World, text: str) -> None:
    answer = shop.transport.handle_request(
        httpx2.Request(
            "GET",
            f"{shop.public_url}/page?q={quote(text, safe='<>&;=/?:@')}",
            headers={"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"},
        )
    )
    elements = Elements(answer.text)
    assert elements.names == PASSING and not elements.odd
    check_links(elements)
    [target] = [value for name, value in elements.attributes if name == "content" and value.startswith("0;url=")]
    assert target.startswith("0;url=/")
