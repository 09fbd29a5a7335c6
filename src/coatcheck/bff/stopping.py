"""
Whether this process is about to stop. A server that stops waits for the answers under way, and a stream has no end.

ASGI does not say it: the lifespan ends when all answers have. So whoever runs the process says it (`stop`), and of
uvicorn it can be seen, which has a method of its server answer SIGTERM.
"""

from __future__ import annotations

import signal

_stopping = False


def stop() -> None:
    """Say that this process stops now: streams end."""
    global _stopping  # it is about the process
    _stopping = True


def is_stopping() -> bool:
    """Say whether the process stops, as far as can be seen."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return _stopping or getattr(server, "should_exit", False) is True
