"""Metrics and trace ids through the OpenTelemetry API. Without an SDK they cost nothing and go nowhere."""

from __future__ import annotations

import secrets

from opentelemetry import metrics, trace

# Instruments made at import are proxies: they begin to work when an application installs an SDK, even later.
_meter = metrics.get_meter("coatcheck")

token_requests = _meter.create_counter(
    "coatcheck.token_requests",
    description="Requests to token endpoints, by grant and outcome",
    unit="{request}",
)


def trace_id() -> str:
    """Return the trace id of the current span, or a random one: what a log line and an answer have in common."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return trace.format_trace_id(context.trace_id)
    return secrets.token_hex(16)
