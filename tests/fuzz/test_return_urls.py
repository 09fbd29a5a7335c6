"""No accepted return URL leaves our origin, in the eyes of a browser, of Node.js and of `urllib.parse`."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.fuzz.return_urls import accepted, chromium, complaints, node, python


@pytest.mark.browser
@pytest.mark.spec("RTU-02", "RTU-03", "RTU-04", "RTU-05", "RTU-06", "RTU-08", "RTU-09", "RTU-10")
def test_three_parsers_stay_on_our_origin_for_whatever_is_accepted(page: Page) -> None:
    pairs = list(accepted(7, 100_000))
    assert len(pairs) > 10_000
    assert complaints(pairs, {"Chromium": chromium(page), "Node.js": node, "urllib": python}) == []


@pytest.mark.browser
@pytest.mark.spec("RTU-10")
@pytest.mark.parametrize("url", ["//evil.example", "/\\evil.example", "/\t/evil.example", "/a/../b", "/%2e%2e/b"])
def test_the_parsers_would_complain_of_what_leads_elsewhere(url: str, page: Page) -> None:
    for name, parse in {"Chromium": chromium(page), "Node.js": node}.items():
        assert any(complaint.endswith(name) for complaint in complaints([(url, url)], {name: parse}))


@pytest.mark.spec("RTU-09", "RTU-10")
@pytest.mark.parametrize("url", ["/bff/logout", "/store/BFF", "/%2562ff/x", "/a b", "/a\u00fc", "/" + "a" * 2000])
def test_what_is_ours_or_no_line_would_be_complained_of(url: str) -> None:
    assert complaints([(url, url)], {})


def test_another_fragment_would_be_complained_of() -> None:
    assert complaints([("/a#b", "/a#c")], {}) and not complaints([("/a#\u00fc", "/a#%C3%BC")], {"urllib": python})
