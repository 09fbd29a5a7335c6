"""What a browser is told when something fails, and the line that goes with it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.bff.answers import Answer, problem_answer, redirect
from coatcheck.bff.pages import hop, message_page, problem_page
from coatcheck.bff.problems import CODES, EXPECTED, log_problem, printable, problem, problem_for, send_problem
from coatcheck.codec import decode_object
from coatcheck.errors import (
    CoatcheckError,
    InvalidIDToken,
    LoginRequired,
    OAuthError,
    SessionGone,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
    UnknownSealKey,
)

TRACE = "0" * 32


async def sent(app: Any, **scope: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await app({"type": "http", "method": "GET", **scope}, None, send)
    return messages


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (LoginRequired("secret"), 401, "session_missing"),
        (LoginRequired("secret", code="session_expired"), 401, "session_expired"),
        (LoginRequired("secret", code="a provider's own word"), 401, "login_required"),
        (SessionGone("secret"), 401, "session_ended"),
        (StoreUnavailable("secret"), 503, "store_unavailable"),
        (UnknownSealKey("secret"), 503, "store_unavailable"),
        (TokenUnavailable("secret"), 503, "token_unavailable"),
        (TransportError("secret", sent=True), 503, "token_unavailable"),
        (OAuthError("secret", "secret"), 503, "token_unavailable"),
        (InvalidIDToken("secret"), 503, "token_unavailable"),
    ],
)
def test_every_error_has_its_answer_and_nothing_of_it_is_in_there(
    error: CoatcheckError, status: int, code: str
) -> None:
    refusal = problem_for(error, login_url="/bff/login")
    assert (refusal.status, refusal.code) == (status, code)
    answer = problem_answer(refusal, trace_id=TRACE)
    assert b"secret" not in answer.body and b"secret" not in repr(answer.headers).encode()
    headers = dict(answer.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"coatcheck-error"] == code.encode()
    assert headers[b"cache-control"] == b"no-store"
    assert (b"retry-after" in headers) == (status == 503)
    document = decode_object(answer.body)
    assert {"title", "status", "code", "trace_id"} <= set(document)
    assert ("login_url" in document) == (status == 401)


def test_every_code_has_a_status_and_one_sentence() -> None:
    for code, (status, title) in CODES.items():
        assert 400 <= status < 600 and title[0].isupper() and not title.endswith("."), code
    assert set(CODES) >= EXPECTED


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    refusal = problem("token_unavailable", retry_after=timedelta(milliseconds=1200))
    assert dict(problem_answer(refusal, trace_id=TRACE).headers)[b"retry-after"] == b"2"
    refusal = problem("token_unavailable", retry_after=timedelta(milliseconds=1))
    assert dict(problem_answer(refusal, trace_id=TRACE).headers)[b"retry-after"] == b"1"


async def test_a_refusal_carries_the_cookies_that_are_due() -> None:
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await send_problem(send, problem("session_ended"), trace_id=TRACE, set_cookies=[b"a=1", b"b=2"])
    start, body = messages
    assert [value for name, value in start["headers"] if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert decode_object(body["body"])["trace_id"] == TRACE


@pytest.mark.parametrize(("code", "level"), [("session_missing", "INFO"), ("csrf_header_missing", "WARNING")])
def test_one_line_with_code_cause_remedy_and_trace_id(code: str, level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="coatcheck")
    log_problem(problem(code), cause="It is so", remedy="Do this.", trace_id=TRACE)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == f"{code} ({CODES[code][0]}): It is so. Do this. [trace_id={TRACE}]"
    assert record.__dict__["code"] == code and record.__dict__["trace_id"] == TRACE


@pytest.mark.spec("LOG-04")
@pytest.mark.parametrize("forger", ["\r", "\n", "\x1b", "\x00", "\x85", "\u2028", "\u202e", "\x7f"])
def test_log_injection_what_could_forge_a_line_is_replaced(forger: str) -> None:
    assert printable(f"a{forger}b") == "a?b"
    assert len(printable("a" * 10_000)) < 700


async def test_head_has_no_body_and_a_websocket_is_closed() -> None:
    start, body = await sent(message_page("Title", "Text"), method="HEAD")
    assert start["status"] == 200 and body["body"] == b""
    assert await sent(Answer(403), type="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_a_hop_shows_nothing_and_loads_nothing() -> None:
    answer = hop("/a?b=\"><script>&c='1")
    headers = dict(answer.headers)
    assert b"<script>" not in answer.body and b"url=/a?b=&quot;&gt;" in answer.body
    policy = headers[b"content-security-policy"]
    assert policy.startswith(b"default-src 'none'; style-src 'sha256-") and b"script" not in policy
    assert headers[b"cache-control"] == b"no-store"


@pytest.mark.spec("HDR-04")
def test_whatever_stands_on_a_page_is_text() -> None:
    evil = "<script>alert(1)</script>"
    for page in (
        message_page(evil, evil, link=('"><script>', evil)),
        problem_page(problem("login_failed"), trace_id=evil, hint=evil, link=(evil, evil), reason=(evil, evil)),
    ):
        assert b"<script" not in page.body
        assert b"style-src 'sha256-" in dict(page.headers)[b"content-security-policy"]
        assert dict(page.headers)[b"content-length"] == b"%d" % len(page.body)


def test_a_location_is_ascii_or_an_error_of_ours() -> None:
    with pytest.raises(UnicodeEncodeError):
        redirect("/größe")
