"""What both test providers offer beside OpenID Connect: a log of their requests, and clients added while they run."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.rig.programs import Program, ProgramFailed


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request that a provider got. Secrets, tokens and codes appear as `fingerprint(value)` only."""

    at: float
    method: str
    path: str
    client_id: str | None = None
    grant_type: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    auth: str | None = None
    """The scheme of the Authorization header: `Basic`, `Bearer`, `DPoP`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    """None where no answer was sent (yet)."""
    fault: str | None = None
    kept: int | None = None
    """The status of an answer that the provider has made and that waits for `release()`."""
    tampered: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """What the application under test is configured with."""

    client_id: str
    client_secret: str | None
    private_key_pem: str | None = None
    redirect_uris: tuple[str, ...] = ()


def fingerprint(secret: str) -> str:
    """How *secret* appears in a provider's log."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()[:16]}"


class ControlPlane:
    """A provider's process and its control plane. It runs until `stop()`."""

    issuer: str
    origin: str

    def __init__(self, program: Program, *, ready: str) -> None:
        self.program = program
        try:
            self.issuer = program.wait_for(ready).group("issuer")
        except BaseException:
            program.stop()
            raise
        parts = httpx2.URL(self.issuer)
        self.origin = f"{parts.scheme}://{parts.netloc.decode()}"
        self._http = httpx2.Client(base_url=f"{self.origin}/_ctl/", trust_env=False, timeout=60)
        self._numbers = itertools.count(1)

    def log(
        self, *, client_id: str | None = None, grant_type: str | None = None, path: str | None = None
    ) -> list[LoggedRequest]:
        """The requests so far, oldest first, narrowed to what is given."""
        entries = [LoggedRequest(**entry) for entry in self._call("GET", "log")]
        return [
            entry
            for entry in entries
            if client_id in (None, entry.client_id)
            and grant_type in (None, entry.grant_type)
            and path in (None, entry.path)
        ]

    def clear_log(self) -> None:
        self._call("DELETE", "log")

    def config(self, **knobs: object) -> None:
        """Turn knobs; they are turned back after each test."""
        self._call("POST", "config", knobs)

    def reset(self) -> None:
        """Knobs, faults and tamperings as at the start. Clients, sessions and the log stay."""
        self._call("POST", "reset")

    def wait_for_another_second(self) -> None:
        """Return when what the provider issues has a later `iat` than what it has issued: it counts whole seconds."""
        begun, deadline = self._shown(), time.monotonic() + 10
        while self._shown() == begun:
            assert time.monotonic() < deadline, "the provider's clock stands still"
            time.sleep(0.02)

    def _shown(self) -> str:
        """What the provider's clock shows."""
        return str(self._http.head("/").headers["date"])

    def stop(self) -> None:
        self._http.close()
        self.program.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _fresh_client_id(self, preset: str) -> str:
        return f"{preset}-{next(self._numbers)}"

    def _call(self, method: str, control: str, body: Mapping[str, object] | None = None) -> Any:
        response = self._http.request(method, control, json=body or {})
        if response.status_code != 200:
            raise ProgramFailed(f"{method} {control}: {response.status_code} {response.text}\n{self.program.output}")
        return response.json()


def uris(value: str | Sequence[str]) -> list[str]:
    """One URI or several, as a list."""
    return [value] if isinstance(value, str) else list(value)
