"""Somebody who stands between us and the database, and answers in its place: what do they get to hear?"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coatcheck.errors import StoreUnavailable
from coatcheck.stores import open_store

SECRET = "the-password-that-nobody-else-hears"
_SSL_REQUEST = 80877103


@dataclass
class Impostor:
    """Answers at *port* with the certificate in *pem*, and keeps what it is told behind the handshake."""

    port: int
    pem: Path
    heard: bytearray = field(default_factory=bytearray)
    connections: int = 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For another name than the one we ask for, signed by nobody, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody-else.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("somebody-else.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "impostor.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return pem


@asynccontextmanager
async def impostor(pem: Path, *, protocol: str, downgrades: bool = False) -> AsyncIterator[Impostor]:
    """Stand in for a database. One that *downgrades* says that it knows no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            if protocol == "postgresql":
                length, code = struct.unpack("!II", await reader.readexactly(8))
                assert (length, code) == (8, _SSL_REQUEST)
                writer.write(b"N" if downgrades else b"S")
                await writer.drain()
            if not downgrades:
                await writer.start_tls(context)
            while SECRET.encode() not in server.heard and (piece := await reader.read(1000)):
                server.heard.extend(piece)
                if protocol == "postgresql":
                    writer.write(b"R" + struct.pack("!II", 8, 3))  # "tell me the password as it is"
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    server = Impostor(listening.sockets[0].getsockname()[1], pem)
    async with listening:
        yield server


async def assert_hears_nothing(server: Impostor, url: str) -> None:
    store = open_store(url)
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store.get(bytes(32))
    finally:
        await store.aclose()
    assert server.connections, "it was asked"
    assert SECRET not in str(caught.value)
    assert not server.heard


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@pytest.mark.parametrize("trusted", [False, True], ids=["a certificate of nobody's", "a certificate of another host's"])
async def test_an_impostor_of_redis_hears_no_password(certificate: Path, scheme: str, trusted: bool) -> None:
    async with impostor(certificate, protocol="redis") as server:
        options = f"?ssl_ca_certs={certificate}" if trusted else ""
        await assert_hears_nothing(server, f"{scheme}://:{SECRET}@127.0.0.1:{server.port}/0{options}")


@pytest.mark.parametrize("downgrades", [False, True], ids=["with a certificate of another host", "without TLS"])
async def test_an_impostor_of_postgresql_hears_no_password(certificate: Path, downgrades: bool) -> None:
    async with impostor(certificate, protocol="postgresql", downgrades=downgrades) as server:
        options = f"?sslmode=verify-full&sslrootcert={certificate}"
        await assert_hears_nothing(server, f"postgresql://shop:{SECRET}@127.0.0.1:{server.port}/shop{options}")


async def test_the_impostor_listens(certificate: Path) -> None:
    """The control. Not to verify is the default of PostgreSQL's own clients, too; `docs/renewal.md` says so."""
    async with impostor(certificate, protocol="postgresql", downgrades=True) as server:
        store = open_store(f"postgresql://shop:{SECRET}@127.0.0.1:{server.port}/shop")
        with pytest.raises(StoreUnavailable):
            await store.get(bytes(32))
        await store.aclose()
        assert SECRET.encode() in server.heard
