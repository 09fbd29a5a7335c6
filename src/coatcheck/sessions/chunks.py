"""
One text in several cookies, because browsers keep no cookie above 4,096 bytes.

The first character of the first cookie says how many there are; the others are named `....1` and `....2`. Whoever seals
the text as a whole learns of a missing, old or foreign chunk by the seal.
"""

from __future__ import annotations

from collections.abc import Sequence

from coatcheck.errors import CookieTooLarge
from coatcheck.sessions.cookie import Cookies, SameSite, delete_cookie, room_in_cookie, set_cookie

MAX_CHUNKS = 3
"""More would come near the 8 KB of request headers that many servers allow."""


def chunk_names(name: str) -> tuple[str, ...]:
    """Return the names of all chunks that the cookie *name* may have."""
    return (name, *(f"{name}.{number}" for number in range(1, MAX_CHUNKS)))


def split(names: Sequence[str], text: str, *, same_site: SameSite) -> list[bytes]:
    """
    Return `Set-Cookie` values for base64url *text*. Chunks that it does not need are deleted: they may be left over.

    Raises:
        CookieTooLarge: it does not fit into as many cookies as there are *names*.
    """
    room = min(room_in_cookie(name, same_site=same_site) for name in names)
    count = -(-(len(text) + 1) // room)
    if count > len(names):
        raise CookieTooLarge(
            f"the session takes {len(text)} characters and {len(names)} cookies hold {room * len(names) - 1}: "
            "use a session store instead of cookies, or ask the authorization server for fewer claims"
        )
    text = f"{count}{text}"
    lines = [set_cookie(names[i], text[i * room : (i + 1) * room], same_site=same_site) for i in range(count)]
    return lines + [delete_cookie(name, same_site=same_site) for name in names[count:]]


def join(names: Sequence[str], cookies: Cookies) -> str | None:
    """Return the text again, or None when a chunk is missing or there cannot be as many as the first one says."""
    first = cookies.get(names[0])
    if not first or first[0] not in "123"[: len(names)]:
        return None
    chunks = [first[1:]]
    for name in names[1 : int(first[0])]:
        chunk = cookies.get(name)
        if chunk is None:
            return None
        chunks.append(chunk)
    return "".join(chunks)
