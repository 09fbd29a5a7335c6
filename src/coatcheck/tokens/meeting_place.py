"""Where the processes that use the same grants meet, and the keys that name the grants there."""

from __future__ import annotations

from collections.abc import Sequence

from coatcheck.clock import Clock
from coatcheck.coordination import CoordinationStore, lacks_for_coordination
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.stores.memory import MemoryStore


def meeting_place(
    given: CoordinationStore | None, keys: Sequence[str] | KeyRing | None, clock: Clock
) -> tuple[CoordinationStore, KeyRing]:
    """
    Return where renewals are serialised and the keys that name grants there; without any, both in this process.

    Raises:
        ConfigurationError: coordination without keys, or an object that cannot coordinate.
    """
    ring = keys if isinstance(keys, KeyRing) else KeyRing(keys if keys is not None else [new_key()])
    if given is None:
        return MemoryStore(clock), ring
    if keys is None:
        raise ConfigurationError(
            "processes that share a store need the same keys to name grants there: give keys=[...], made by "
            "`coatcheck new-key` or read with key_from_file(...)",
            path="keys",
        )
    lacking = lacks_for_coordination(given)
    if lacking:
        raise ConfigurationError(
            f"{type(given).__name__} cannot coordinate: it lacks {', '.join(lacking)} of LeaseStore and ExpiringStore",
            path="coordination",
        )
    return given, ring
