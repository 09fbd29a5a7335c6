from __future__ import annotations

import re

from opentelemetry import trace

from coatcheck.telemetry import token_requests, trace_id


def test_without_a_span_a_trace_id_is_random() -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id())
    assert trace_id() != trace_id()


def test_within_a_span_it_is_the_one_of_the_span() -> None:
    context = trace.SpanContext(trace_id=0xABC, span_id=1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace_id() == "00000000000000000000000000000abc"


def test_instruments_work_without_an_sdk() -> None:
    token_requests.add(1, {"grant": "refresh_token", "outcome": "ok"})
