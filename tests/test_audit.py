"""The audit log: one printable line and one mapping for each event, with fixed names and nothing secret."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.audit import AUDIT_LOGGER, EVENTS, audit, session_reference, user_reference
from tests.house import module_files, parse

PAGE = Path(__file__).parents[1] / "docs" / "sessions.md"


@pytest.fixture
def listening(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    return caplog


@pytest.mark.spec("LOG-07")
def test_an_event_is_a_line_for_people_and_a_mapping_for_machines(listening: pytest.LogCaptureFixture) -> None:
    audit("session_ended", reason="logout", iss="https://idp.example.com", session="9f2c51aa04be", user=None)
    (record,) = listening.records
    fields = {"reason": "logout", "iss": "https://idp.example.com", "session": "9f2c51aa04be"}
    assert record.getMessage() == "session_ended reason=logout iss=https://idp.example.com session=9f2c51aa04be"
    assert vars(record)["audit"] == {"event": "session_ended", **fields}
    assert record.levelname == "INFO"


@pytest.mark.spec("LOG-07")
def test_what_somebody_had_better_look_at_is_a_warning(listening: pytest.LogCaptureFixture) -> None:
    audit("refresh_token_reuse_suspected")
    assert listening.records[0].levelname == "WARNING"


def test_it_costs_nothing_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, AUDIT_LOGGER)
    audit("logged_in")
    assert caplog.records == []


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.spec("LOG-04", "LOG-07")
@given(st.text())
def test_log_injection_no_value_makes_another_line_or_another_field(value: str) -> None:
    logger, lines = logging.getLogger(AUDIT_LOGGER), Lines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        audit("login_failed", reason=value, iss="i")
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)
    (line,) = lines.lines
    assert line.isprintable()
    assert [word.partition("=")[0] for word in line.split(" ")] == ["login_failed", "reason", "iss"]
    assert len(line) < 260


@pytest.mark.spec("LOG-07")
def test_references_name_without_telling() -> None:
    assert re.fullmatch("[0-9a-f]{12}", session_reference("id"))
    assert session_reference("id") == session_reference("id") != session_reference("Id")
    assert user_reference("https://a", "b") == user_reference("https://a", "b")
    others = {user_reference("https://a", "c"), user_reference("https://b", "b"), session_reference("https://a\0b")}
    assert user_reference("https://a", "b") not in others and len(others) == 3


@pytest.mark.spec("LOG-07")
def test_every_event_is_in_the_table_and_on_the_page_and_is_written_somewhere() -> None:
    written = {
        node.args[0].value
        for module in module_files()
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "audit"
        and isinstance(node.args[0], ast.Constant)
    }
    source = "".join(path.read_text() for path in module_files().values())
    unwritten = [event for event in EVENTS if source.count(f'"{event}"') < 2]
    assert (written - EVENTS.keys(), unwritten) == (set(), [])
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == dict(EVENTS)
