"""
What is under a key: one string for a session, one for an expiring value; and how the keys are called.

A session is a header of fixed length and the parts behind it, so that one GET (or a share of one MGET) reads it, a
script compares a version without parsing, and a touch overwrites eight bytes. `scripts.py` knows the same layout.

The name of a key has one hash tag, `{...}`. What belongs to one session is on one node of a cluster.
"""

from __future__ import annotations

from struct import Struct

from coatcheck.base64url import encode
from coatcheck.coordination import ExpiringValue, SentMark
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.store import SessionRow

FORMAT = 1
"""The first byte of a session. A release that changes the layout counts up and reads the older ones."""

WRITE_ID = 8
"""
Bytes of a random number that names one write and stays with what it wrote. A write whose answer was lost is sent again,
and recognises by it that it has been done already.
"""

_HEADER = Struct("<BQQddddII8s8sHHH")
"""
Format; versions of claims and tokens; created, expires, seen, idle timeout; lengths of claims and tokens; the writes
that made them; lengths of partition, sub_key and sid_key. For a sid_key the length is one more, and 0 means none.
"""
_VALUE_HEADER = Struct("<Qd8s")
_MARK = Struct("<dQ")
_INSTANT = Struct("<d")


def session_key(key: bytes) -> str:
    """Name the row of a session."""
    return f"coatcheck:{{{encode(key)}}}:session"


def lease_key(key: bytes) -> str:
    """Name a lease."""
    return f"coatcheck:{{{encode(key)}}}:lease"


def value_key(key: bytes) -> str:
    """Name an expiring value."""
    return f"coatcheck:{{{encode(key)}}}:value"


def index_key(partition: str, index: bytes) -> str:
    """Name the set of the sessions that are about somebody."""
    return f"coatcheck:{{{partition}:{encode(index)}}}:index"


def encode_row(row: SessionRow, write_id: bytes) -> bytes:
    """Make the string of a new session."""
    partition = row.partition.encode()
    sid_key = b"" if row.sid_key is None else row.sid_key
    header = _HEADER.pack(
        FORMAT,
        row.claims_version,
        row.tokens_version,
        row.created_at,
        row.expires_at,
        row.seen_at,
        row.idle_timeout,
        len(row.claims),
        len(row.tokens),
        write_id,
        write_id,
        len(partition),
        len(row.sub_key),
        0 if row.sid_key is None else len(sid_key) + 1,
    )
    return b"".join((header, partition, row.sub_key, sid_key, row.claims, row.tokens))


def decode_row(key: bytes, data: bytes) -> SessionRow:
    """
    Read the string of a session.

    Raises:
        StoreUnavailable: a newer release wrote it, or somebody who is not coatcheck.
    """
    if len(data) < _HEADER.size or data[0] != FORMAT:
        raise unreadable()
    (_, claims_version, tokens_version, created_at, expires_at, seen_at, idle_timeout, *lengths) = _HEADER.unpack_from(
        data
    )
    claims, tokens, _, _, partition, sub, sid = lengths
    sub_at = _HEADER.size + partition
    sid_at = sub_at + sub
    claims_at = sid_at + max(0, sid - 1)
    tokens_at = claims_at + claims
    if len(data) != tokens_at + tokens:
        raise unreadable()
    return SessionRow(
        key=key,
        partition=data[_HEADER.size : sub_at].decode(errors="replace"),  # what is no text is nobody's
        claims=data[claims_at:tokens_at],
        claims_version=claims_version,
        tokens=data[tokens_at:],
        tokens_version=tokens_version,
        created_at=created_at,
        expires_at=expires_at,
        seen_at=seen_at,
        idle_timeout=idle_timeout,
        sub_key=data[sub_at:sid_at],
        sid_key=data[sid_at:claims_at] if sid else None,
    )


def unreadable() -> StoreUnavailable:
    """Say that a session is in a form that this release does not know; it is an operator's fault, and no absence."""
    return StoreUnavailable(
        f"a session in Redis has a format that this coatcheck (format {FORMAT}) does not know: run the newer release "
        "that wrote it, or give another database"
    )


def encode_value(value: bytes, *, version: int, until: float, write_id: bytes) -> bytes:
    """Make the string of an expiring value."""
    return _VALUE_HEADER.pack(version, until, write_id) + value


def decode_value(data: bytes, *, now: float) -> ExpiringValue | None:
    """
    Read the string of an expiring value; None when it has ended.

    Raises:
        StoreUnavailable: somebody wrote it who is not coatcheck.
    """
    if len(data) < _VALUE_HEADER.size:
        raise _foreign("a value")
    version, until, _ = _VALUE_HEADER.unpack_from(data)
    return ExpiringValue(data[_VALUE_HEADER.size :], version) if now < until else None


def encode_mark(mark: SentMark) -> bytes:
    """Make the text of a sent mark."""
    return _MARK.pack(mark.sent_at, mark.sends)


def decode_mark(data: bytes) -> SentMark | None:
    """Read a sent mark; empty means that there is none. Raises as `decode_value`: in doubt, nothing is sent."""
    if not data:
        return None
    if len(data) != _MARK.size:
        raise _foreign("the mark of a lease")
    return SentMark(*_MARK.unpack(data))


def _foreign(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{what} in Redis was not written by coatcheck: give it a database, or keys, of its own")


def encode_instant(instant: float) -> bytes:
    """Make the argument of a script that is an instant, to the last bit."""
    return _INSTANT.pack(instant)
