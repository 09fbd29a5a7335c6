"""`/bff/events` when stores misbehave: what one of them does wrong holds up no stream but its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck import base64url
from coatcheck.bff.live import LOOK_EVERY, LOOK_EVERY_WITH_MESSAGES
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from tests.bff.test_event_stream import Streams, streams
from tests.bff.test_event_stream import quick_ticks as quick_ticks


class Fault(Exception):
    """What a store of the application raises, which knows nothing of `StoreUnavailable`."""


class Odd(MemoryStore):
    """A store of the application's own that raises what it likes, and can be slow."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.faults: set[str] = set()
        self.unreadable: list[bytes] = []
        self.loaded: list[bytes] = []
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def load(self, key: bytes) -> SessionRow | None:
        row = await super().load(key)
        self.loaded.append(key)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if "load" in self.faults:
            raise Fault
        if key in self.unreadable:
            raise StoreUnavailable("this one cannot be read")
        return row

    async def publish(self, channel: str, message: bytes) -> None:
        if "publish" in self.faults:
            raise Fault
        await super().publish(channel, message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(channel) as messages:
            yield self._messages(messages)

    async def _messages(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            if "messages" in self.faults:
                raise Fault
            yield message


class Shared:
    """What a database of the application's own is: the methods of a `SessionStore` and a `SessionIndex`, no more."""

    def __init__(self, store: MemoryStore) -> None:
        self.create, self.load, self.update, self.delete = store.create, store.load, store.update, store.delete
        self.find, self.revoke, self.expire = store.find, store.revoke, store.expire


def odd(s: Streams) -> Odd:
    """Have the application run on an odd store."""
    store = Odd(s.w.clock)
    s.w.store = store  # type: ignore[assignment]
    s.w.start()
    return store


@pytest.mark.spec("SES-05")
def test_streams_outlive_a_look_that_fails_in_an_unknown_way() -> None:
    with streams() as s:
        store, browser = odd(s), s.w.logged_in()
        source = s.open(browser)
        s.settle()
        store.faults.add("load")
        s.let_time_pass(60)
        store.faults.clear()
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        assert s.next(source) == ("ended", {"reason": "logout"})


@pytest.mark.spec("SES-05")
def test_where_listening_fails_in_an_unknown_way_streams_are_looked_after_as_if_nobody_could_listen() -> None:
    with streams() as s:
        store, browser = odd(s), s.w.logged_in()
        node = s.node()
        source = s.open(browser, at=node)
        s.settle()
        store.faults.add("messages")
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        s.settle()
        s.let_time_pass(LOOK_EVERY)
        assert s.next(source) == ("ended", {"reason": "ended"})
        s.run(node.aclose())


@pytest.mark.spec("RPL-02")
def test_a_logout_is_one_although_other_processes_cannot_be_told() -> None:
    with streams() as s:
        store, browser = odd(s), s.w.logged_in()
        store.faults.add("publish")
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        assert s.w.revoked()


@pytest.mark.spec("SES-05")
@pytest.mark.parametrize("told", [True, False])
def test_a_session_that_cannot_be_read_holds_up_no_other(told: bool) -> None:
    with streams() as s:
        store, browsers = odd(s), [s.w.logged_in() for _ in range(4)]
        node = s.node()
        sources = [s.open(browser, at=node) for browser in browsers]
        s.settle()
        *store.unreadable, last = store._rows
        s.run(store.delete(last))
        if told:
            s.run(s.w.bff._live.ended(_names(s, node), "revoked"))
        else:
            s.let_time_pass(LOOK_EVERY_WITH_MESSAGES)
        for _ in sources:
            s.let_time_pass(LOOK_EVERY)
        assert s.next(sources[-1])[0] == "ended"
        s.settle()
        assert not [source for source in sources[:-1] if "ended" in source.said()]
        s.run(node.aclose())


def _names(s: Streams, node: Any) -> list[bytes]:
    return [watch.names[0] for watch in node._live._hub_of(s.loop)._watches]


@pytest.mark.spec("SES-05")
def test_who_is_said_to_have_ended_does_not_wait_until_all_others_were_looked_at() -> None:
    with streams() as s:
        store, browsers = odd(s), [s.w.logged_in() for _ in range(4)]
        for browser in browsers:
            s.open(browser)
        s.settle()
        watches = list(s.w.bff._live._hub_of(s.loop)._watches)
        store.gate, store.loaded = asyncio.Event(), []
        s.let_time_pass(LOOK_EVERY_WITH_MESSAGES)
        assert len(store.loaded) == 1
        s.run(s.w.bff._live.ended(watches[-1].names, "revoked"))
        store.gate.set()
        s.settle()
        assert store.loaded[1] == base64url.decode(watches[-1].handle.session.id)
        assert len(store.loaded) == 5


@pytest.mark.spec("SES-05")
def test_what_is_said_during_a_look_is_looked_at_too() -> None:
    with streams() as s:
        store, browser = odd(s), s.w.logged_in()
        source = s.open(browser)
        s.settle()
        names = _names(s, s.w.bff)

        async def race() -> None:
            store.gate = asyncio.Event()
            store.asked.clear()
            await s.w.bff._live.ended(names, "backchannel_logout")  # an older logout: this session is not meant
            await store.asked.wait()  # the look has read the row that is alive
            gate, store.gate = store.gate, None
            await s.w.bff.sessions.revoke(sub="alice")
            gate.set()

        s.run(race())
        assert s.next(source) == ("ended", {"reason": "revoked"})


@pytest.mark.spec("SES-05")
def test_messages_in_memory_are_not_taken_for_those_of_other_processes() -> None:
    """Sessions are in a store that all processes share, coordination is not: nothing is heard, so streams look."""
    with streams() as s:
        s.w.store = Shared(s.w.store)  # type: ignore[assignment]
        s.w.options["coordination"] = MemoryStore(s.w.clock)
        s.w.start()
        node, browser = s.node(coordination=MemoryStore(s.w.clock)), s.w.logged_in()
        source = s.open(browser, at=node)
        s.settle()
        assert browser.fetch("/bff/logout", "POST").status_code == 303
        s.let_time_pass(LOOK_EVERY)
        assert s.next(source) == ("ended", {"reason": "ended"})
        s.run(node.aclose())
