"""What is kept in memory about renewals is bounded by what is under way. `growth.py` has the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from coatcheck.errors import LoginRequired
from tests.tokens.growth import KINDS, containers_of, measured, scene_of
from tests.tokens.scene import Scene, forced
from tests.tokens.token_service import error

SESSIONS = 1_000
MOST_FAILURES = 4_096
"""Failures that are remembered at a time."""


@pytest.mark.spec("REF-01")
@pytest.mark.parametrize("kind", KINDS)
async def test_of_sessions_that_came_were_renewed_and_left_nothing_stays_behind(kind: str, tmp_path: Path) -> None:
    before, after = await measured(kind, SESSIONS, tmp_path)
    assert {path for path in after.containers if "._flights" in path or "._failures" in path}, (
        "looked at the wrong place"
    )
    assert after.containers == before.containers
    assert after.tasks == before.tasks
    assert after.objects - before.objects < SESSIONS / 10, "something stays behind of each session"
    assert after.resident - before.resident < 16 * 1024  # KiB; a kilobyte for each session would be 1 MB of them


@pytest.mark.spec("REF-01")
async def test_what_stays_behind_is_noticed(tmp_path: Path) -> None:
    """A control for the test above: somebody keeps one small thing for each session."""
    async with scene_of("memory", tmp_path) as (scene, store):
        before = containers_of(scene.tokens, leave_out=(store,))
        scene.tokens._renewals._waiting.update({bytes([number]): 1 for number in range(7)})
        after = containers_of(scene.tokens, leave_out=(store,))
        grown = {path: size - before[path] for path, size in after.items() if size != before[path]}
        assert grown == {"Tokens._renewals._waiting": 7}


@pytest.mark.spec("REF-15")
async def test_however_many_sessions_fail_few_failures_are_remembered() -> None:
    """Those of sessions that need a login are remembered for good, as long as there is room."""
    scene = Scene()
    for number in range(MOST_FAILURES + 100):
        browser = await scene.log_in(f"user-{number}")
        user = await browser.request()
        scene.service.answers.append(error("interaction_required"))
        with pytest.raises(LoginRequired):
            await scene.tokens.user_token(user, forced())
    containers = containers_of(scene.tokens, leave_out=(scene.coordination, scene.sessions, scene.service))
    assert containers["Tokens._renewals._failures._entries"] == MOST_FAILURES
    assert containers["Tokens._renewals._flights._flights"] == containers["Tokens._renewals._waiting"] == 0
    assert sum(containers.values()) < 8 * MOST_FAILURES
