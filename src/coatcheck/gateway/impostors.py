"""Could somebody on the way answer in the place of a store, and get its password? What the URL of the store says."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from coatcheck.bff.public_url import is_loopback
from coatcheck.stores.urls import StoreURL

_VERIFYING = ("verify-ca", "verify-full")


def may_meet_impostors(place: StoreURL) -> str | None:
    """
    Say what to change in *place* where the network can be trusted less than the server; None if nothing.

    It is advice and no error: the network between the two may be one's own.
    """
    try:
        parts = urlsplit(place.url)
        options = parse_qs(parts.query)
    except ValueError:
        return None  # whoever connects to it says so
    if place.kind in ("memory", "sqlite") or _is_here(parts.netloc, options):
        return None
    if place.kind == "redis":
        if parts.scheme.startswith(("rediss", "valkeys")):
            return None
        return f"{place} is not encrypted: use rediss:// unless nobody else can reach that network"
    if options.get("sslmode", [""])[-1] in _VERIFYING:
        return None
    return (
        f"{place} is not verified, whatever answers there gets the password: add ?sslmode=verify-full&sslrootcert=FILE "
        "unless nobody else can reach that network"
    )


def _is_here(authority: str, options: dict[str, list[str]]) -> bool:
    """Say whether all servers are on this machine; a path is a socket."""
    hosts = authority.rpartition("@")[2] or ",".join(options.get("host", ["localhost"]))
    return all(_is_local(each) for each in hosts.split(","))


def _is_local(host: str) -> bool:
    if host.startswith(("/", "%2F", "%2f")):
        return True
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)
