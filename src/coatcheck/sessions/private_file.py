"""A secret in a file for its owner only: made once, by whoever of several processes comes first."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from tempfile import mkstemp

from coatcheck.errors import ConfigurationError

_log = logging.getLogger("coatcheck")


def read_or_make(file: Path, make: Callable[[], str], *, danger: str, path: str | None) -> str:
    """
    Read the secret in *file*, or have *make* say one and write it: all processes that start together get the same.

    The folder is made, too. A file that others can read is used, with a warning: there are file systems that know no
    owners. *danger* says what somebody who knows the secret can do, *path* which setting to blame.

    Raises:
        ConfigurationError: the file belongs to somebody else, or cannot be read or written.
    """
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(file, make())
        with file.open(encoding="ascii", errors="replace") as opened:
            status = os.fstat(opened.fileno())  # of what is read, and not of what is there a moment later
            text = opened.read().strip()
    except OSError as error:
        raise ConfigurationError(
            f"the key file {file} can neither be read nor made ({error.strerror}): give a path in a folder that this "
            "user may write",
            path=path,
        ) from error
    if os.name == "posix":
        check_owner(file, owner=status.st_uid, mode=status.st_mode, reader=os.geteuid(), danger=danger, path=path)
    return text


def check_owner(file: Path, *, owner: int, mode: int, reader: int, danger: str, path: str | None) -> None:
    """
    Refuse a key that somebody else has put there, and knows; warn of one that others can read.

    Root (0) could read and write it anyway, and may read the files of those it works for.
    """
    if owner not in (0, reader) and reader != 0:
        raise ConfigurationError(
            f"the key file {file} belongs to another user, who can {danger}: give a path in a folder of your own",
            path=path,
        )
    if stat.S_IMODE(mode) & 0o077:
        _log.warning(
            "the key file %s can be read or written by other users of this machine: run `chmod 600 %s`, and make a new "
            "key if one of them is not trusted",
            file,
            file,
        )


def _make(file: Path, secret: str) -> None:
    """Write *secret*, unless somebody else was first: there are never two different ones."""
    descriptor, fresh = mkstemp(dir=file.parent, prefix=f"{file.name}.")  # a name of its own, readable by its owner
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as written:
            written.write(secret + "\n")
        os.link(fresh, file)  # atomic and complete, and it fails if somebody was first
    except FileExistsError:
        pass
    finally:
        os.unlink(fresh)
