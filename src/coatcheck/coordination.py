"""
What processes and nodes need to agree on besides sessions: who renews, what was sent, and small facts that expire.

Three protocols, at most four methods each; `CoordinationStore` is the two of them that renewing needs. One object may
keep several, and `SessionStore` and `SessionIndex` too: every store of `coatcheck.stores` does. Where a store lacks
one, the feature that needs it refuses to start. `coatcheck.testing.stores` has the conformance checks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "CoordinationStore",
    "ExpiringStore",
    "ExpiringValue",
    "Lease",
    "LeaseStore",
    "Notifier",
    "SentMark",
    "lacks_for_coordination",
]


@dataclass(frozen=True, slots=True)
class SentMark:
    """
    Something was sent under a lease, and what came of it is not known (yet).

    *sent_at* is the instant (seconds since the epoch, on the sender's clock) of the first of the *sends* that nobody
    has accounted for.
    """

    sent_at: float
    sends: int = 1


@dataclass(frozen=True, slots=True)
class Lease:
    """
    *holder* alone may act on *key* until the lease ends or is released.

    *mark* is what an earlier holder left: it died, or never heard what came of what it had sent.
    """

    key: bytes = field(repr=False)
    holder: bytes = field(repr=False)
    mark: SentMark | None = None


class LeaseStore(Protocol):
    """
    Lets one holder at a time act on a key, across processes and nodes, and remembers what a dead one may have sent.

    *key* is 32 bytes, a keyed hash; *holder* is 16 random bytes, drawn for each attempt, so a lease that was lost and
    taken by others is never mistaken for one's own. Lease times are durations in *seconds* and are measured by the
    clock of the store where it has one (a database server), so that nodes whose clocks differ agree. Every change is
    one atomic step, durable as far as the store is, when the method returns. Every method may raise `StoreUnavailable`,
    and then may have happened or not.
    """

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """
        Take the lease for *seconds*; None while somebody else holds it. It never waits.

        Free is: never taken, released, or run out. A mark that an earlier holder left stays, and is in the answer.
        A repeated call of the same *holder* succeeds: the first answer may have been lost.
        """
        ...

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """
        Write *mark* on the lease, durably, and let the lease run for *seconds* from now. Call it right before sending.

        The mark outlives the lease. A store may forget it from *until* (seconds since the epoch) on.

        Raises:
            LeaseLost: somebody else holds or held it meanwhile, or it ran out. Nothing was changed; send nothing.
        """
        ...

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """
        Let the lease run for *seconds* from now.

        Raises:
            LeaseLost: as in `mark_sent`.
        """
        ...

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """
        Give the lease back and leave *mark*; None says that nothing is in doubt, and forgets the key.

        A lease that somebody else has taken, or that was given back, is left as it is: that is no error. One that ran
        out and that nobody has taken since is still given back: its last holder knows best. When *mark* is given, the
        store keeps it as long as `mark_sent` said.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExpiringValue:
    """
    A value of an `ExpiringStore`. *version* starts at 1 and rises by one with every change.

    After a value was removed or ended, the next one under its key starts at 1 again.
    """

    value: bytes = field(repr=False)
    version: int


class ExpiringStore(Protocol):
    """
    Small values that end by themselves: pending cookies, tokens of clients, tombstones, what must be used once only.

    *key* is 32 bytes, a keyed hash that includes the purpose; *value* is at most 64 KiB, and sealed if it is a secret.
    A value is gone from the instant *until* (seconds since the epoch) on, whether the store has removed it by then or
    not. Every change is one atomic step. Every method may raise `StoreUnavailable`.
    """

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        """Keep *value* under a key that is not in use; False, and nothing is changed, when it is."""
        ...

    async def get(self, key: bytes) -> ExpiringValue | None:
        """Return what the last finished change left."""
        ...

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        """
        Put *value* in the place of the version that was read.

        Raises:
            StaleVersion: another version is there now, or none any more. Read again.
        """
        ...

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        """Remove *key*, or only the *version* that was read. False when there was nothing to remove."""
        ...


class CoordinationStore(LeaseStore, ExpiringStore, Protocol):
    """What processes that use the same grants meet in. Every store of `coatcheck.stores` is one."""


def lacks_for_coordination(store: object) -> list[str]:
    """Name the methods that *store* would need to be a `CoordinationStore`; none if it is one."""
    return [name for name in _COORDINATION if not callable(getattr(store, name, None))]


_COORDINATION = ("acquire", "mark_sent", "extend", "release", "add", "get", "replace", "discard")


class Notifier(Protocol):
    """
    Wakes other processes, soon and usually: a message may be lost, doubled or late, so nothing may rest on it alone.

    A store that has no such thing simply lacks these methods; who would be woken looks by itself, from time to time.
    """

    async def publish(self, channel: str, message: bytes) -> None:
        """Send *message* (at most 4 KiB) to everybody who is subscribed now. Raises `StoreUnavailable`."""
        ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """
        Receive what is published from the moment the block begins until it ends.

        Raises:
            StoreUnavailable: at the beginning, or from the iterator when the connection is lost. Subscribe again.
        """
        ...
