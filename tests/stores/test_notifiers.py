"""The conformance suite of notifiers: ours keeps every rule, and one that breaks a rule is found out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coatcheck.coordination import Notifier
from coatcheck.stores import MemoryStore
from coatcheck.testing import notifiers
from coatcheck.testing.notifiers import NOTIFIER_CHECKS, NotifierCheck, check_notifier
from tests.stores.conformance import Opener, expect_found_out, memory, run, sqlite, written


@pytest.mark.parametrize("check", NOTIFIER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("opener", [memory, sqlite])
def test_the_store_keeps_the_rule(opener: Opener, check: NotifierCheck, tmp_path: Path) -> None:
    run(check, opener(tmp_path))


async def test_all_checks_run_in_one_call_and_leave_nobody_subscribed() -> None:
    store = MemoryStore()
    await check_notifier(lambda: store)
    assert not store._subscribers


def test_every_check_is_in_the_suite() -> None:
    assert written(notifiers) == set(NOTIFIER_CHECKS)


# Controls: each of these stores breaks one rule, and the suite has to say so.


class WakesNobody(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None: ...


class WakesOne(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None:
        everybody = self._subscribers.get(channel, set())
        for one in list(everybody)[:1]:
            one.hand_over(message)


class SendsText(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None:
        await super().publish(channel, message.decode(errors="replace").encode())


class SendsNothingEmpty(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None:
        if message:
            await super().publish(channel, message)


class MatchesPatterns(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None:
        for pattern in list(self._subscribers):
            if pattern == channel or (pattern.endswith("*") and channel.startswith(pattern[:-1])):
                await super().publish(pattern, message)


class NeedsAListener(MemoryStore):
    async def publish(self, channel: str, message: bytes) -> None:
        assert channel in self._subscribers, "nobody listens"
        await super().publish(channel, message)


class RemembersWhatWasSaid(MemoryStore):
    """As a stream: who comes late hears all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, list[bytes]] = {}

    async def publish(self, channel: str, message: bytes) -> None:
        self._said.setdefault(channel, []).append(message)
        await super().publish(channel, message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(channel) as messages:
            for message in self._said.get(channel, []):
                await super().publish(channel, message)
            yield messages


class IsFullAtTen(MemoryStore):
    """Publishing fails when somebody does not read."""

    async def publish(self, channel: str, message: bytes) -> None:
        await super().publish(channel, message)
        unread = [len(subscriber._unread) for subscriber in self._subscribers.get(channel, ())]
        assert max(unread, default=0) <= 10, "somebody is slow"


class Generates(MemoryStore):
    """Its iterator is an async generator, which a cancelled wait ends."""

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(channel) as messages:

            async def generate() -> AsyncIterator[bytes]:
                async for message in messages:
                    yield message

            yield generate()


class UnsubscribesEverybody(MemoryStore):
    def _unsubscribe(self, channel: str, subscriber: object) -> None:
        self._subscribers.pop(channel, None)


FOUND_OUT_BY: list[tuple[Callable[[], Notifier], NotifierCheck]] = [
    (WakesNobody, notifiers.a_message_reaches_all_who_are_subscribed),
    (WakesOne, notifiers.a_message_reaches_all_who_are_subscribed),
    (SendsText, notifiers.a_message_arrives_as_it_was),
    (SendsNothingEmpty, notifiers.a_message_arrives_as_it_was),
    (MatchesPatterns, notifiers.other_channels_do_not_hear_it),
    (NeedsAListener, notifiers.nobody_has_to_listen),
    (RemembersWhatWasSaid, notifiers.nobody_has_to_listen),
    (IsFullAtTen, notifiers.who_does_not_read_holds_up_nobody),
    (Generates, notifiers.who_looked_in_vain_may_look_again),
    (UnsubscribesEverybody, notifiers.who_gives_up_waiting_disturbs_nobody),
]


@pytest.mark.parametrize(("broken", "check"), FOUND_OUT_BY)
def test_a_store_that_breaks_a_rule_is_found_out(
    broken: Callable[[], Notifier], check: NotifierCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifiers, "_SOON", 0.2)
    expect_found_out(broken, check, monkeypatch)


def test_every_check_has_a_store_that_fails_it() -> None:
    assert {check for _, check in FOUND_OUT_BY} == set(NOTIFIER_CHECKS)


async def test_two_stores_that_do_not_share_their_data_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "_SOON", 0.2)
    with pytest.raises(AssertionError, match="must reach who is subscribed"):
        await check_notifier(MemoryStore)
