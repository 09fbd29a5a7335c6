"""The names under which grants and registrations stand in a store that several processes share."""

from __future__ import annotations

import hashlib

from coatcheck.oauth.client import Client


class GrantNames:
    """
    Names grants and registrations by keyed hashes: what a store sees tells nobody a refresh token, or that two are one.

    One name for each key of the ring: while keys are rotated, nodes disagree about which comes first, and must meet all
    the same.
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    def grant(self, client: Client, refresh_token: str) -> tuple[bytes, ...]:
        """Name the grant that *refresh_token* renews."""
        return self._names("grant", client.issuer, client.client_id, refresh_token)

    def registration(self, client: Client) -> tuple[bytes, ...]:
        """Name what is known about a registration's refresh tokens."""
        return self._names("rotation", client.issuer, client.client_id)

    def watermark(self) -> tuple[bytes, ...]:
        """Name what tells how far the history of a store goes."""
        return self._names("watermark")

    def _names(self, *parts: str) -> tuple[bytes, ...]:
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        return tuple(hashlib.blake2b(text, digest_size=32, key=key).digest() for key in self._keys)
