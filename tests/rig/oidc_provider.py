"""
The npm package oidc-provider (OpenID certified) as a test's authorization server, with a control plane.

    client = provider.add_client("basic", redirect_uris="http://localhost:8123/bff/callback")
    ...
    assert len(provider.log(client_id=client.client_id, grant_type="refresh_token")) == 1

One process serves the whole run: a test makes its own client and looks only at that client's requests. Everything here
is synchronous; inside a coroutine test, whatever has to wait goes through `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from tests.rig.control_plane import ControlPlane, RegisteredClient, uris
from tests.rig.node import node_binary, npm_ci
from tests.rig.programs import Program

FOLDER = Path(__file__).parent / "provider"

FaultMode = Literal["status", "garbage", "huge", "drip", "drop", "after", "delay", "hold", "keep"]


class OIDCProvider(ControlPlane):
    """A running oidc-provider. Users are whatever name is typed into its login page; `auto_login` shows no page."""

    @classmethod
    def start(cls, *, port: int = 0, env: Mapping[str, str] | None = None) -> Self:
        """Install the npm package where it is missing, and serve on 127.0.0.1."""
        npm_ci(FOLDER)
        command = [node_binary(), FOLDER / "server.mjs", "--exit-with-stdin"]
        program = Program(command, env={"OP_PORT": str(port), **(env or {})}, cwd=FOLDER)
        return cls(program, ready=r'"ready":true,"issuer":"(?P<issuer>[^"]+)"')

    def add_client(
        self,
        preset: str = "basic",
        *,
        redirect_uris: str | Sequence[str] = (),
        post_logout_redirect_uris: str | Sequence[str] = (),
        **metadata: object,
    ) -> RegisteredClient:
        """
        Register a client of its own for a test.

        *preset*: `basic` (secret with odd characters, rotation), `post` (no rotation), `pkjwt` (a fresh ES256 key),
        `public`, `dpop`, `svc` (client credentials), `tx` (token exchange), `login-tx` (both). *metadata* adds to it:
        `x_access_token_ttl`, `x_refresh_token_ttl` (seconds), `x_rotate`, `x_refresh_tokens`, or any registered name.
        """
        pem = None
        if preset == "pkjwt" and "jwks" not in metadata:
            pem, metadata["jwks"] = _fresh_key()
        registered = self._call(
            "POST",
            "clients",
            {
                "preset": preset,
                "client_id": self._fresh_client_id(preset),
                **({"redirect_uris": uris(redirect_uris)} if redirect_uris else {}),
                **({"post_logout_redirect_uris": uris(post_logout_redirect_uris)} if post_logout_redirect_uris else {}),
                **metadata,
            },
        )
        return RegisteredClient(
            client_id=registered["client_id"],
            client_secret=registered.get("client_secret"),
            private_key_pem=pem,
            redirect_uris=tuple(registered["redirect_uris"]),
        )

    def fault(
        self,
        mode: FaultMode,
        *,
        path: str = "/token",
        grant_type: str | None = None,
        client_id: str | None = None,
        times: int | None = 1,
        **details: object,
    ) -> None:
        """
        Fail the next *times* such requests (None: until the test ends).

        `status` (status=, body=, headers=), `garbage` (body=, headers=), `huge` (100 MB), `drip` (an answer that begins
        and never ends: status=, headers=, body=, ms= between two bytes), `drop` (closed unanswered), `after` (the
        provider acts, then the answer is lost), `delay` (ms=), `hold` (until `release()`), `keep` (the provider acts,
        then the answer waits for `release()`).
        """
        self._call("POST", "fault", {"mode": mode, **_criteria(path, grant_type, client_id), "times": times, **details})

    def clear_faults(self, *, client_id: str | None = None) -> None:
        """Remove all faults, or those of one client."""
        self._call("DELETE", "fault", {} if client_id is None else {"client_id": client_id})

    @contextmanager
    def hold(
        self, *, path: str = "/token", grant_type: str | None = None, client_id: str | None = None
    ) -> Iterator[None]:
        """Let no such request be answered while inside. What was held goes on at the end."""
        self.fault("hold", path=path, grant_type=grant_type, client_id=client_id, times=None)
        try:
            yield
        finally:
            self.clear_faults(client_id=client_id)
            self.release(client_id=client_id)

    def release(self, *, client_id: str | None = None) -> None:
        """Let every held request go on, or those of one client."""
        self._call("DELETE", "hold", {} if client_id is None else {"client_id": client_id})

    def wait_for_request(
        self,
        *,
        path: str = "/token",
        grant_type: str | None = None,
        client_id: str | None = None,
        count: int = 1,
        seconds: float = 10,
    ) -> None:
        """Wait until *count* such requests have arrived since the log was cleared, answered or not."""
        wanted = {**_criteria(path, grant_type, client_id), "count": count, "seconds": seconds}
        assert self._call("POST", "arrived", wanted)["arrived"], f"fewer than {count} requests like {wanted}"

    def tamper(
        self,
        path: str = "/token",
        *,
        grant_type: str | None = None,
        client_id: str | None = None,
        times: int | None = 1,
        **changes: object,
    ) -> None:
        """
        Make the next *times* such answers wrong, although well formed and signed by the provider's own key.

        json=, drop= (members of the answer); claims=, drop_claims=, header=, drop_header= (of the id_token);
        sign="none", "wrong-key", "bad-signature", "hs256-public-key" or "ES256".
        With path "redirect": query=, drop= (parameters of the way back to the application), fragment= (parameters that
        stand in its fragment, too).
        """
        self._call("POST", "tamper", {**_criteria(path, grant_type, client_id), "times": times, **changes})

    def clear_tampers(self) -> None:
        self._call("DELETE", "tamper")

    def rotate_keys(self, *, keep: bool = False) -> list[str]:
        """Sign with new keys from now on; the `kid`s that are published. The old keys disappear unless *keep*."""
        kids: list[str] = self._call("POST", "rotate_keys", {"keep": keep})["kids"]
        return kids

    def signing_key(self) -> tuple[str, str]:
        """`kid` and private key (PEM) of what its RS256 signatures are made with: for tokens that no provider makes."""
        key = self._call("GET", "signing_key")
        return key["kid"], key["pem"]

    def whose(self, access_token: str) -> dict[str, Any]:
        """`sub`, `client_id`, `scope`, `grant_id`, `expires_at` of an opaque token that is valid; else empty."""
        found: dict[str, Any] = self._call("POST", "token", {"access_token": access_token})
        return found

    def good_refresh_tokens(self, client_id: str) -> int:
        """How many refresh tokens of a client would be accepted now: neither used up nor revoked."""
        found: int = self._call("POST", "refresh_tokens", {"client_id": client_id})["good"]
        return found

    def revoke_grant(self, grant_id: str) -> bool:
        """End a grant as an administrator would: its refresh token is `invalid_grant` from now on."""
        return bool(self._call("POST", "revoke_grant", {"grant_id": grant_id})["found"])

    def backchannel_logout(self, client: RegisteredClient, *, sub: str, sid: str | None = None) -> dict[str, Any]:
        """Send a logout token to the client's `backchannel_logout_uri`: `{"delivered": True}` or what went wrong."""
        answer: dict[str, Any] = self._call(
            "POST", "backchannel", {"client_id": client.client_id, "sub": sub, "sid": sid}
        )
        return answer

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What the provider itself reports: `grant.error`, `grant.revoked`, `backchannel.success` and the like."""
        return [event for event in self._call("GET", "events") if name in (None, event["name"])]


def _criteria(path: str, grant_type: str | None, client_id: str | None) -> dict[str, str]:
    wanted = {"path": path, "grant_type": grant_type, "client_id": client_id}
    return {name: value for name, value in wanted.items() if value is not None}


def _fresh_key() -> tuple[str, dict[str, object]]:
    """A private key as PEM, and its public half as a JWK set."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    key = ECKey.import_key(pem)
    return pem, {"keys": [key.as_dict(private=False, use="sig", alg="ES256", kid=key.thumbprint())]}
