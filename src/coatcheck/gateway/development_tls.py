"""`coatcheck run --dev-tls`: https on localhost, for browsers that keep no secure cookies without it. Nowhere else."""

from __future__ import annotations

from urllib.parse import urlsplit

from coatcheck.bff.development_certificate import DevelopmentCertificate, development_certificate
from coatcheck.bff.keys import DEVELOPMENT_FOLDER
from coatcheck.config import GatewayConfig
from coatcheck.errors import ConfigurationError


def certificate_for(config: GatewayConfig, *, now: float) -> DevelopmentCertificate:
    """
    Find or make the certificate of a gateway in development mode. *now* is in seconds since the epoch.

    Raises:
        ConfigurationError: this is not development mode, `public_url` is http, or the files cannot be used.
    """
    _check_development(config)
    host = urlsplit(config.public_url.origin).hostname or ""
    return development_certificate(host, now=now, folder=config.folder / DEVELOPMENT_FOLDER)


def _check_development(config: GatewayConfig) -> None:
    public_url, server = config.public_url, config.server
    if not public_url.loopback:
        message = (
            f"--dev-tls is for localhost, and this is {public_url.origin}: leave it out, and have the server in front "
            "end TLS with a real certificate"
        )
        raise ConfigurationError(message, path="public_url")
    if not public_url.secure:
        secure = "https" + public_url.absolute("").removeprefix("http")
        message = (
            f'--dev-tls serves https: write public_url = "{secure}", and register the redirect URI '
            f"{secure}/bff/callback at {config.clients['default'].issuer}"
        )
        raise ConfigurationError(message, path="public_url")
    if not server.listen.loopback:
        message = (
            f"--dev-tls is for this machine alone, and {server.listen} can be reached from others: listen on "
            f"127.0.0.1:{server.listen.port}, or leave --dev-tls out"
        )
        raise ConfigurationError(message, path="server.listen")
    if server.trusted_proxies:
        message = "--dev-tls is for browsers that come directly: remove the proxies, or leave --dev-tls out"
        raise ConfigurationError(message, path="server.trusted_proxies")


def missing_tls(config: GatewayConfig) -> str | None:
    """
    Say that nobody can open a `public_url` on this machine that is https, because nothing there speaks TLS.

    None when it is another port that browsers go to: there may be a server in front.
    """
    public_url = config.public_url
    if not (public_url.loopback and public_url.secure) or _port(public_url.origin) != config.server.listen.port:
        return None
    return (
        f"browsers cannot open {public_url.absolute('/')}: it is https, and what listens on {config.server.listen} is "
        "not. Serve it by `coatcheck run --dev-tls`"
    )


def _port(origin: str) -> int:
    return urlsplit(origin).port or 443
