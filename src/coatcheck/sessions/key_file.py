"""A key that lives in a file beside what it seals: for development, and for tools of one user on one machine."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from tempfile import mkstemp

from coatcheck.errors import ConfigurationError
from coatcheck.sessions.seal import KeyRing, new_key

_log = logging.getLogger("coatcheck")


def key_from_file(path: str | os.PathLike[str]) -> str:
    """
    Read the key in *path*, or make it: one key for all processes that start together, in a file for its owner only.

    The folder is made, too. Whoever can read the file can open everything that is sealed with the key, so this suits a
    command-line tool; a service gets its keys from where its other secrets come from. A file that others can read is
    used, with a warning: there are file systems that know no owners.

    Raises:
        ConfigurationError: the file holds no key, belongs to somebody else, or cannot be read or written.
    """
    file = Path(path)
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(file)
        with file.open(encoding="ascii", errors="replace") as opened:
            status = os.fstat(opened.fileno())  # of what is read, and not of what is there a moment later
            text = opened.read().strip()
    except OSError as error:
        raise ConfigurationError(
            f"the key file {file} can neither be read nor made ({error.strerror}): give a path in a folder that this "
            "user may write",
            path="keys",
        ) from error
    try:
        KeyRing([text])
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{file} does not hold a key. Delete it: the next start makes a new one, and everybody logs in again.",
            path="keys",
        ) from error
    if os.name == "posix":
        check_owner(file, owner=status.st_uid, mode=status.st_mode, reader=os.geteuid())
    return text


def check_owner(file: Path, *, owner: int, mode: int, reader: int) -> None:
    """
    Refuse a key that somebody else has put there, and knows; warn of one that others can read.

    Root (0) could read and write it anyway, and may read the files of those it works for.
    """
    if owner not in (0, reader) and reader != 0:
        raise ConfigurationError(
            f"the key file {file} belongs to another user, who can open what is sealed with it: give a path in a "
            "folder of your own",
            path="keys",
        )
    if stat.S_IMODE(mode) & 0o077:
        _log.warning(
            "the key file %s can be read or written by other users of this machine: run `chmod 600 %s`, and make a new "
            "key if one of them is not trusted",
            file,
            file,
        )


def _make(file: Path) -> None:
    """Write a new key, unless somebody else does so first: there are never two different ones."""
    descriptor, fresh = mkstemp(dir=file.parent, prefix=f"{file.name}.")  # a name of its own, readable by its owner
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as written:
            written.write(new_key() + "\n")
        os.link(fresh, file)  # atomic and complete, and it fails if somebody was first
    except FileExistsError:
        pass
    finally:
        os.unlink(fresh)
