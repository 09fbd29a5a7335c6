"""What may be used once, by all processes together."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from coatcheck.coordination import ExpiringStore
from coatcheck.errors import CoatcheckError, StoreUnavailable
from coatcheck.sessions.seal import KeyRing


class UsedOnceByAll:
    """
    Remembers in a *shared* store what was used, so that of all processes one may use it, whichever it is shown to.

    An entry ends when its name would be refused anyway. It stands under a keyed hash of the name, once for each key of
    the *ring*: nodes that meet during a key rotation have one of them in common.
    """

    def __init__(self, shared: ExpiringStore, ring: KeyRing, *, purpose: str) -> None:
        self._shared = shared
        self._keys = ring.derive_all(purpose)

    async def use(self, name: str, *, now: float, until: float) -> bool:
        """
        Return True the first time. The name is remembered from *now* to *until* (seconds since the epoch).

        Raises:
            StoreUnavailable: nobody knows.
        """
        if until <= now:
            return False
        with _saying_that_nobody_knows():
            for key in self._stored(name):
                if not await self._shared.add(key, b"", until=until):
                    return False
        return True

    async def was_used(self, name: str) -> bool:
        """
        Return whether *name* is remembered, and leave it at that: for what may be used again until it has succeeded.

        Raises:
            StoreUnavailable: nobody knows.
        """
        with _saying_that_nobody_knows():
            for key in self._stored(name):
                if await self._shared.get(key) is not None:
                    return True
        return False

    def _stored(self, name: str) -> Iterator[bytes]:
        raw = name.encode("utf-8", "replace")
        return (hmac.digest(key, raw, "sha256") for key in self._keys)


@contextmanager
def _saying_that_nobody_knows() -> Iterator[None]:
    """A store of the application may raise anything; a check that failed has not passed."""
    try:
        yield
    except CoatcheckError:
        raise
    except Exception as error:
        raise StoreUnavailable(f"the store raised {type(error).__name__}") from error
