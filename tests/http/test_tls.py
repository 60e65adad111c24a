"""Who is believed to be the peer, and as whom we are known to it."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.peers import Connect, counted, failure, raw_server

from auditrelay.errors import ConfigError
from auditrelay.http.peer import Peer
from auditrelay.settings import PeerSettings
from auditrelay.telemetry.metrics import Metrics

pytestmark = pytest.mark.process


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, a certificate for 127.0.0.1 self-signed, and an encrypted key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    for arguments in (
        (
            "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 "
            "-subj /CN=test -addext subjectAltName=IP:127.0.0.1"
        ),
        "rsa -in key.pem -aes256 -passout pass:word -out locked.pem",
    ):
        subprocess.run([openssl, *arguments.split()], cwd=folder, check=True, capture_output=True)
    return folder


def server_tls(certificates: Path, *, ask: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "cert.pem")
    return context


HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def test_an_unknown_certificate_is_refused_before_anything_is_sent(
    certificates: Path, connect: Connect, metrics: Metrics
) -> None:
    async with raw_server(HELLO, tls=server_tls(certificates)) as url:
        error = await failure(connect(url))
    assert (error.reason, error.sent) == ("tls", False)
    assert "self-signed certificate" in str(error)
    assert counted(metrics, "tls") == 1


async def test_a_certificate_for_another_name_is_refused(
    certificates: Path, connect: Connect
) -> None:
    async with raw_server(HELLO, tls=server_tls(certificates)) as url:
        other = url.replace("127.0.0.1", "localhost")
        error = await failure(connect(other, ca_file=certificates / "cert.pem"))
    assert error.reason == "tls"
    assert "localhost" in str(error)


async def test_a_peer_that_does_not_speak_tls_is_a_tls_failure(connect: Connect) -> None:
    async with (
        asyncio.timeout(5),
        raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n", listen=False) as url,
    ):
        error = await failure(connect(url.replace("http:", "https:")))
    assert (error.reason, error.sent) == ("tls", False)


async def test_a_ca_file_and_a_client_certificate_are_used(
    certificates: Path, connect: Connect
) -> None:
    async with raw_server(HELLO, tls=server_tls(certificates, ask=True)) as url:
        peer = connect(
            url,
            ca_file=certificates / "cert.pem",
            client_cert=certificates / "cert.pem",
            client_key=certificates / "key.pem",
        )
        assert (await peer.request("GET", "/")).status == 200


async def test_a_missing_client_certificate_is_a_tls_failure(
    certificates: Path, connect: Connect
) -> None:
    async with raw_server(HELLO, tls=server_tls(certificates, ask=True)) as url:
        error = await failure(connect(url, ca_file=certificates / "cert.pem"))
    assert error.reason in ("tls", "reset")


@pytest.mark.parametrize("key", ["locked.pem", "cert.pem"])
def test_a_useless_client_key_is_a_configuration_error(
    certificates: Path, metrics: Metrics, key: str
) -> None:
    settings = PeerSettings.model_validate(
        {"client_cert": certificates / "cert.pem", "client_key": certificates / key}
    )
    with pytest.raises(ConfigError, match=r"voice\.client_cert.*unencrypted key"):
        Peer(
            "voice",
            settings,
            base_url="https://a.example",
            headers=dict,
            metrics=metrics,
            clock=FakeClock(),
        )


def test_a_useless_ca_file_is_a_configuration_error(tmp_path: Path, metrics: Metrics) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = PeerSettings.model_validate({"ca_file": tmp_path / "ca.pem"})
    with pytest.raises(ConfigError, match=r"voice\.ca_file: .*ca\.pem contains no certificates"):
        Peer(
            "voice",
            settings,
            base_url="https://a.example",
            headers=dict,
            metrics=metrics,
            clock=FakeClock(),
        )
