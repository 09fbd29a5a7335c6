"""The certificate for https on localhost: made once, for this machine's names, and renewed in time."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from coatcheck.bff.development_certificate import DevelopmentCertificate, _issue, development_certificate
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.jwt import generate_private_key
from tests.bff.certificates import make_certificates
from tests.rig.programs import printed_by_processes_that_start_together

NOW = datetime.datetime(2030, 3, 1, tzinfo=datetime.UTC).timestamp()
DAY = 86400.0


def made(folder: Path, host: str = "localhost", *, days: float = 0) -> DevelopmentCertificate:
    return development_certificate(host, now=NOW + days * DAY, folder=folder / "c")


def in_file(found: DevelopmentCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(found.certificate.read_bytes())


@pytest.mark.spec("DEV-02")
def test_it_is_made_once_and_its_key_is_for_its_owner_only(tmp_path: Path) -> None:
    found = made(tmp_path)
    before = found.certificate.read_bytes(), found.key.read_bytes()
    assert made(tmp_path, days=1) == found
    assert (found.certificate.read_bytes(), found.key.read_bytes()) == before
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".gitignore", "tls.key", "tls.pem"]
    assert stat.S_IMODE(found.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert b"PRIVATE" not in found.certificate.read_bytes()


@pytest.mark.spec("DEV-02")
def test_it_is_what_browsers_ask_for_and_can_sign_no_other(tmp_path: Path) -> None:
    certificate = in_file(made(tmp_path))
    extensions = certificate.extensions
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < datetime.timedelta(days=398)
    assert isinstance(key := certificate.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.spec("DEV-02")
def test_a_certificate_that_came_with_a_folder_and_names_other_sites_is_made_anew(tmp_path: Path) -> None:
    found = made(tmp_path)
    key = load_pem_private_key(found.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    found.certificate.write_bytes(_issue(key, ["localhost", "app.localhost", "accounts.example.com"], moment))
    assert made(tmp_path).names == ("localhost", "127.0.0.1", "::1")
    assert b"accounts" not in in_file(made(tmp_path)).public_bytes(Encoding.DER)


@pytest.mark.spec("DEV-02")
def test_whoever_trusts_it_trusts_it_for_names_of_this_machine_only(tmp_path: Path) -> None:
    # OpenSSL knows no other time than now.
    found = development_certificate("app.localhost", now=datetime.datetime.now().timestamp(), folder=tmp_path / "c")
    assert found.names == ("localhost", "app.localhost", "127.0.0.1", "::1")
    for name in found.names:
        assert handshake(found, name) == "TLSv1.3"
    for name in ("app.example.com", "other.localhost", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for|mismatch"):
            handshake(found, name)


@pytest.mark.spec("DEV-02")
@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "*.localhost", "0.0.0.0", "10.0.0.7", ""])
def test_there_is_none_for_another_machine(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name of this machine"):
        made(tmp_path, host)
    assert list(tmp_path.iterdir()) == []


def test_one_that_ends_within_a_month_is_renewed_with_the_same_key(tmp_path: Path) -> None:
    first = made(tmp_path)
    before, key = in_file(first), first.key.read_bytes()
    assert made(tmp_path, days=366) == first
    renewed = made(tmp_path, days=368)
    after = in_file(renewed)
    assert renewed.expires - first.expires == datetime.timedelta(days=368)
    assert after.serial_number != before.serial_number
    assert (after.public_key(), renewed.key.read_bytes()) == (before.public_key(), key)
    assert in_file(made(tmp_path, days=369)) == after, "and then it stays again"
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".gitignore", "tls.key", "tls.pem"]


def test_one_from_the_future_is_renewed(tmp_path: Path) -> None:
    """The clock was wrong when it was made; browsers would refuse it."""
    first = made(tmp_path, days=2)
    assert made(tmp_path).expires < first.expires


def test_another_host_is_added_to_those_that_are_there(tmp_path: Path) -> None:
    """Two applications of one folder do not take the certificate from each other at every start."""
    made(tmp_path, "app.localhost")
    both = made(tmp_path, "admin.localhost")
    assert set(both.names) == {"localhost", "127.0.0.1", "::1", "app.localhost", "admin.localhost"}
    assert made(tmp_path, "app.localhost") == both


def test_a_new_key_gets_a_new_certificate(tmp_path: Path) -> None:
    before = in_file(made(tmp_path))
    (tmp_path / "c" / "tls.key").unlink()
    after = made(tmp_path)
    assert in_file(after).public_key() != before.public_key()
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(after.certificate, after.key)  # they belong together


def test_files_of_others_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
    )
    wrong = {
        "tls.key": [b"hunter2", generate_private_key("RS256").encode(), encrypted],
        "tls.pem": [b"hunter2", make_certificates().server],
    }
    for name, contents in wrong.items():
        for content in contents:
            (folder / name).write_bytes(content)
            with pytest.raises(ConfigurationError, match=f"{name} .* the next start makes a new one") as caught:
                made(tmp_path)
            assert (folder / name).read_bytes() == content
            assert "hunter2" not in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
        (folder / name).unlink()


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "tls.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"tls\.pem does not stay as it was written"):
        made(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_others_can_read_is_told_to_its_owner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = made(tmp_path)
    assert not caplog.records
    found.key.chmod(0o644)
    assert made(tmp_path) == found
    assert f"chmod 600 {found.key}" in caplog.text


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with pytest.raises(ConfigurationError, match="cannot write there"):
        made(tmp_path)


@pytest.mark.parametrize("days_old", [None, 390], ids=["the first ones", "renewal"])
def test_processes_that_start_together_have_one_key_and_a_certificate_that_fits(
    tmp_path: Path, days_old: float | None
) -> None:
    folder = tmp_path / "c"
    if days_old is not None:
        made(tmp_path, days=-days_old)
    printed = printed_by_processes_that_start_together(
        """
import ssl
from pathlib import Path
from coatcheck.bff.development_certificate import development_certificate
""",
        f"""
found = development_certificate("localhost", now={NOW}, folder=Path({str(folder)!r}))
ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.certificate, found.key)
print(found.key.read_text().replace("\\n", "") + str(found.expires))
""",
    )
    assert len(set(printed)) == 1
    assert sorted(os.listdir(folder)) == [".gitignore", "tls.key", "tls.pem"]


def handshake(found: DevelopmentCertificate, name: str) -> str | None:
    """The version that a client settles on which trusts this certificate only, by the strict rules of RFC 5280."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(found.certificate, found.key)
    context = ssl.create_default_context(cafile=found.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=_accept, args=(server_context, theirs))
    server.start()
    try:
        with context.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    finally:
        server.join(10)


def _accept(context: ssl.SSLContext, connection: socket.socket) -> None:
    with connection, suppress(OSError):
        context.wrap_socket(connection, server_side=True).close()
