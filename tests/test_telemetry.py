from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import pytest
from opentelemetry import trace

from coatcheck import telemetry
from coatcheck.telemetry import token_requests, trace_id
from tests.house import module_files, parse


def test_without_a_span_a_trace_id_is_random() -> None:
    assert re.fullmatch("[0-9a-f]{32}", trace_id())
    assert trace_id() != trace_id()


def test_within_a_span_it_is_the_one_of_the_span() -> None:
    context = trace.SpanContext(trace_id=0xABC, span_id=1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace_id() == "00000000000000000000000000000abc"


def test_instruments_work_without_an_sdk() -> None:
    token_requests.add(1, {"grant": "refresh_token", "outcome": "ok"})
    telemetry.renewals.add(1, {"outcome": "renewed"})
    telemetry.wait_time.record(0.25)


APPLICATION = """
import json
from coatcheck import telemetry
from opentelemetry import metrics

made, measured = {}, []

class Instrument:
    def __init__(self, kind, name, unit):
        self.name = name
        made[name] = [kind, unit]

    def add(self, amount, attributes=None, context=None):
        measured.append([self.name, amount, attributes])

    record = add

class Meter(metrics.NoOpMeter):
    def create_counter(self, name, unit="", description=""):
        return Instrument("counter", name, unit)

    def create_histogram(self, name, unit="", description="", **advice):
        return Instrument("histogram", name, unit)

class MeterProvider(metrics.NoOpMeterProvider):
    def get_meter(self, name, *rest, **more):
        return Meter(name)

metrics.set_meter_provider(MeterProvider())  # later than the import of coatcheck, as in most applications
telemetry.renewals.add(1, {"outcome": "renewed"})
telemetry.waiters.record(200)
telemetry.wait_time.record(0.25)
telemetry.lease_wait.record(0.02)
telemetry.in_doubt.add(1, {"decision": "send_again", "profile": "none"})
telemetry.verdicts.add(1, {"kind": "transient"})
telemetry.circuit_changes.add(1, {"state": "open", "reach": "issuer", "issuer": "https://issuer.example"})
telemetry.logout_tokens.add(1, {"outcome": "refused"})
telemetry.unchecked_replays.add(1)
print(json.dumps([made, measured]))
"""
"""Runs in a process of its own: a meter provider is installed once and for all."""


def test_what_is_measured_reaches_a_meter_provider_that_is_installed_later() -> None:
    finished = subprocess.run([sys.executable, "-c", APPLICATION], capture_output=True, text=True, check=True)
    made, measured = json.loads(finished.stdout)
    assert made == {
        "coatcheck.token_requests": ["counter", "{request}"],
        "coatcheck.renewals": ["counter", "{renewal}"],
        "coatcheck.renewal.waiters": ["histogram", "{caller}"],
        "coatcheck.renewal.wait": ["histogram", "s"],
        "coatcheck.renewal.lease_wait": ["histogram", "s"],
        "coatcheck.renewal.in_doubt": ["counter", "{decision}"],
        "coatcheck.token_verdicts": ["counter", "{verdict}"],
        "coatcheck.circuit": ["counter", "{change}"],
        "coatcheck.logout_tokens": ["counter", "{token}"],
        "coatcheck.logout_tokens.unchecked_replays": ["counter", "{failure}"],
    }
    assert measured == [
        ["coatcheck.renewals", 1, {"outcome": "renewed"}],
        ["coatcheck.renewal.waiters", 200, None],
        ["coatcheck.renewal.wait", 0.25, None],
        ["coatcheck.renewal.lease_wait", 0.02, None],
        ["coatcheck.renewal.in_doubt", 1, {"decision": "send_again", "profile": "none"}],
        ["coatcheck.token_verdicts", 1, {"kind": "transient"}],
        [
            "coatcheck.circuit",
            1,
            {"state": "open", "reach": "issuer", "issuer": "https://issuer.example"},
        ],
        ["coatcheck.logout_tokens", 1, {"outcome": "refused"}],
        ["coatcheck.logout_tokens.unchecked_replays", 1, None],
    ]


ATTRIBUTES = {"grant", "outcome", "decision", "profile", "kind", "state", "reach", "issuer"}
"""What measurements are told apart by. Each has few values: words of ours, and the issuers of the configuration."""


@pytest.mark.spec("LOG-06")
def test_nothing_that_grows_with_users_or_requests_tells_measurements_apart() -> None:
    instruments = {name for name, value in vars(telemetry).items() if hasattr(value, "add") or hasattr(value, "record")}
    found = set()
    for module in module_files():
        for node in ast.walk(parse(module)):
            match node:
                case ast.Call(func=ast.Attribute(attr="add" | "record"), args=[_, ast.Dict(keys=keys)]):
                    assert all(isinstance(key, ast.Constant) for key in keys)
                    found |= {key.value for key in keys if isinstance(key, ast.Constant)}
    assert found == ATTRIBUTES
    assert instruments
