"""What an application can take part in. So far: the tokens of a login, before anything is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from coatcheck.tokens.values import User, UserToken


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensReceived:
    """
    A login has brought tokens. *user* is who logged in (no session exists yet), *client* the name of the registration.

    *return_url* is where the browser goes when the login succeeds.
    """

    user: User
    token: UserToken = field(repr=False)
    client: str
    return_url: str


class BFFEvents(Protocol):
    """What `BFF(events=...)` takes. An event that raises fails the login: no session begins."""

    async def tokens_received(self, event: TokensReceived) -> None:
        """Take the tokens of a login. With `save_tokens=False` they are kept nowhere else."""
        ...
