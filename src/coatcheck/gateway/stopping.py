"""A worker that is told to stop says so, that streams may end: granian itself waits for all answers under way."""

from __future__ import annotations

import signal
from collections.abc import MutableMapping
from types import FrameType
from typing import Any

from coatcheck.bff.answers import ASGIApp, Receive, Scope
from coatcheck.bff.own_headers import Send
from coatcheck.bff.stopping import stop


class HearsSIGTERM:
    """
    An ASGI application that is *app*, in a worker whose main thread runs the event loop: SIGTERM calls `stop`.

    The event loop learns of signals by a file descriptor, and what answers them in Python does little or nothing
    there. So it is no harm to be put in front of that, and whatever it does is done, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        before = signal.getsignal(signal.SIGTERM)

        def answer(number: int, frame: FrameType | None) -> None:
            stop()
            if callable(before):
                before(number, frame)

        async def send_and_restore(message: MutableMapping[str, Any]) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                signal.signal(signal.SIGTERM, before)
            await send(message)

        signal.signal(signal.SIGTERM, answer)
        signal.siginterrupt(signal.SIGTERM, False)  # as the event loop had it: no system call fails for a signal's sake
        await self._app(scope, receive, send_and_restore)
