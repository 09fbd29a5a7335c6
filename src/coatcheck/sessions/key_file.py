"""A key that lives in a file beside what it seals: for development, and for tools of one user on one machine."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp

from coatcheck.errors import ConfigurationError
from coatcheck.sessions.seal import KeyRing, new_key


def key_from_file(path: str | os.PathLike[str]) -> str:
    """
    Read the key in *path*, or make it: one key for all processes that start together, in a file for its owner only.

    The folder is made, too. Whoever can read the file can open everything that is sealed with the key, so this suits a
    command-line tool; a service gets its keys from where its other secrets come from.

    Raises:
        ConfigurationError: the file holds no key, or cannot be read or written.
    """
    file = Path(path)
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(file)
        text = file.read_text(encoding="ascii", errors="replace").strip()
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
    return text


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
