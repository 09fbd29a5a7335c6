"""
Whose request this is, behind proxies: for logs, and for the `X-Forwarded-For` that goes on to a remote API.

Nothing that protects anybody depends on it. The header is read only when the peer is a proxy that the operator named,
and from the right: every proxy appends what it saw, so the last address that no trusted proxy has is the client's, and
what stands before it is what the client said about itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Sequence

from coatcheck.bff.answers import ASGIApp, Receive, Scope
from coatcheck.bff.problems import Send


class ClientAddress:
    """Puts the client's address into the ASGI scope, in the place of the proxy's."""

    def __init__(self, app: ASGIApp, trusted_proxies: Sequence[Container[str]]) -> None:
        self._app = app
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client and self._trusts(client[0]):
            forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            address = self._client_of(forwarded.decode("latin-1"))
            if address is not None:
                scope = {**scope, "client": (address, 0)}
        await self._app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        return any(address in proxies for proxies in self._trusted_proxies)

    def _client_of(self, forwarded: str) -> str | None:
        """The last address in the header that is not a trusted proxy's; None when there is none, or nonsense."""
        for part in reversed(forwarded.split(",")):
            try:
                address = str(ipaddress.ip_address(part.strip().removeprefix("[").removesuffix("]")))
            except ValueError:
                return None
            if not self._trusts(address):
                return address
        return None
