"""Which keys seal, and where sessions are kept: from what the application said, or from development mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coatcheck.errors import ConfigurationError
from coatcheck.sessions.key_file import key_from_file
from coatcheck.sessions.seal import KeyRing

DEVELOPMENT_FOLDER = Path(".coatcheck")
"""Where development mode keeps its key and its sessions, so that reloading the server logs nobody out."""


def key_ring(keys: Sequence[str] | None, *, development: bool, folder: Path = DEVELOPMENT_FOLDER) -> KeyRing:
    """
    Make the key ring. Without *keys*, development mode uses a key file of its own, made on first use.

    Raises:
        ConfigurationError: no keys outside development mode, a key that is none, or a folder that cannot be written.
    """
    if keys is not None:
        return KeyRing(keys)
    if not development:
        raise ConfigurationError(
            "no key is given, and only development mode (a public_url on localhost) makes one by itself. Run "
            "`coatcheck new-key`, keep what it prints as a secret, and pass it: keys=[os.environ['COATCHECK_KEY']].",
            path="keys",
        )
    return KeyRing([development_key(folder)])


def development_database(folder: Path = DEVELOPMENT_FOLDER) -> Path:
    """Return the path of development mode's sessions, in a folder that exists and that version control ignores."""
    make_development_folder(folder)
    return folder / "sessions.db"


def development_key(folder: Path) -> str:
    """Read the key file, or make it. Of several processes that start together, one makes it and all read it."""
    make_development_folder(folder)
    return key_from_file(folder / "key")


def make_development_folder(folder: Path) -> None:
    """Make the folder that is development mode's own, and have version control ignore it; raise ConfigurationError."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(
            f"development mode keeps its key and its sessions in {folder.absolute()}, and cannot write there: "
            f"{error.strerror}. Start in a folder that this process may write, or give `keys` and `sessions`",
            path="keys",
        ) from error
