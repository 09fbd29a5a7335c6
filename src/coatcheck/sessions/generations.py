"""
What one process knows of the generations of its cookie sessions, and what it sees to behind the back of requests.

A fresh request costs no look at the coordination store. These things do, and only the first two make anybody wait:

- a renewal, before and after the refresh token is used;
- a cookie that slides, where this process knows of a newer generation than the browser has brought;
- in the background, the first requests with a generation that may still wait: it arrived, so its tokens wait a minute
  more (while the session is held for a login, until that is over), and its number until the session's end;
- in the background, each cookie that goes out again: see below.

**What can bring an old generation back.** The answer of a slow request may reach the browser after the new cookie did.
Where the process knows of the newer generation, the older one is not handed out at all. In another process nobody knows
yet; but the newer tokens still wait, for a minute at least after the browser has shown it. So whoever hands a
cookie out looks in the background whether something newer waits, and if so has it wait until the session's end again:
the browser may come back with the older cookie at any time, and finds it. And a request that took nearly as long as
that minute hands out nothing (`LATE`), unless the session would die of idleness. What remains: a process that dies, or
a store that fails, between such an answer and that look; and cookies that the browser itself brings back from a backup.
Their refresh token was spent and is not used again: the request is refused (`BEHIND`) as soon as it needs other tokens,
and such a cookie slides no more, so that a browser that is really stuck with it comes to a login.

All memory is bounded: `_MOST_SESSIONS` numbers, of which the least recently changed go first, and `_MOST_TASKS`
background tasks; what was forgotten costs one more look, what is left undone lets tokens wait for longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from coatcheck.clock import Clock
from coatcheck.errors import CookieOutdated, SessionGone, StaleVersion, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.cookie_contents import Contents, Head
from coatcheck.sessions.held import HeldSessions
from coatcheck.sessions.pending import STRAGGLING, PendingTokens, Waiting

_log = logging.getLogger("coatcheck")

LATE = 45.0
"""Seconds after which the answer to a request is too late to bring a cookie: `STRAGGLING`, less the time to travel."""
BEHIND = (
    "the tokens of this request were renewed long ago, and the browser has a newer cookie by now: let it ask again, "
    "for a request that was held up for so long cannot go on"
)
_MOST_SESSIONS = 10_000
_MOST_TASKS = 100
_CLOSING_SECONDS = 3.0


class Generations:
    """*ended* is told the id and the end of every session that turns out to have been ended in another process."""

    def __init__(
        self, pending: PendingTokens, held: HeldSessions, *, clock: Clock, ended: Callable[[str, float], None]
    ) -> None:
        self._pending = pending
        self._held = held
        self._clock = clock
        self._ended = ended
        self._newest = _Numbers()
        self._settled = _Numbers()
        self._settling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def is_behind(self, head: Head) -> bool:
        """Whether this process knows of a newer generation than *head* is."""
        return head.tokens_version < self._newest.get(head.id)

    def is_settled(self, head: Head) -> bool:
        """Whether this generation has arrived in the browser, and the coordination store was told so by us."""
        return head.tokens_version <= self._settled.get(head.id)

    def presented(self, contents: Contents) -> None:
        """Take note of what a request carries; what waited for exactly that need not wait much longer."""
        head = contents.head
        self._learn(head, head.tokens_version)
        if not head.pending or head.id in self._settling or self.is_settled(head) or self.is_behind(head):
            return
        if self._start(self._settle(contents)):
            self._settling.add(head.id)

    async def latest(self, contents: Contents) -> Contents:
        """
        Return *contents* with the tokens that wait, if those are newer.

        If nothing is known of a newer generation there, the browser is taken at its word, whatever this process knew.

        Raises:
            SessionGone: the session was ended.
            CookieOutdated: there are newer tokens, and they wait no more: the browser has had them for long.
            StoreUnavailable: nobody can say whether there are newer tokens.
        """
        head, known = contents.head, self._newest.get(contents.head.id)
        waiting = await self._get(head)
        if waiting is not None and waiting.generation > head.tokens_version:
            tokens = await self._pending.straggling(head.id, waiting)
            if tokens is None:
                self._learn(head, waiting.generation)
                raise CookieOutdated(BEHIND)
            contents = contents.with_tokens(tokens, generation=waiting.generation)
        if self._newest.get(head.id) == known:  # nobody has learnt of a newer one while we were waiting for the answer
            self._newest.put(head.id, contents.head.tokens_version)
        return contents

    async def last_tokens(self, contents: Contents) -> bytes:
        """Return the tokens with which a session ends: the newest ones, or none where these are not to be had."""
        try:
            return (await self.latest(contents)).tokens
        except (CookieOutdated, SessionGone, UnknownSealKey):
            return b""
        except StoreUnavailable:
            return contents.tokens

    async def look(self, head: Head) -> None:
        """See whether the session was ended (`SessionGone`), and learn of a generation that is newer."""
        waiting = await self._get(head)
        if waiting is not None:
            self._learn(head, waiting.generation)

    async def store(self, contents: Contents) -> None:
        """Have the tokens of *contents* wait for the browser. Raises as `PendingTokens.put`."""
        head = contents.head
        try:
            await self._pending.put(head.id, contents.tokens, generation=head.tokens_version, until=head.expires_at)
        except SessionGone:
            self._ended(head.id, head.expires_at)
            raise
        self._newest.put(head.id, head.tokens_version)

    def handed_out(self, head: Head) -> None:
        """A cookie with this generation goes to the browser: see that a newer one, if there is any, waits for it."""
        self._start(self._keep_newer(head))

    async def aclose(self) -> None:
        """Wait a moment for the background tasks of this event loop, and cancel what is left of them."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()

    async def _get(self, head: Head) -> Waiting | None:
        try:
            return await self._pending.get(head.id)
        except SessionGone:
            self._ended(head.id, head.expires_at)
            raise

    def _learn(self, head: Head, generation: int) -> None:
        if generation > self._newest.get(head.id):
            self._newest.put(head.id, generation)

    async def _settle(self, contents: Contents) -> None:
        """The browser has this generation: let its tokens wait for stragglers only. Something newer is left alone."""
        head, tokens = contents.head, contents.tokens
        try:
            waiting = await self._get(head)
            if waiting is not None and waiting.generation > head.tokens_version:
                self._learn(head, waiting.generation)
                return
            if waiting is not None and waiting.tokens == tokens:
                now, older_at = self._clock.time(), waiting.older_cookie_at
                if older_at is not None and now < older_at + STRAGGLING:
                    return  # an older cookie may overtake the newer one yet; a later request will show which one stayed
                held = await self._held.get(head.id)  # whoever finds it there has older tokens, and needs these
                straggling = now + STRAGGLING if held is None else max(now + STRAGGLING, held.until)
                await self._pending.arrived(
                    head.id, waiting, tokens, straggling_until=straggling, until=head.expires_at
                )
            self._settled.put(head.id, head.tokens_version)
        finally:
            self._settling.discard(head.id)

    async def _keep_newer(self, head: Head) -> None:
        waiting = await self._get(head)
        if waiting is None or waiting.generation <= head.tokens_version:
            return
        self._learn(head, waiting.generation)
        tokens = await self._pending.straggling(head.id, waiting)
        if tokens is not None:
            now = self._clock.time()
            await self._pending.keep(head.id, waiting, tokens, until=head.expires_at, older_cookie_at=now)

    def _start(self, work: Coroutine[None, None, None]) -> bool:
        """Do *work* behind the back of the request; False when there is too much to do already."""
        if len(self._tasks) >= _MOST_TASKS:
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True


async def _quietly(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except (SessionGone, StaleVersion):
        pass  # it was ended, or changed meanwhile: whoever did so saw to it
    except Exception as error:  # a store of the application may raise anything
        _log.debug("tokens that wait for a browser will wait for longer: %s: %s", type(error).__name__, error)


class _Numbers:
    """A number above 1 for each of a bounded number of sessions; all others have 1."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, session_id: str) -> int:
        return self._numbers.get(session_id, 1)

    def put(self, session_id: str, number: int) -> None:
        """Single dictionary operations only, so that threads may share it; what is put last is forgotten last."""
        self._numbers.pop(session_id, None)
        if number > 1:
            self._numbers[session_id] = number
        while len(self._numbers) > _MOST_SESSIONS:
            self._numbers.pop(next(iter(self._numbers)), None)
