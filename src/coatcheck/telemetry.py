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


# Attributes have few values each: kinds, outcomes, issuers and profiles, never a user, a session or a key.

renewals = _meter.create_counter(
    "coatcheck.renewals",
    description="Renewals of users' tokens that came to an end, by outcome: renewed, found (somebody else did it), "
    "or the kind of verdict that refused (ended, needs_user, misconfigured, transient)",
    unit="{renewal}",
)
waiters = _meter.create_histogram(
    "coatcheck.renewal.waiters",
    description="Callers that waited for one renewal; none when it went on in the background",
    unit="{caller}",
    explicit_bucket_boundaries_advisory=(0, 1, 2, 5, 10, 25, 50, 100, 250, 1000),
)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
wait_time = _meter.create_histogram(
    "coatcheck.renewal.wait",
    description="How long a caller waited for a token to be renewed",
    unit="s",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
lease_wait = _meter.create_histogram(
    "coatcheck.renewal.lease_wait",
    description="How long a renewal waited for its lease: other processes were renewing the same grant",
    unit="s",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
in_doubt = _meter.create_counter(
    "coatcheck.renewal.in_doubt",
    description="Requests whose answer nobody knows, by decision and rotation profile",
    unit="{decision}",
)
verdicts = _meter.create_counter(
    "coatcheck.token_verdicts",
    description="Failed token requests, by what they mean: ended, needs_user, misconfigured, transient",
    unit="{verdict}",
)
circuit_changes = _meter.create_counter(
    "coatcheck.circuit",
    description="Times that requests to an authorization server were suspended (open) or allowed again (closed), by "
    "state, reach and issuer",
    unit="{change}",
)
logout_tokens = _meter.create_counter(
    "coatcheck.logout_tokens",
    description="Logout tokens that arrived, by outcome: accepted, refused (whoever sent it), failed (it was good, or "
    "nobody could tell, and the sessions live on)",
    unit="{token}",
)
unchecked_replays = _meter.create_counter(
    "coatcheck.logout_tokens.unchecked_replays",
    description="Times that nobody could tell, or could write down, whether a logout token had been used before",
    unit="{failure}",
)


def trace_id() -> str:
    """Return the trace id of the current span, or a random one: what a log line and an answer have in common."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return trace.format_trace_id(context.trace_id)
    return secrets.token_hex(16)
