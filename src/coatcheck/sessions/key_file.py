"""A key that lives in a file beside what it seals: for development, and for tools of one user on one machine."""

from __future__ import annotations

import os
from pathlib import Path

from coatcheck.errors import ConfigurationError
from coatcheck.sessions.private_file import read_or_make
from coatcheck.sessions.seal import KeyRing, new_key


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
    text = read_or_make(file, new_key, danger="open what is sealed with it", path="keys")
    try:
        KeyRing([text])
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{file} does not hold a key. Delete it: the next start makes a new one, and everybody logs in again.",
            path="keys",
        ) from error
    return text
