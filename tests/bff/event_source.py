"""A page's `EventSource`, without a network: it reads what the application sends, and leaves when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

from coatcheck import codec

OWN_PAGE = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
_PATIENCE = 5.0


class EventSource:
    """One request for `/bff/events` to *app*, which goes on in the running event loop until it is left or ended."""

    def __init__(self, app: Any, cookie: str | None, *, host: str = "localhost:8000", **headers: str) -> None:
        self._app = app
        lines = {"host": host, "accept": "text/event-stream", **OWN_PAGE, **headers}
        if cookie is not None:
            lines["cookie"] = cookie
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/bff/events",
            "raw_path": b"/bff/events",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in lines.items()],
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50000),
        }
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._left = asyncio.Event()
        self._text = ""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.task: asyncio.Task[None] | None = None

    async def open(self) -> EventSource:
        """Return when the answer has begun."""
        self.task = asyncio.get_running_loop().create_task(self._app(self._scope, self._receive, self._sent.put))
        start = await self._message()
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return self

    async def event(self) -> tuple[str, dict[str, Any]]:
        """Return the next event; `("", {})` when the stream is over."""
        while True:
            block, separator, rest = self._text.partition("\n\n")
            if not separator:
                message = await self._message()
                self._text += message.get("body", b"").decode()
                if not message.get("more_body") and not self._text:
                    return "", {}
                continue
            self._text = rest
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
            if "event" in fields:
                return fields["event"], codec.decode_object(fields["data"].encode())

    async def body(self) -> bytes:
        """Return all that is left of the answer."""
        body: bytes = self._text.encode()
        while True:
            message = await self._message()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body

    def said(self) -> str:
        """Return what has been sent by now and was not read."""
        while not self._sent.empty():
            self._text += self._sent.get_nowait().get("body", b"").decode()
        text, self._text = self._text, ""
        return text

    async def leave(self) -> None:
        """Close the page, and wait until the application has noticed."""
        self._left.set()
        assert self.task is not None
        await asyncio.wait_for(self.task, _PATIENCE)

    async def _receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _message(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._sent.get(), _PATIENCE)
