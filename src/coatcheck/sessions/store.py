"""
What a session store does: keep sealed rows, and let exactly one writer win.

The rules every store keeps, checked by `coatcheck.testing.stores`:

- **An update never creates.** A row that was deleted stays deleted (`SessionGone`), whatever a slow writer still wants.
- **One part, one version.** Claims and tokens are written by compare-and-swap, each against its own version, so a
  write of one can never undo a write of the other (`StaleVersion`).
- **Activity has no version.** A touch sets `seen_at` to the later of the two instants and changes nothing else.
- **Absence is an answer, a fault is an error.** `load` returns None only when the store knows that there is no row;
  anything else that goes wrong is `StoreUnavailable`, because "not logged in" would be a lie.

A store sees hashes and sealed bytes. It cannot read a session, and a copy of it cannot be turned into a cookie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

Part: TypeAlias = Literal["claims", "tokens"]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """
    One session at rest. *key* (32 bytes) is a hash of the ticket; *partition* is the application it belongs to.

    *claims* and *tokens* are sealed; each has a version that starts at 1. *sub_key* and *sid_key* are keyed hashes of
    who it is about, for stores that can look sessions up. Instants are seconds since the epoch, *idle_timeout* seconds.
    """

    key: bytes = field(repr=False)
    partition: str
    claims: bytes = field(repr=False)
    claims_version: int
    tokens: bytes = field(repr=False)
    tokens_version: int
    created_at: float
    expires_at: float
    seen_at: float
    idle_timeout: float
    sub_key: bytes = field(repr=False)
    sid_key: bytes | None = field(repr=False)

    @property
    def dead_at(self) -> float:
        """The instant from which nobody may use this row; a store may delete it from then on."""
        return min(self.expires_at, self.seen_at + self.idle_timeout)


@dataclass(frozen=True, slots=True)
class ReplacePart:
    """Replace one sealed part, if its version is still *version* (the one that was read). It becomes *version* + 1."""

    part: Part
    data: bytes = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class Touch:
    """Somebody used the session at *seen_at*. An instant before the stored one changes nothing."""

    seen_at: float


Change: TypeAlias = ReplacePart | Touch


class SessionStore(Protocol):
    """
    Where server-side sessions rest. Write your own in four methods and try it with `coatcheck.testing.stores`.

    A store that holds something open may have `async def aclose(self) -> None`; it must open again on the next use.
    Every method may raise `StoreUnavailable`.
    """

    async def create(self, row: SessionRow) -> None:
        """Add *row*. Raises `StaleVersion`, and changes nothing, when there is a row under this key already."""
        ...

    async def load(self, key: bytes) -> SessionRow | None:
        """Return the row as the last finished write left it, expired or not; None when there is none."""
        ...

    async def update(self, key: bytes, change: Change) -> None:
        """Apply *change* to the existing row. Raises `StaleVersion` or `SessionGone`, and then changed nothing."""
        ...

    async def delete(self, key: bytes) -> SessionRow | None:
        """Delete the row and return it as it was; None when there is none (which is no error)."""
        ...


class SessionIndex(Protocol):
    """
    Finds sessions by whom they are about. *index_keys* are the `sub_key` or `sid_key` of rows: keyed hashes, of which
    no two are equal by chance. With several, because a ring of several keys makes several hashes of one `sub`.

    Every method may raise `StoreUnavailable`.
    """

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """Return the rows of *partition* with one of *index_keys* as `sub_key` or `sid_key`, dead ones perhaps too."""
        ...

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """Delete those rows and return them as they were. One that is created meanwhile may escape."""
        ...

    async def expire(self, now: float, *, limit: int) -> int:
        """
        Delete rows that are dead at *now* and values that have ended, about *limit* at most; return how many.

        Several nodes may do so at once, and a store whose database does it by itself returns 0.
        """
        ...
