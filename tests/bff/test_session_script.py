"""`/bff/session.js`: one file for everybody. What it does is tried in a browser (`tests/scenarios`)."""

from __future__ import annotations

from coatcheck.bff import event_stream
from tests.bff.world import LOCAL, world


def test_it_is_a_module_that_is_the_same_for_everybody_and_asks_for_nobody() -> None:
    with world() as w:
        user, stranger = w.logged_in(), w.browser()
        loads = w.store.loads
        answers = [who.fetch("/bff/session.js?import", csrf=False) for who in (user, stranger)]
        assert w.store.loads == loads
        assert answers[0].content == answers[1].content
        assert b"export function watchSession(" in answers[0].content
        for answer in answers:
            assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "set-cookie" not in answer.headers


def test_it_is_plain_text_that_a_strict_policy_lets_through() -> None:
    with world() as w:
        text = w.browser().fetch(f"{LOCAL}/bff/session.js").text
    assert text.isascii()
    assert not [word for word in ("eval(", "Function(", "innerHTML", "http://", "https://") if word in text]


def test_it_warns_at_the_same_time_as_the_server() -> None:
    with world() as w:
        text = w.browser().fetch("/bff/session.js").text
    assert f"const WARN_BEFORE = {event_stream.WARN_BEFORE:.0f};" in text
