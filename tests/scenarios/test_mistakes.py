"""
Mistakes, made on purpose while coatcheck runs. Each explains itself in exactly one WARNING, and none ends a session.
One that stops every renewal raises an alarm, too.

`docs/troubleshooting.md` is written from here: `./scripts/docs` runs this file with $WRITE_DOCS set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.login_mistakes import LOGIN_MISTAKES, WAY_TO_THE_PROVIDER
from tests.scenarios.mistakes import PAGE, lines_of, page
from tests.scenarios.run_time_mistakes import CALL_MISTAKES, STORE_MISTAKES, TOKEN_MISTAKES
from tests.scenarios.scene import Scene, Warnings, codes

MISTAKES = [*WAY_TO_THE_PROVIDER, *LOGIN_MISTAKES, *TOKEN_MISTAKES, *CALL_MISTAKES, *STORE_MISTAKES]
WRITING = "WRITE_DOCS" in os.environ
OBSERVED: dict[str, str] = {}


@pytest.mark.spec("MET-08", "REF-13", "SES-12")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_explains_itself_in_one_line(mistake, oidc_provider, echo_api, tmp_path: Path):
    scene = Scene(oidc_provider, echo_api, tmp_path)
    warnings = Warnings()
    with warnings.collect():
        answer = mistake.induce(scene)
    assert codes(answer) == (mistake.status, mistake.code)
    assert {record.name for record in warnings.records} == {"coatcheck"}, warnings.records
    alarms = [record.getMessage().partition(":")[0] for record in warnings.records if record.levelname == "ERROR"]
    assert alarms == [mistake.alarm] * bool(mistake.alarm), warnings.records
    (record,) = [record for record in warnings.records if record.levelname != "ERROR"]
    assert record.levelname == "WARNING"
    assert record.exc_info is None
    message = record.getMessage()
    assert "\n" not in message
    assert [name for name in mistake.names if name not in message] == [], message
    if mistake.code is not None:
        assert message.startswith(f"{mistake.code} ({mistake.status}): ")
    OBSERVED[mistake.name] = f"WARNING coatcheck: {scene.shown(message)}"
    if not WRITING:
        assert mistake.section(OBSERVED[mistake.name]) in PAGE.read_text(), "run ./scripts/docs"


def test_the_page_has_these_mistakes_and_nothing_else():
    if WRITING:
        PAGE.write_text(page(MISTAKES, OBSERVED))
    text = PAGE.read_text()
    assert text == page(MISTAKES, lines_of(text, MISTAKES)), "run ./scripts/docs"
