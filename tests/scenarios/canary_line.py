"""A provider and an application, each behind a tap, and what was to be seen of one tour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from coatcheck.audit import EVENTS
from tests.rig.control_plane import RegisteredClient
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.programs import free_port
from tests.rig.wiretap import Message, Wiretap
from tests.scenarios.canaries import leaks, overheard
from tests.scenarios.gateway import Application

EAVESDROPPER = {"PYTHONPATH": str(Path(__file__).parent / "eavesdropper"), "PYTHONASYNCIODEBUG": "1"}
TTL = 3
"""Seconds that an access token lives."""

KINDS = {
    "access token",
    "refresh token",
    "id_token",
    "code",
    "code_verifier",
    "state",
    "nonce",
    "authorization",
    "login cookie",
    "session cookie",
    "logout sid",
    "logout token",
    "sid of the provider",
    "client secret",
    "sealing key",
}


@dataclass
class Line:
    """The provider and the application, each behind a tap."""

    provider: OIDCProvider
    application: Application
    to_provider: Wiretap
    to_application: Wiretap
    api: EchoAPI

    def register(self, **metadata: object) -> RegisteredClient:
        """
        Register the application; its access tokens live for `TTL`, unless *metadata* says otherwise. The provider tells
        it who has left.
        """
        return self.provider.add_client(
            "basic",
            redirect_uris=self.application.redirect_uri,
            post_logout_redirect_uris=self.application.post_logout_redirect_uri,
            backchannel_logout_uri=self.backchannel_url,
            backchannel_logout_session_required=True,
            **{"x_access_token_ttl": TTL, **metadata},
        )

    @property
    def backchannel_url(self) -> str:
        return f"http://127.0.0.1:{self.application.front_port}/bff/backchannel"

    def tell(self, client: RegisteredClient, *, front_channel: bool = True) -> None:
        """Have the provider send a logout token about alice's session; strangers send whatever they may have."""
        [sid] = overheard(self.to_provider, self.to_application)["sid of the provider"]
        assert self.provider.backchannel_logout(client, sub="alice", sid=sid) == {"delivered": True}
        for kind in ("logout token", "id_token", "access token", "refresh token"):
            for token in overheard(self.to_provider, self.to_application)[kind]:
                answer = httpx2.post(self.backchannel_url, data={"logout_token": token}, trust_env=False, verify=False)
                assert answer.status_code == 400
        if front_channel:
            url = f"http://127.0.0.1:{self.application.front_port}/bff/frontchannel"
            whose = {"iss": self.provider.issuer, "sid": sid}
            assert httpx2.get(url, params=whose, trust_env=False, verify=False).status_code == 200
        self.provider.wait_for_another_second()


@contextmanager
def tapped_line() -> Iterator[Line]:
    """A provider of its own, because its issuer is the address of the tap."""
    tapped, real = free_port(), free_port()
    application = Application(free_port(), front_port=free_port())
    assert application.front_port
    with (
        Wiretap.between(tapped, real) as to_provider,
        Wiretap.between(application.front_port, application.port) as to_application,
        OIDCProvider.start(port=real, env={"OP_ISSUER": f"http://127.0.0.1:{tapped}"}) as provider,
        EchoAPI.serve() as api,
    ):
        yield Line(provider, application, to_provider, to_application, api)


@dataclass
class Seen:
    """What an eavesdropper, a browser and a thief of the disk got to see of one tour."""

    canaries: dict[str, set[str]]
    output: bytes
    answers: list[Message]
    files: bytes


def found_in_answers(seen: Seen) -> set[str]:
    """
    What the browser got to see and should not have.

    A cookie may have what belongs into cookies; a redirect what the front channel of OpenID Connect carries, which is
    `state`, `nonce` and the id_token_hint of a logout; and the page its own logout link and what its session is called.
    """
    found: set[str] = set()
    for answer in seen.answers:
        for header in answer.lines:
            name = header.partition(b":")[0].lower()
            allowed = {
                b"set-cookie": ("login cookie", "session cookie"),
                b"location": ("state", "nonce", "id_token"),
            }.get(name, ())
            found |= set(leaks(seen.canaries, header, allowed=allowed))
        found |= set(leaks(seen.canaries, answer.body, allowed=("logout sid", "sid of the provider")))
    return found


def assert_the_audit_log_names_nobody(output: bytes) -> None:
    """What happened is in there, and references are all that it has of whom."""
    lines = [line for line in output.splitlines() if line.startswith(b"HEARD coatcheck.audit ")]
    events = {line.split()[3].decode() for line in lines}
    assert events >= {"logged_in", "session_ended", "logout_token_accepted", "logout_token_refused"}
    assert events <= set(EVENTS)
    assert not [line for line in lines if b"alice" in line]
