"""When a session is over, as things are: at its own end, or at the end of the grant that it stands on."""

from __future__ import annotations

from coatcheck.bff.problems import logger
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import User
from coatcheck.tokens.verdicts import told


class SessionLifetime:
    """Knows the ends of sessions. Without *tokens* (nobody keeps any) there is no grant to look at."""

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def left(self, handle: SessionHandle, *, now: float) -> float:
        """
        Return the seconds that are left of the session; none, only after the tokens were looked at as they are stored.

        Raises:
            SessionGone: it was ended meanwhile.
            StoreUnavailable: nobody can say.
        """
        ends_at = await self.ends_at(handle)
        if ends_at <= now < handle.session.dead_at:
            await handle.tokens(reload=True)  # another request may have renewed them
            ends_at = await self.ends_at(handle)
        return max(0.0, ends_at - now)

    async def ends_at(self, handle: SessionHandle) -> float:
        """
        Return the instant (seconds since the epoch) at which the session ends unless it is used, or its tokens renewed.

        A use of the session moves one, a renewal the other; neither moves its absolute end (RFC 10017 section 6.1.2.2).
        """
        dead_at = handle.session.dead_at
        if self._tokens is None:
            return dead_at
        try:
            grant_ends_at = await self._tokens.grant_ends_at(User.of(handle))
        except Exception as error:  # a store of the application may raise anything; that the session lives is known
            logger.debug("the user token store cannot say when a grant ends: %s", told(error))
            return dead_at
        return dead_at if grant_ends_at is None else min(dead_at, grant_ends_at)
