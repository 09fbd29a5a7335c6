"""
Who is still listening: the live streams of each session, which have to end when it does, on whichever node.

What ends a session tells the streams of this process at once, and those of other processes by the `Notifier` of the
store. A message may be lost, and a custom store may have no Notifier, so every stream's session is also looked at from
time to time: every 5 s, or once a minute while messages arrive. A message alone ends nothing: it makes this process
look at the sessions that it names.

One task for each event loop does all of this, while anybody listens there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import get_args
from weakref import WeakKeyDictionary

from coatcheck import base64url
from coatcheck.bff.problems import logger
from coatcheck.bff.stopping import is_stopping
from coatcheck.clock import Clock
from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.coordination import Notifier
from coatcheck.sessions.session import EndReason, Session
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.tokens.verdicts import told

LOOK_EVERY = 5.0
"""Seconds between two looks at the session of a stream where no messages arrive."""
LOOK_EVERY_WITH_MESSAGES = 60.0
"""The same where they do."""
TICK = 1.0
"""Seconds between two looks at the clock."""
_NAMES_PER_MESSAGE = 64
_KNOWN_REASONS = frozenset(get_args(EndReason))

Names = Sequence[bytes]
_decode_message = decoder(tuple[str, list[str]]).decode


class Watch:
    """One live stream: *handle* is its session as it was when somebody last looked."""

    def __init__(self, handle: SessionHandle, names: Names) -> None:
        self.handle = handle
        self.names = names
        self.ended: str | None = None
        """Why the session has ended; None while it has not."""
        self.closing = False
        """Whether the process stops."""
        self.wake_at = float("inf")
        """The instant (seconds since the epoch) at which the stream wants to be woken."""
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Have the stream look at what is new."""
        self._news.set()

    async def news(self) -> None:
        """Wait until there is something new, or the instant has come."""
        await self._news.wait()
        self._news.clear()

    def end(self, reason: str) -> None:
        """Have the stream end."""
        self.ended = self.ended or reason
        self.wake()


class LiveSessions:
    """
    The live streams of one application in this process. *names* finds what a session is called in messages.

    *channel* is where processes of this application, and of no other, send them.
    """

    def __init__(
        self,
        sessions: Sessions,
        names: Callable[[Session], Names],
        notifier: Notifier | None,
        *,
        channel: str,
        clock: Clock,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._sessions = sessions
        self._names = names
        self._notifier = notifier
        self._channel = channel
        self._clock = clock
        self._heard = heard
        self._hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()

    def join(self, handle: SessionHandle) -> Watch:
        """Add a stream of the session of *handle*. Whoever joins leaves again (`leave`)."""
        hub = self._hub()
        watch = Watch(handle, self._names(handle.session))
        hub.add(watch)
        return watch

    def leave(self, watch: Watch) -> None:
        """Remove a stream."""
        self._hub().remove(watch)

    async def look(self, watch: Watch) -> bool:
        """Look at the session of *watch* now: it ends, or has a newer handle. False if nobody knows."""
        return await self._hub().look(watch, None)

    def count(self, handle: SessionHandle) -> int:
        """Say how many streams the session has in this event loop."""
        names = self._names(handle.session)
        return len(self._hub().by_name.get(names[0], ())) if names else 0

    async def ended(self, names: Names, reason: EndReason) -> None:
        """Tell all processes that sessions with one of *names* have ended. It never fails: they look by themselves."""
        if not names:
            return
        self._hub().suspect(names, reason)
        if self._notifier is None:
            return
        written = [base64url.encode(name) for name in names]
        try:
            for start in range(0, len(written), _NAMES_PER_MESSAGE):
                part = written[start : start + _NAMES_PER_MESSAGE]
                await self._notifier.publish(self._channel, encode((reason, part)))
        except Exception as error:  # a store of the application may raise anything
            logger.debug("other processes were not told that sessions have ended, and will see it: %s", told(error))

    async def aclose(self) -> None:
        """End the streams of this event loop, and what listens for them."""
        await self._hub().aclose()

    def _hub(self) -> _Hub:
        return self._hub_of(asyncio.get_running_loop())

    def _hub_of(self, loop: asyncio.AbstractEventLoop) -> _Hub:
        hub = self._hubs.get(loop)
        if hub is None:
            hub = self._hubs[loop] = _Hub(self._sessions, self._notifier, self._channel, self._clock, self._heard)
        return hub


class _Hub:
    """The streams of one event loop, and the task that looks after them."""

    def __init__(
        self, sessions: Sessions, notifier: Notifier | None, channel: str, clock: Clock, heard: Callable[[], None]
    ) -> None:
        self.by_name: dict[bytes, set[Watch]] = {}
        self._sessions = sessions
        self._notifier = notifier
        self._channel = channel
        self._clock = clock
        self._heard = heard
        self._watches: dict[Watch, None] = {}  # in the order in which they are looked at
        self._suspects: dict[Watch, str] = {}
        self._news = asyncio.Event()
        self._look_at = 0.0
        self._hears_messages = False
        self._task: asyncio.Task[None] | None = None

    def add(self, watch: Watch) -> None:
        self._watches[watch] = None
        for name in watch.names:
            self.by_name.setdefault(name, set()).add(watch)
        if self._task is None:
            self._look_at = self._clock.monotonic() + LOOK_EVERY
            self._task = asyncio.get_running_loop().create_task(self._run())

    def remove(self, watch: Watch) -> None:
        self._watches.pop(watch, None)
        self._suspects.pop(watch, None)
        for name in watch.names:
            named = self.by_name.get(name, set())
            named.discard(watch)
            if not named:
                self.by_name.pop(name, None)

    def suspect(self, names: Iterable[bytes], reason: str) -> None:
        """Have a look at the sessions with one of *names* soon: they are said to have ended, for this *reason*."""
        for name in names:
            for watch in self.by_name.get(name, ()):
                self._suspects.setdefault(watch, reason)
        if self._suspects:
            self._news.set()

    async def aclose(self) -> None:
        for watch in self._watches:
            watch.closing = True
            watch.wake()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        listening = None
        if self._notifier is not None:
            listening = asyncio.get_running_loop().create_task(self._listen(self._notifier))
        try:
            while self._watches:
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._news.wait()
                self._news.clear()
                self._wake_those_whose_time_has_come()
                await self._look_at_suspects()
                if self._clock.monotonic() >= self._look_at:
                    await self._look_at_all()
        finally:
            if self._task is asyncio.current_task():
                self._task = None
            if listening is not None:
                listening.cancel()

    def _wake_those_whose_time_has_come(self) -> None:
        now, stopping = self._clock.time(), is_stopping()
        for watch in self._watches:
            watch.closing = watch.closing or stopping
            if watch.closing or now >= watch.wake_at:
                watch.wake()

    async def _look_at_suspects(self) -> None:
        for watch in list(self._suspects):
            # Before the look: what is said while it is under way may be about what it no longer sees.
            reason = self._suspects.pop(watch, None)
            if reason is None or await self.look(watch, reason):
                continue
            # The store is away: once more with the next tick. Or this session alone cannot be read, so others come
            # first then.
            if watch in self._watches:
                self._suspects.setdefault(watch, reason)
            return

    async def _look_at_all(self) -> None:
        every = LOOK_EVERY_WITH_MESSAGES if self._hears_messages else LOOK_EVERY
        self._look_at = self._clock.monotonic() + every
        for watch in list(self._watches):
            if self._suspects:  # of those it is said that they have ended, and the rest may take a while
                await self._look_at_suspects()
            if not await self.look(watch, None):
                if watch in self._watches:  # others come first next time: it may be this session alone
                    del self._watches[watch]
                    self._watches[watch] = None
                self._look_at = self._clock.monotonic() + LOOK_EVERY
                return

    async def look(self, watch: Watch, reason: str | None) -> bool:
        """Look whether the session of *watch* lives; False if nobody knows."""
        now = self._clock.time()
        try:
            handle = await self._sessions.reopen(watch.handle, now=now)
        except Exception as error:  # a store of the application may raise anything, and the others wait for this task
            logger.debug("nobody can say whether the session of a stream lives: %s", told(error))
            return False
        if handle is not None:
            watch.handle = handle
        else:
            watch.end(reason or ("expired" if now >= watch.handle.session.dead_at else "ended"))
        return True

    async def _listen(self, notifier: Notifier) -> None:
        """Hear of endings elsewhere. Whenever that begins, all are looked at: what was said before is lost."""
        while True:
            try:
                async with notifier.subscribe(self._channel) as messages:
                    self._hears_messages, self._look_at = True, 0.0
                    self._news.set()
                    async for message in messages:
                        self._hear(message)
            except Exception as error:  # as above
                logger.debug("no messages about sessions that end arrive, so they are looked at: %s", told(error))
            self._hears_messages = False
            self._look_at = min(self._look_at, self._clock.monotonic() + LOOK_EVERY)
            await asyncio.sleep(LOOK_EVERY)

    def _hear(self, message: bytes) -> None:
        try:
            reason, names = _decode_message(message)
            decoded = [base64url.decode(name) for name in names]
        except (DecodeError, ValueError):
            return  # another version's
        self._heard()
        self.suspect(decoded, reason if reason in _KNOWN_REASONS else "ended")
