"""
Serve ASGI applications on loopback, and run the `coatcheck` command.

    with serve(app) as base_url, EchoAPI.serve() as api: ...
    with coatcheck("run", config_file) as program:
        program.wait_for("Listening")
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.rig.programs import Program, ProgramFailed, free_port

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@contextmanager
def serve(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0, lifespan: str = "auto") -> Iterator[str]:
    """
    Serve *app* by uvicorn in a thread; gives its base URL (`http://HOST:PORT`).

    *host* is the name in the base URL; the server always listens on 127.0.0.1, so `localhost` works and makes a
    cross-site pair with a provider on `127.0.0.1`. Pick *port* with `free_port()` where the application has to know its
    own address beforehand.
    """
    access_log = logging.getLogger("uvicorn.access")
    propagated = access_log.propagate
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        lifespan=lifespan,  # type: ignore[arg-type]
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise ProgramFailed(f"the application did not start to serve on port {port}")
            time.sleep(0.005)
        bound: int = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{host}:{bound}"
    finally:
        server.should_exit = True
        thread.join(20)
        access_log.propagate = propagated  # uvicorn silences the logger of the whole process


def coatcheck(*arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Program:
    """Start the `coatcheck` command as a process of its own; use it in a `with`."""
    command = [Path(sys.prefix, "bin", "coatcheck"), *arguments]
    return Program(command, env=env, **({} if cwd is None else {"cwd": cwd}))


__all__ = ["ASGIApp", "Message", "Program", "Receive", "Scope", "Send", "coatcheck", "free_port", "serve"]
