"""A token endpoint is reached as its source says: with its authorities and its certificate."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.authorized import ask, rig
from tests.support.clock import FakeClock
from tests.support.peers import raw_server

from auditrelay.errors import Retryable

TOKEN = "tls-token-0123456789"
BODY = b'{"access_token": "%s"}' % TOKEN.encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a key and a certificate of it for 127.0.0.1."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return tmp_path


async def test_a_token_endpoint_is_believed_and_believes_as_the_source_says(
    clock: FakeClock, certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificate / "cert.pem")
    async with rig(clock) as made, raw_server(*[ANSWER] * 9, tls=tls) as url:
        made.server.accepted.add(TOKEN)
        stranger = made.source("one", token_url=f"{url}/other")
        with pytest.raises(Retryable, match="no TLS connection for POST https") as caught:
            await ask(stranger)
        assert caught.value.reason == "tls"
        peer = made.source(
            "two",
            token_url=url,
            ca_file=certificate / "cert.pem",
            client_cert=certificate / "cert.pem",
            client_key=certificate / "key.pem",
        )
        assert (await ask(peer)).status == 200
