"""The one place where tests wait for real time: an access token of a real provider has to expire somewhere."""

from __future__ import annotations

import time

ACCESS_TOKEN_TTL = 5
"""Seconds. The provider's tokens in the scenarios live so long."""


def until_expired(*, seconds: int = ACCESS_TOKEN_TTL) -> None:
    """Let an access token expire that was just issued for so many *seconds*."""
    time.sleep(seconds + 0.3)
