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
from coatcheck.bff.own_headers import Send


class ClientAddress:
    """Puts the client's address into the ASGI scope, in the place of the proxy's."""

    def __init__(self, app: ASGIApp, trusted_proxies: Sequence[Container[str]]) -> None:
        self._app = app
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client and self._trusts(_address(client[0]) or client[0]):
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
            address = _address(part.strip().removeprefix("[").removesuffix("]"))
            if address is None or not self._trusts(address):
                return address
        return None


def _address(text: str) -> str | None:
    """
    An IP address in its usual spelling, or None if *text* is none.

    On a socket for both families an IPv4 peer is `::ffff:10.0.0.1`. A zone (`fe80::1%...`) may hold any text at all.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return str(address)
