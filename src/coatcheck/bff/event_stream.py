"""
`/bff/events`: a page learns at once that its session ends, or is about to.

A stream of server-sent events (WHATWG HTML, section 9.2), for one page of each browser: `session.js` shares it with the
other tabs. It says nothing about the user, and listening does not count as a use of the session.

    event: expiring     data: {"expires_in": 60}      the session ends in so many seconds unless it is used
    event: ended        data: {"reason": "logout"}    it is over, and the stream, too

Whoever accepts `application/json` is told how it stands at this moment instead: `{"session": "9f2c51aa04be",
"expires_in": 3600}`. The session is called what the audit log calls it, so that a page can tell its own from the next.
"""

from __future__ import annotations

import asyncio
from typing import Any

from coatcheck import codec
from coatcheck.audit import session_reference
from coatcheck.bff.answers import ASGIApp, Receive, Scope, json_answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.lifetime import SessionLifetime
from coatcheck.bff.live import LOOK_EVERY, LiveSessions, Watch
from coatcheck.bff.own_headers import OURS, Send
from coatcheck.bff.refusals import login_needed, refuse
from coatcheck.bff.settings import Settings
from coatcheck.clock import Clock
from coatcheck.errors import SessionGone, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.sessions import SessionHandle

WARN_BEFORE = 60.0
"""Seconds before the end at which a page is told."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which something is sent, so that no proxy in between takes the stream for dead."""
MAX_STREAMS = 20
"""Streams that one session may have here at once: a browser needs one."""
_RECONNECT = b"retry: 2000\n\n"
"""Milliseconds after which a browser comes back when the connection was cut."""


class EventStreams:
    """Answers with the event stream of the session."""

    def __init__(self, settings: Settings, live: LiveSessions, lifetime: SessionLifetime) -> None:
        self._settings = settings
        self._live = live
        self._lifetime = lifetime

    async def __call__(self, current: CurrentRequest) -> ASGIApp:
        """401 without a session: the page asks for a login, and a browser does not come back by itself."""
        refusal = current.check_same_origin()
        if refusal is not None:
            cause = f"{current.path} was asked for by something else than a page of this site."
            return refuse(current, Diagnosis(refusal.code, cause, "Let a page of your own open the EventSource."))
        try:
            handle = await current.session(slide=False)
            left = 0.0 if handle is None else await self._lifetime.left(handle, now=self._settings.clock.time())
        except SessionGone:
            return login_needed(current, "session_ended")
        except (StoreUnavailable, UnknownSealKey) as error:
            remedy = "See that the session store runs; nobody was logged out."
            return refuse(current, Diagnosis("store_unavailable", f"A session cannot be read: {error}.", remedy))
        if handle is None:
            return login_needed(current, current.no_session)
        if not left:  # there is nothing left to renew it with
            await current.end_session()
            return login_needed(current, "session_ended").with_cookies(current.set_cookies())
        if current.header(b"accept") == b"application/json":
            reference = session_reference(handle.session.id)
            return json_answer(codec.encode({"session": reference, "expires_in": round(left)}))
        if self._live.count(handle) >= MAX_STREAMS:
            cause = f"One session has {MAX_STREAMS} event streams open already."
            return refuse(current, Diagnosis("too_many_streams", cause, "Share one between all tabs: see session.js."))
        return _Stream(self._live, handle, self._lifetime, self._settings.clock)


class _Stream:
    """One answer, as an ASGI application."""

    def __init__(self, live: LiveSessions, handle: SessionHandle, lifetime: SessionLifetime, clock: Clock) -> None:
        self._live = live
        self._handle = handle
        self._lifetime = lifetime
        self._clock = clock
        self._left = False
        self._said_at = 0.0
        self._due = 0.0
        """When there may be something to tell, as far as is known."""
        self._warned_of: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._live.join(self._handle)
        leaving = asyncio.get_running_loop().create_task(self._wait_for_leaving(receive, watch))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await self._say(send, _RECONNECT)
            await self._tell(watch, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            self._live.leave(watch)

    async def _tell(self, watch: Watch, send: Send) -> None:
        await self._tell_the_time(watch, send)  # whoever comes late is told at once
        while watch.ended is None and not watch.closing and not self._left:
            watch.wake_at = min(self._due, self._said_at + KEEP_ALIVE)
            await watch.news()
            now = self._clock.time()
            if now >= self._due and watch.handle.renews_inline:
                return  # only the browser knows whether its cookie has slid: it comes back with the one it has by now
            if now >= self._due and watch.ended is None:
                if await self._live.look(watch):
                    await self._tell_the_time(watch, send)
                else:
                    self._due = now + LOOK_EVERY  # nobody knows
            if now >= self._said_at + KEEP_ALIVE:
                await self._say(send, b":\n\n")
        if watch.ended is not None:
            await self._say(send, _event("ended", {"reason": watch.ended}))

    async def _tell_the_time(self, watch: Watch, send: Send) -> None:
        """Warn of the end, once, and find out when to look again."""
        if watch.ended is not None:
            return
        ends_at, now = await self._lifetime.ends_at(watch.handle), self._clock.time()
        if now >= ends_at:
            # Or else the session itself lives, but nothing that it stands on.
            watch.end("expired" if now >= watch.handle.session.dead_at else "grant_ended")
        elif now >= ends_at - WARN_BEFORE and self._warned_of != ends_at:
            self._warned_of = ends_at
            await self._say(send, _event("expiring", {"expires_in": round(ends_at - now)}))
        self._due = ends_at if self._warned_of == ends_at else ends_at - WARN_BEFORE

    async def _say(self, send: Send, body: bytes) -> None:
        self._said_at = self._clock.time()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _wait_for_leaving(self, receive: Receive, watch: Watch) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._left = True
        watch.wake()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), codec.encode(data))


_HEADERS = (
    *OURS,
    (b"content-type", b"text/event-stream"),
    (b"vary", b"cookie"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events for itself
)
