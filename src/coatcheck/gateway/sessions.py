"""`coatcheck sessions list` and `coatcheck sessions revoke`: what `bff.sessions` does, for an operator and for jobs."""

from __future__ import annotations

import asyncio
import logging.config
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from coatcheck.bff.administration import SessionAdministration, SessionSummary
from coatcheck.bff.app import BFF
from coatcheck.clock import SYSTEM_CLOCK
from coatcheck.codec import encode
from coatcheck.config import GatewayConfig, load_config
from coatcheck.errors import ConfigurationError, StoreUnavailable, UnknownSealKey
from coatcheck.gateway.app import create_bff
from coatcheck.gateway.serving import LOGGING
from coatcheck.gateway.stores import GatewayStores, open_stores, sqlite_file
from coatcheck.sessions.endings import LOOK_EVERY
from coatcheck.stores.memory import MemoryStore

T = TypeVar("T")

_NOTHING_FOUND = (
    "no session is found: those of another public_url, client or key ring than this file's are not looked for"
)
_TITLES = ("session", "user", "created", "last used", "ends at the latest")


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose sessions are meant. *iss* is the issuer that users log in with, unless it is given."""

    sub: str | None = field(default=None, repr=False)
    sid: str | None = field(default=None, repr=False)
    iss: str | None = None


def list_sessions(file: Path, whose: Whose, *, as_json: bool) -> list[str]:
    """
    Return the lines that say which sessions there are: references as in the audit log, and times in UTC (ISO 8601).

    Raises:
        ConfigurationError: nobody is named, the file is wrong, its sessions cannot be listed from here, its store does
            not answer, or a key is missing.
    """
    config, stores = _opened(file, whose)
    if stores.sessions is None:
        raise ConfigurationError(
            "sessions in cookies cannot be listed, for nobody has them but their browsers; `sessions revoke` ends them",
            path="sessions.store",
        )
    found = _done(config, stores, lambda sessions: sessions.list(sub=whose.sub, sid=whose.sid, iss=whose.iss))
    return [encode([_members(each) for each in found]).decode()] if as_json else _table(found)


def revoke_sessions(file: Path, whose: Whose, *, as_json: bool) -> list[str]:
    """
    End the sessions and give their tokens back; return the line that says how many there were.

    Raises:
        ConfigurationError: as in `list_sessions`. When the store stopped answering, some of them may live on.
    """
    config, stores = _opened(file, whose)
    if stores.sessions is None and isinstance(stores.coordination, MemoryStore):
        raise ConfigurationError(
            "sessions in cookies are ended by a note where processes meet, and that is the memory of the process that "
            'serves: give it a place, as "sqlite:///path/to/coordination.db"',
            path="sessions.coordination",
        )
    ended = _done(config, stores, lambda sessions: sessions.revoke(sub=whose.sub, sid=whose.sid, iss=whose.iss))
    if as_json:
        return [encode({"ended": ended}).decode()]
    if ended is None:
        return [f"sessions in cookies cannot be counted; those there were end within {LOOK_EVERY:.0f} s"]
    return [f"{ended} session{'' if ended == 1 else 's'} ended", *(() if ended else (_NOTHING_FOUND,))]


def _opened(file: Path, whose: Whose) -> tuple[GatewayConfig, GatewayStores]:
    """Read *file*, and refuse what would find nothing, however many sessions there are."""
    if "" in (whose.sub, whose.sid) or (whose.sub is None and whose.sid is None):
        raise ConfigurationError("say whose sessions: --sub SUB, --sid SID, or both")
    config = load_config(file)
    stores = open_stores(config)
    if isinstance(stores.sessions, MemoryStore):
        raise ConfigurationError(
            "the sessions are in the memory of the process that serves, where no other one finds them",
            path="sessions.store",
        )
    return config, stores


def _done(config: GatewayConfig, stores: GatewayStores, work: Callable[[SessionAdministration], Awaitable[T]]) -> T:
    """Do *work*, and let the tokens that it gives back arrive. The audit log goes to stderr, as that of `run`."""
    _check_files(config)
    bff = create_bff(config, stores=stores, clock=SYSTEM_CLOCK)
    logging.config.dictConfig(LOGGING)
    try:
        return asyncio.run(_close_behind(bff, work))
    except StoreUnavailable as error:
        raise ConfigurationError(f"not all sessions could be reached, do it again: {error}", path="sessions") from error
    except UnknownSealKey as error:
        raise ConfigurationError(f"a session is {error}", path="keys") from error


def _check_files(config: GatewayConfig) -> None:
    """Make no file: it would belong to whoever runs this, and not to who serves."""
    store, coordination = config.sessions.store, config.sessions.coordination
    for at, place in (("sessions.store", store), ("sessions.coordination", coordination or store)):
        file = sqlite_file(config, place)
        if file is not None and not file.exists():
            raise ConfigurationError(f"there is no file {file}, so nobody has logged in", path=at)


async def _close_behind(bff: BFF, work: Callable[[SessionAdministration], Awaitable[T]]) -> T:
    try:
        return await work(bff.sessions)
    finally:
        await bff.aclose()


def _members(summary: SessionSummary) -> dict[str, str | float]:
    return {
        "session": summary.reference,
        "user": summary.user,
        "created_at": _utc(summary.created_at),
        "seen_at": _utc(summary.seen_at),
        "expires_at": _utc(summary.expires_at),
        "idle_timeout": summary.idle_timeout,
    }


def _table(found: Sequence[SessionSummary]) -> list[str]:
    if not found:
        return [_NOTHING_FOUND]
    rows = [
        (each.reference, each.user, _utc(each.created_at), _utc(each.seen_at), _utc(each.expires_at)) for each in found
    ]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (_TITLES, *rows)]


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
