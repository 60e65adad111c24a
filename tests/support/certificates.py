"""A certificate that is its own authority, for a server on loopback."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def certify(folder: Path, ip: str = "127.0.0.1", *, user: str = "test") -> Path:
    """Write ``cert.pem`` for *ip* and *user*, and its ``key.pem``, into *folder*; return that."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, user)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(ip))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "key.pem").chmod(0o600)  # PostgreSQL and libpq refuse any other
    return folder


def revocation(folder: Path) -> bytes:
    """Return a list by which ``cert.pem`` in *folder* has revoked itself."""
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    made = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    now = datetime.now(UTC)
    one = x509.RevokedCertificateBuilder().serial_number(made.serial_number).revocation_date(now)
    return (
        x509.CertificateRevocationListBuilder(
            made.subject, now - timedelta(days=1), now + timedelta(days=1), [], [one.build()]
        )
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
