"""A login that never comes back: the only sign, on our side, of a redirect URI that is not registered."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.bff.world import PUBLIC, warnings, world

SOON, LATER = timedelta(seconds=3), timedelta(seconds=30)


def said(caplog: pytest.LogCaptureFixture) -> int:
    return sum(line.startswith("login_unanswered") for line in warnings(caplog))


def test_it_is_named_when_the_same_browser_tries_again_and_then_not_for_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world(public_url=PUBLIC) as w:
        browser = w.browser()
        for _ in range(3):
            w.callback(browser)
            w.clock.forward(LATER)
        assert said(caplog) == 1
        (line,) = warnings(caplog)
        assert "30 s ago" in line and f"register exactly {PUBLIC}/bff/callback" in line
        w.clock.forward(LATER)
        w.callback(browser)
        assert said(caplog) == 2


def test_several_tabs_are_no_sign(caplog: pytest.LogCaptureFixture) -> None:
    with world(public_url=PUBLIC) as w:
        browser = w.browser()
        w.callback(browser)
        w.clock.forward(SOON)
        w.callback(browser)
        assert said(caplog) == 0


def test_an_answer_in_another_browser_since_then_shows_that_answers_arrive(caplog: pytest.LogCaptureFixture) -> None:
    with world(public_url=PUBLIC) as w:
        hesitant, quick = w.browser(), w.browser()
        w.callback(hesitant)
        w.clock.forward(SOON)
        quick.click(w.callback(quick))
        w.clock.forward(LATER)
        w.callback(hesitant)
        assert said(caplog) == 0


def test_who_is_logged_in_may_begin_logins_and_leave_them(caplog: pytest.LogCaptureFixture) -> None:
    with world(public_url=PUBLIC) as w:
        browser = w.logged_in()
        for _ in range(2):
            w.clock.forward(LATER)
            w.callback(browser, path="/bff/login?prompt=login")
        assert said(caplog) == 0
