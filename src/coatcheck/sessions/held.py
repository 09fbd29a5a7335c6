"""
Sessions in cookies that are still to be found while their browser is away, at the authorization server.

On the way back from its pages the browser withholds the Strict cookie. A login that replaces a session could not end
that one, nor revoke its tokens. So what is in the cookies is held when the login begins: one value for each session,
however many logins it begins, sealed, and gone when none of these can come back any more.
"""

from __future__ import annotations

import hmac

from coatcheck.coordination import ExpiringStore
from coatcheck.errors import SealBroken, StaleVersion, UnknownSealKey
from coatcheck.sessions.cookie_contents import Contents, read
from coatcheck.sessions.seal import KeyRing, framed

_PURPOSE = "held session"


class HeldSessions:
    """Those of one application in *store*. *ring* is bound to *application_id* already."""

    def __init__(self, store: ExpiringStore, ring: KeyRing, application_id: str) -> None:
        self._store = store
        self._ring = ring
        self._domain = framed((b"coatcheck held session", application_id.encode()))

    async def hold(self, contents: Contents, *, until: float) -> None:
        """
        Hold *contents* until *until* (seconds since the epoch), in the place of what was held of the same session.

        Raises:
            StoreUnavailable: it may be held or not.
        """
        session_id = contents.head.id
        value = self._ring.seal(contents.plaintext(), purpose=_PURPOSE, aad=(session_id.encode(),))
        key = self._key(session_id)
        if await self._store.add(key, value, until=until):
            return
        found = await self._store.get(key)
        try:
            if found is not None:
                await self._store.replace(key, value, version=found.version, until=until)
        except StaleVersion:
            return  # another login of this session was faster, and holds the same

    async def get(self, session_id: str) -> Contents | None:
        """Return what is held of a session, or None. Raises `StoreUnavailable`."""
        found = await self._store.get(self._key(session_id))
        if found is None:
            return None
        try:
            return read(self._ring.open(found.value, purpose=_PURPOSE, aad=(session_id.encode(),)))
        except (SealBroken, UnknownSealKey, ValueError):  # codec.DecodeError is a ValueError
            return None

    def _key(self, session_id: str) -> bytes:
        return hmac.digest(session_id.encode(), self._domain, "sha256")
