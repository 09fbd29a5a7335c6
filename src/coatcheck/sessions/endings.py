"""
Which sessions in cookies are over, though a browser still has them: what this process knows, and what it asks.

A session that is ended here is remembered here. Of one that was ended elsewhere (a logout at another node, a logout by
the authorization server, an administrator) the coordination store knows, and it is asked at most every `LOOK_EVERY`
seconds for each session that is in use: that is how long a copied cookie may outlive its session at the other nodes,
and it is at once where this process has heard of a logout meanwhile. While that store does not answer, a session goes
on for `TRUST` seconds after it was last seen alive; of others nobody knows, and that is what requests are told (503).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import islice

from coatcheck.clock import Clock
from coatcheck.errors import SessionGone, StoreUnavailable
from coatcheck.sessions.cookie_contents import Contents, Head
from coatcheck.sessions.tombstones import Tombstones

_log = logging.getLogger("coatcheck")

LOOK_EVERY = 5.0
"""Seconds for which a session that was not over is taken to live."""
TRUST = 300.0
"""The same while the coordination store does not answer: about as long as an access token works without it."""
ASK_AGAIN = 2.0
"""Seconds for which nobody asks a store that has just failed, so that no more requests wait for it."""
_MOST = 10_000
"""Sessions that are remembered, of either kind; beyond that the oldest are forgotten."""


class Endings:
    """The ends of the sessions in cookies of one application."""

    def __init__(self, tombstones: Tombstones, *, clock: Clock) -> None:
        self._tombstones = tombstones
        self._clock = clock
        self._ended: dict[str, float] = {}
        self._seen_alive: dict[str, tuple[float, int]] = {}
        self._ask_again_at = float("-inf")
        self._is_away = False

    def remember(self, session_id: str, expires_at: float) -> None:
        """Let the session be over, in this process, for as long as its cookie could live."""
        self._seen_alive.pop(session_id, None)
        self._ended[session_id] = expires_at
        for id_, until in list(islice(self._ended.items(), 2)):  # one is added and two may go: they cannot pile up
            if len(self._ended) > _MOST or until <= self._clock.time():
                self._ended.pop(id_, None)

    def known(self, session_id: str) -> bool:
        """Say whether the session is over, as far as this process knows."""
        return session_id in self._ended

    async def includes(self, contents: Contents, look: Callable[[Head], Awaitable[None]], *, anew: bool) -> bool:
        """
        Say whether the session is over. *anew* asks even if that was done a moment ago.

        *look* looks at the record of the session itself, and raises `SessionGone` when it was ended.

        Raises:
            StoreUnavailable: nobody knows.
        """
        head = contents.head
        if self.known(head.id):
            return True
        asked, news = self._clock.monotonic(), self._tombstones.news
        seen_at, news_then = self._seen_alive.get(head.id, (float("-inf"), news))
        if not anew and news_then == news and asked - seen_at < LOOK_EVERY:
            return False
        is_trusted = not anew and asked - seen_at < TRUST
        if is_trusted and asked < self._ask_again_at:
            return self._tombstones.wrote_about(contents.session())
        try:
            is_over = await self._look(contents, look, asked, news)
        except StoreUnavailable as fault:
            self._note_outage(fault)
            if not is_trusted:
                raise
            return self._tombstones.wrote_about(contents.session())
        self._is_away = False
        return is_over

    def _note_outage(self, fault: StoreUnavailable) -> None:
        """Say once for each outage what it means."""
        self._ask_again_at = self._clock.monotonic() + ASK_AGAIN
        if not self._is_away:
            self._is_away = True
            _log.warning(
                "nobody can tell whether sessions in cookies were ended elsewhere. Those that this process has seen "
                "alive go on for %d minutes, the others wait (503). See to the coordination store: %s",
                TRUST // 60,
                fault,
            )

    async def _look(self, contents: Contents, look: Callable[[Head], Awaitable[None]], asked: float, news: int) -> bool:
        head = contents.head
        try:
            await look(head)
        except SessionGone:
            return True
        if await self._tombstones.cover(contents.session()):
            self.remember(head.id, head.expires_at)
            return True
        self.see_alive(head.id, at=asked, news=news)
        return False

    def see_alive(self, session_id: str, *, at: float, news: int | None = None) -> None:
        """
        Take note that the session was not over *at* this instant (monotonic seconds), as far as the *news* went.

        Single dictionary operations only, so that threads may share it; what is seen last is forgotten last.
        """
        self._seen_alive.pop(session_id, None)
        self._seen_alive[session_id] = (at, self._tombstones.news if news is None else news)
        while len(self._seen_alive) > _MOST:
            self._seen_alive.pop(next(iter(self._seen_alive)), None)
