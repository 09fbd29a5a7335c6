"""What a worker of the fleet is told to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SessionKind = Literal["server", "cookie", "shared-grant"]
"""Where tokens are: in sessions in the store; in cookies; in the store, one grant for all sessions of a user."""

Protection = Literal["lease", "reread", "mark", "cas", "pending", "watermark", "messages", "parts"]
"""What the rig can take away from a store: see `gated_store.py`."""
PROTECTIONS: Mapping[SessionKind, tuple[Protection, ...]] = {
    "server": ("lease", "reread", "mark", "cas"),
    "cookie": ("lease", "pending"),
    "shared-grant": ("lease",),
}
"""By what shows that they are missing in a storm. What `watermark` is for never happens there: see test_restored."""

LeaseSeconds = tuple[float, float, float]
"""Initial, sending, beat."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """
    One application; all workers with the same plan (but for the number) share its sessions.

    *store* is the URL of the one store for sessions and coordination. Without *lease_times* leases are
    as in production. *without* names a protection that the rig takes away from the store. *token_endpoint* is where
    token requests go instead of where the issuer says: to a fault proxy, for instance.
    """

    public_url: str
    issuer: str
    client_id: str
    client_secret: str
    keys: Sequence[str]
    store: str
    api: str
    rotation: str = "strict"
    scope: str = "openid profile offline_access"
    sessions: SessionKind = "server"
    lease_times: LeaseSeconds | None = None
    without: Protection | None = None
    token_endpoint: str | None = None
    idle_days: int = 30
    logout: Mapping[str, Any] = field(default_factory=dict)
    """`LogoutOptions`."""
    number: int = 0
