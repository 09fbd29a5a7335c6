"""Every requirement is shown by a test or says why not, and every mark means a requirement."""

from __future__ import annotations

import re

import pytest

from tests.requirements import AREAS, DOCUMENT, Requirement, document, marks, rows


def test_rows_are_well_formed_and_in_order() -> None:
    found = rows()
    assert [row.id for row in found if not re.fullmatch(r"[A-Z]{3}-\d\d", row.id)] == []
    assert [row.id for row in found if row.id[:3] not in AREAS] == []
    assert [row.id for row in found if row.priority not in ("P0", "P1", "P2")] == []
    assert [row.id for row in found if not row.requirement.endswith(".") or not row.source] == []
    areas = list(dict.fromkeys(row.id[:3] for row in found))
    assert [row.id for row in found] == sorted({row.id for row in found}, key=lambda id: (areas.index(id[:3]), id))


def test_every_mark_names_a_requirement() -> None:
    known = {row.id for row in rows()}
    unknown = {identifier: tests for identifier, tests in marks().items() if identifier not in known}
    assert unknown == {}


@pytest.mark.parametrize("row", [row for row in rows() if row.priority in ("P0", "P1")], ids=lambda row: row.id)
def test_it_is_shown_or_says_why_not(row: Requirement) -> None:
    shown = marks().get(row.id, [])
    assert shown or row.reason, f"no test is marked with {row.id}: {row.requirement}"
    assert not (shown and row.reason), f"{row.id} has both tests and a reason for having none"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == document(rows(), marks()), "run ./scripts/docs"
