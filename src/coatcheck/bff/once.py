"""What may be used once: a bounded memory of this process."""

from __future__ import annotations

from collections import OrderedDict


class UsedOnce:
    """
    Remembers which names were used until they would be refused anyway. Asking and remembering are one step.

    Names are forgotten in the order in which they came, at most *lifetime* seconds later or when there are *limit*
    of them: so this is a help beside deleted cookies and codes that are good for one use, never the only defence.
    """

    def __init__(self, *, lifetime: float, limit: int = 20_000) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._until

    def use(self, name: str, *, now: float) -> bool:
        """Return True the first time."""
        if name in self._until:
            return False
        while self._until and (len(self._until) >= self._limit or next(iter(self._until.values())) <= now):
            self._until.popitem(last=False)
        self._until[name] = now + self._lifetime
        return True
