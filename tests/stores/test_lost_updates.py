"""Requests, renewals and users at the same time: nothing is lost and nothing is mixed up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coatcheck.errors import (
    StaleVersion,
)
from coatcheck.sessions import SessionStore
from coatcheck.stores import MemoryStore, SQLiteStore
from tests.sessions.samples import (
    NOW,
    TENTH,
    Browser,
    log_in,
    opened,
    server_side,
    sqlite_nodes,
)


@pytest.mark.spec("SES-06")
@pytest.mark.parametrize("first", ["slide", "renewal"])
async def test_a_slide_and_a_renewal_do_not_overwrite_each_other(first: str, tmp_path: Path) -> None:
    """Both nodes have read the session before either writes."""
    async with sqlite_nodes(tmp_path) as (sliding, renewing):
        browser = Browser()
        await log_in(sliding, browser)
        handle = await opened(renewing, browser)
        if first == "slide":
            await opened(sliding, browser, now=NOW + TENTH)
        await handle.replace_tokens(b"renewed", version=1)
        if first == "renewal":
            await opened(sliding, browser, now=NOW + TENTH)
        for node in (sliding, renewing):
            after = await opened(node, browser, now=NOW + TENTH)
            assert await after.tokens() == (b"renewed", 2)
            assert after.session.seen_at == NOW + TENTH


@pytest.mark.spec("SES-06")
async def test_slides_and_renewals_at_once_are_all_there_in_the_end(tmp_path: Path) -> None:
    async with sqlite_nodes(tmp_path) as nodes:
        browser = Browser()
        await log_in(nodes[0], browser, tokens=b"0")

        async def renew(number: int) -> None:
            handle = await opened(nodes[number % 2], browser, slide=False)
            while True:
                tokens, version = await handle.tokens(reload=True)
                try:
                    return await handle.replace_tokens(b"%d" % (int(tokens) + 1), version=version)
                except StaleVersion:
                    continue

        async def slide(number: int) -> None:
            await opened(nodes[number % 2], browser, now=NOW + TENTH + number)

        await asyncio.gather(*(work(number) for number in range(20) for work in (renew, slide)))
        handle = await opened(nodes[0], browser, now=NOW + 2 * TENTH)
        assert await handle.tokens() == (b"20", 21)


@pytest.mark.spec("SES-06")
async def test_the_slower_of_two_renewals_learns_that_it_is_stale() -> None:
    sessions, browser = server_side(), Browser()
    await log_in(sessions, browser)
    faster, slower = await opened(sessions, browser), await opened(sessions, browser)
    await faster.replace_tokens(b"first", version=1)
    assert await faster.tokens() == (b"first", 2)
    with pytest.raises(StaleVersion):
        await slower.replace_tokens(b"second", version=1)
    assert await slower.tokens() == (b"the tokens", 1)
    assert await slower.tokens(reload=True) == (b"first", 2)
    await slower.replace_tokens(b"second", version=2)
    assert await faster.tokens(reload=True) == (b"second", 3)


@pytest.mark.spec("SES-08")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_two_hundred_users_at_once_each_get_their_own(kind: str, tmp_path: Path) -> None:
    store: SessionStore = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "sessions.db")
    sessions = server_side(store)
    browsers = [Browser() for _ in range(200)]
    for number, browser in enumerate(browsers):
        await log_in(sessions, browser, sub=f"user-{number}", claims={"n": number}, tokens=b"of %d" % number)

    async def call(number: int, step: int) -> bool:
        handle = await opened(sessions, browsers[number], now=NOW + step * 100)
        await asyncio.sleep(0)
        tokens, version = await handle.tokens(reload=step % 2 == 0)
        if step == 5:
            await handle.replace_tokens(tokens, version=version)
        session = handle.session
        return (session.sub, session.claims["n"], tokens) == (f"user-{number}", number, b"of %d" % number)

    assert all(await asyncio.gather(*(call(number, step) for step in range(10) for number in range(200))))
    await sessions.aclose()


async def test_what_one_request_does_to_its_claims_does_not_reach_the_next() -> None:
    sessions, browser = server_side(), Browser()
    await log_in(sessions, browser, claims={"groups": ["readers"]})
    (await opened(sessions, browser)).session.claims["groups"].append("administrators")
    assert (await opened(sessions, browser)).session.claims["groups"] == ["readers"]
