"""
django-oauth-toolkit as a second authorization server: what works with one provider only is not OpenID Connect.

It differs from the first in many corners: no RFC 9207 `iss`, no DPoP, no back-channel logout, an issuer with a path,
and a grace period for refresh tokens if one is set (`config(grace=...)`, seconds).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.rig.control_plane import ControlPlane, RegisteredClient, uris
from tests.rig.programs import Program, free_port

APP = Path(__file__).parent / "django_app.py"
GRANT_TYPES = {"basic": "authorization-code", "svc": "client-credentials"}


class DjangoProvider(ControlPlane):
    """A running django-oauth-toolkit. Users: `alice` and `bob`, passwords `alice-password` and `bob-password`."""

    _folder: tempfile.TemporaryDirectory[str]

    @classmethod
    def start(cls) -> Self:
        """Serve on 127.0.0.1, which takes a few seconds, with a database of its own."""
        folder = tempfile.TemporaryDirectory(prefix="coatcheck-django-")
        program = Program([sys.executable, APP, folder.name, free_port()])
        provider = cls(program, ready=r'"ready": true, "issuer": "(?P<issuer>[^"]+)"')
        provider._folder = folder
        return provider

    def add_client(
        self,
        preset: str = "basic",
        *,
        redirect_uris: str | Sequence[str] = (),
        post_logout_redirect_uris: str | Sequence[str] = (),
        client_secret: str = "s3cret:with%odd+chars &",
    ) -> RegisteredClient:
        """Register a client of its own for a test: `basic` signs users in, `svc` uses client credentials."""
        registered = self._call(
            "POST",
            "clients",
            {
                "client_id": self._fresh_client_id(preset),
                "client_secret": client_secret,
                "grant_type": GRANT_TYPES[preset],
                "redirect_uris": uris(redirect_uris),
                "post_logout_redirect_uris": uris(post_logout_redirect_uris),
            },
        )
        return RegisteredClient(
            client_id=registered["client_id"],
            client_secret=registered["client_secret"],
            redirect_uris=tuple(registered["redirect_uris"]),
        )

    def stop(self) -> None:
        super().stop()
        self._folder.cleanup()
