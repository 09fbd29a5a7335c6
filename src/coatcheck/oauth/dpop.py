"""DPoP keys and proofs (RFC 9449). PLACEHOLDER, owned by the oauth colleague."""

from __future__ import annotations


class DPoPKey:
    """A private EC P-256 key. `DPoPKey.generate()`, `DPoPKey.from_jwk(text)`, `.to_jwk() -> str`, `.jkt`, `.proof(...)`."""
