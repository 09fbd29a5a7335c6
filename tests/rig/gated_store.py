"""
A store as it is, but for a gate before each lease; and, on demand, a store that has lost one of its protections.

A test that passes with a protection switched off does not test it. The switch is here, in what the rig hands to
coatcheck, so that coatcheck itself needs none.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from coatcheck.clock import Clock
from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import LeaseLost, SessionGone, StaleVersion
from coatcheck.sessions.store import Change, ReplacePart, SessionRow, Touch
from coatcheck.stores import MemoryStore
from coatcheck.stores.urls import Store
from tests.rig.worker_plan import Protection

BEFORE_LEASE = "rig.before_lease"
"""Passed before every attempt to take a lease: whoever stops here has seen an old token, and comes late."""
BEFORE_TOUCH = "rig.before_touch"
"""Passed before a use of a session is written down."""

_SMALL_VALUES = ("add", "get", "replace", "discard")


class GatedStore:
    """
    Hands everything on to *inner*. *without* takes one protection away:

    `lease`: everybody always gets it. `reread`: the first look after a lease was taken shows the session as this
    process had loaded it before. `mark`: nothing is written down before sending. `cas`: a write wins over whatever is
    there, and brings back what was deleted. `pending`: small values, above all what waits for the browser of a
    cookie session, and who was logged out, are this process's own. `watermark`: so are they, which is to say that
    they go back with no store. `messages`: none of this process's arrives. `parts`: who writes down that a session was
    used writes its tokens, too, as this process has read them first.
    """

    def __init__(
        self, inner: Store, gate: Callable[[str], Awaitable[None]], *, clock: Clock, without: Protection | None
    ) -> None:
        self._inner = inner
        self._gate = gate
        self._without = without
        self._first_seen: dict[bytes, SessionRow] = {}
        self._last_seen: dict[bytes, SessionRow] = {}
        self._show_old = False
        self._own = MemoryStore(clock) if without in ("pending", "watermark") else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if self._own is not None and name in _SMALL_VALUES else self._inner, name)

    async def publish(self, channel: str, message: bytes) -> None:
        """See `Notifier.publish`."""
        if self._without != "messages":
            await self._inner.publish(channel, message)

    def new_round(self) -> None:
        """Forget what this process had loaded."""
        self._first_seen.clear()

    async def settle(self) -> None:
        """Wait until what was to be written has been written, by writing something that nobody reads."""
        key, holder = os.urandom(32), os.urandom(16)
        await self._inner.acquire(key, holder, seconds=1.0)
        await self._inner.release(key, holder, mark=None)

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`."""
        if self._show_old and self._without == "reread":
            self._show_old = False
            if key in self._first_seen:
                return self._first_seen[key]
        row = await self._inner.load(key)
        if row is not None:
            self._last_seen[key] = row
            self._first_seen.setdefault(key, row)
        return row

    async def update(self, key: bytes, change: Change) -> None:
        """See `SessionStore.update`."""
        if isinstance(change, Touch):
            await self._gate(BEFORE_TOUCH)
            if self._without == "parts":
                await self._overwrite(key, ReplacePart("tokens", self._first_seen[key].tokens, 0))
        try:
            await self._inner.update(key, change)
        except (StaleVersion, SessionGone):
            if self._without != "cas" or not isinstance(change, ReplacePart):
                raise
            await self._overwrite(key, change)

    async def _overwrite(self, key: bytes, change: ReplacePart) -> None:
        row = await self._inner.load(key)
        if row is None:
            with suppress(StaleVersion):
                await self._inner.create(self._last_seen[key])
            row = self._last_seen[key]
        version = row.tokens_version if change.part == "tokens" else row.claims_version
        await self._inner.update(key, replace(change, version=version))

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """See `LeaseStore.acquire`."""
        await self._gate(BEFORE_LEASE)
        lease = await self._inner.acquire(key, holder, seconds=seconds)
        if lease is None and self._without == "lease":
            lease = Lease(key, holder)
        self._show_old = lease is not None
        return lease

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """See `LeaseStore.mark_sent`."""
        try:
            if self._without == "mark":
                return await self._inner.extend(key, holder, seconds=seconds)
            await self._inner.mark_sent(key, holder, mark, seconds=seconds, until=until)
        except LeaseLost:
            if self._without != "lease":
                raise

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """See `LeaseStore.extend`."""
        try:
            await self._inner.extend(key, holder, seconds=seconds)
        except LeaseLost:
            if self._without != "lease":
                raise

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """See `LeaseStore.release`."""
        await self._inner.release(key, holder, mark=None if self._without == "mark" else mark)
