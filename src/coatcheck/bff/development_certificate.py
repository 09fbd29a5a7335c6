"""
A TLS certificate for localhost, made once and kept in `.coatcheck/`: some browsers want https even there.

It is no authority but a certificate that speaks for itself. Who has it trusted trusts it for this machine's own names;
the key of an authority, left in a project's folder, could pose as every site there is.

The key is made once and stays, and each certificate is made with it: whichever of several processes writes last, the
two files belong together.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coatcheck.bff.keys import DEVELOPMENT_FOLDER, make_development_folder
from coatcheck.bff.public_url import is_loopback
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.private_file import read_or_make

NAMES = ("localhost", "127.0.0.1", "::1")
"""What every certificate of ours is good for, beside the host that was asked for."""

LIFETIME = datetime.timedelta(days=397)
"""Safari refuses certificates for more than 825 days, and for more than 398 those of public authorities."""

RENEW_BEFORE = datetime.timedelta(days=30)
"""A server that has just started serves so long at least."""

_BACKDATED = datetime.timedelta(hours=1)
"""The browser's clock may be another one: that of the machine around a virtual one."""

_ISSUER = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "coatcheck development"),
        x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
    ]
)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class DevelopmentCertificate:
    """Two PEM files that any server takes: *certificate* is for everybody, *key* for its owner only."""

    certificate: Path
    key: Path
    names: tuple[str, ...]
    expires: datetime.date


def development_certificate(host: str, *, now: float, folder: Path = DEVELOPMENT_FOLDER) -> DevelopmentCertificate:
    """
    Find the certificate for localhost and *host*, a name of this machine, or make it: when there is none, when it has
    less than 30 days left, and when it lacks *host*. *now* is in seconds since the epoch.

    Raises:
        ConfigurationError: *host* may mean another machine, a file is there that is not ours, or the folder cannot be
            written.
    """
    if not (re.fullmatch(r"[a-z0-9.:-]+", host) and is_loopback(host)):
        raise ConfigurationError(f"{host!r} is no name of this machine: use localhost, or one such as app.localhost")
    make_development_folder(folder)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    key_file, file = folder / "tls.key", folder / "tls.pem"
    key = _key(key_file)
    for _ in range(_ATTEMPTS):  # what is served is what lies there in the end, whoever wrote it
        found = _read(file)
        if found is not None and _serves(found, key, host, moment):
            expires = found.not_valid_after_utc.date()
            return DevelopmentCertificate(file, key_file, _names(found), expires)
        kept = _names(found) if found is not None and _is_for_this_machine(found) else ()
        names = dict.fromkeys((*NAMES, host, *kept))
        _write(file, _issue(key, names, moment), replace=found is not None)
    raise ConfigurationError(f"{file} does not stay as it was written: stop the other processes that write it")


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    pem = read_or_make(file, _new_key, danger="pose as this server", path=None)
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            f"{file} does not hold a key of ours. Delete it: the next start makes a new one, and browsers ask again."
        )
    return key


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii").strip()


def _read(file: Path) -> x509.Certificate | None:
    """Read the certificate in *file*; None where there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    except ValueError:
        certificate = None
    if certificate is None or certificate.issuer != _ISSUER:
        raise ConfigurationError(f"{file} is no certificate of ours. Move it away: the next start makes a new one.")
    return certificate


def _serves(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, host: str, now: datetime.datetime) -> bool:
    return (
        certificate.public_key() == key.public_key()
        and _is_for_this_machine(certificate)
        and host in _names(certificate)
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
    )


def _is_for_this_machine(certificate: x509.Certificate) -> bool:
    """Whether whoever trusts it trusts nothing else: a folder that came from elsewhere may hold anything."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return not constraints.ca and all(is_loopback(name) for name in _names(certificate))


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _issue(key: ec.EllipticCurvePrivateKey, names: Iterable[str], now: datetime.datetime) -> bytes:
    """Sign a certificate with its own key, with all that Apple asks of one (support.apple.com/HT210176)."""
    begins = now - _BACKDATED
    public_key = key.public_key()
    builder = (
        x509.CertificateBuilder(_ISSUER, _ISSUER, public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNS_HANDSHAKES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


_SIGNS_HANDSHAKES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(file: Path, pem: bytes, *, replace: bool) -> None:
    """Put a whole certificate into *file*: in place of an old one of ours, or unless somebody else was first."""
    try:
        descriptor, fresh = mkstemp(dir=file.parent, prefix=f"{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as written:
                written.write(pem)
            os.chmod(fresh, 0o644)  # there is nothing secret in it
            if replace:
                os.replace(fresh, file)
            else:
                os.link(fresh, file)
        except FileExistsError:
            pass
        finally:
            Path(fresh).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error
