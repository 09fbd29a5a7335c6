"""The rules of a lease as pure functions, for stores that read and write in one atomic step of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coatcheck.coordination import SentMark
from coatcheck.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """
    What is stored for one key: who holds it or was the last to, until when, and what was sent.

    *holder* is None once it was given back. *mark_until* says nothing without a *mark*. Instants are seconds since the
    epoch; each method takes the present one.
    """

    holder: bytes | None = field(default=None, repr=False)
    runs_until: float = 0.0
    mark: SentMark | None = None
    mark_until: float = 0.0

    @property
    def dead_at(self) -> float:
        """The instant from which nothing is lost when the entry is."""
        return max(self.runs_until, self.mark_until)

    def is_held_from(self, holder: bytes, now: float) -> bool:
        """Say whether somebody other than *holder* has the lease."""
        return self.runs_until > now and self.holder != holder

    def taken(self, holder: bytes, now: float, seconds: float) -> LeaseEntry:
        """Return it in the hands of *holder*, which may take it: with the mark, if that has not ended."""
        found = self if self.mark_until > now else _FREE
        return replace(found, holder=holder, runs_until=now + seconds)

    def sent(self, holder: bytes, mark: SentMark, now: float, seconds: float, until: float) -> LeaseEntry:
        """Return it after `LeaseStore.mark_sent`."""
        return replace(self.extended(holder, now, seconds), mark=mark, mark_until=until)

    def extended(self, holder: bytes, now: float, seconds: float) -> LeaseEntry:
        """Return it after `LeaseStore.extend`, or raise `LeaseLost`."""
        if self.holder != holder or self.runs_until <= now:
            raise LeaseLost("the lease ran out, was given back, or somebody else took it")
        return replace(self, runs_until=now + seconds)

    def released(self, holder: bytes, mark: SentMark | None) -> LeaseEntry | None:
        """
        Return it after `LeaseStore.release`; None when there is nothing left to keep.

        Who let it run out may still say what came of its sending, as long as nobody took it since: nobody knows better.
        """
        if self.holder != holder:
            return self
        return None if mark is None else LeaseEntry(None, 0.0, mark, self.mark_until)


_FREE = LeaseEntry()
