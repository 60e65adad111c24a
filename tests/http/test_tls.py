"""Who is believed to be the peer, and as whom we are known to it."""

import asyncio
import re
import shutil
import ssl
import subprocess
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.peers import SHORT_TIMEOUT, Connect, counted, failure, raw_server, scripted
from tests.support.proxy import reset

from auditrelay.errors import ConfigError
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.tls import _public_tls
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


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail ESMTP\r\n",
        b"\xff" * 100,
        b"",
        b"x",
    ],
)
async def test_a_peer_that_does_not_speak_tls_is_said_to_be_one(
    connect: Connect, answer: bytes
) -> None:
    async with asyncio.timeout(5), raw_server(answer, listen=False) as url:
        error = await failure(connect(url.replace("http:", "https:")))
    assert (error.reason, error.sent) == ("handshake", False)
    assert re.search("does (not|it) speak TLS at this port", str(error))


async def test_a_connection_that_breaks_in_the_handshake_is_no_mere_reset(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.read(10)
        reset(writer)

    async with scripted(serve) as url:
        error = await failure(direct(url.replace("http:", "https:")))
    assert (error.reason, error.sent) == ("handshake", False)
    assert "broke off the handshake" in str(error)


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


async def test_a_connection_with_tls_is_used_again(certificates: Path, connect: Connect) -> None:
    connections = 0

    async def serve(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            body = b"x" * 3_000_000
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with scripted(serve, tls=server_tls(certificates)) as url:
        peer = connect(url, ca_file=certificates / "cert.pem")
        for _ in range(3):
            assert len((await peer.request("GET", "/")).body) == 3_000_000
        await peer.aclose()
    assert connections == 1


async def test_a_large_request_with_tls_arrives_whole(certificates: Path, connect: Connect) -> None:
    content = bytes(5_000_000)

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(content)) == content
        writer.write(HELLO)
        await writer.drain()

    async with scripted(serve, tls=server_tls(certificates)) as url:
        peer = connect(url, ca_file=certificates / "cert.pem")
        assert (await peer.request("POST", "/", content=content)).status == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n{}", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", "reset"),
        (b"", "reset"),
    ],
)
async def test_an_end_without_the_farewell_of_tls_is_an_end(
    certificates: Path, connect: Connect, answer: bytes, reason: str | None
) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async with scripted(serve, tls=server_tls(certificates)) as url:
        peer = connect(url, ca_file=certificates / "cert.pem")
        if reason is None:
            assert (await peer.request("GET", "/")).body == b"{}"
        else:
            error = await failure(peer)
            assert (error.reason, error.sent) == (reason, True)


async def test_a_refusal_over_tls_counts_though_the_request_was_not_sent_to_its_end(
    certificates: Path, direct: Connect
) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await writer.drain()

    async with scripted(serve, tls=server_tls(certificates)) as url:
        peer = direct(url, ca_file=certificates / "cert.pem")
        for _ in range(5):
            reply = await peer.request("POST", "/", content=bytes(30_000_000))
            assert (reply.status, reply.body) == (413, b"large")


async def test_a_handshake_that_never_ends_means_that_nothing_was_sent(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.read()

    async with scripted(serve) as url:
        peer = direct(url.replace("http:", "https:"), timeout=SHORT_TIMEOUT)
        error = await failure(peer)
    assert (error.reason, error.sent) == ("handshake", False)
    assert "within 0.2 s; does it speak TLS at this port?" in str(error)


async def test_the_keys_of_a_connection_are_never_written_down(
    certificates: Path, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = server_tls(certificates)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    _public_tls.cache_clear()
    connect("https://a.example")
    async with raw_server(HELLO, tls=tls) as url:
        peer = connect(url, ca_file=certificates / "cert.pem")
        assert (await peer.request("GET", "/")).status == 200
    assert not (tmp_path / "keys").exists()


async def test_a_request_with_tls_can_be_cancelled(certificates: Path, connect: Connect) -> None:
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        ended.set()

    async with scripted(serve, tls=server_tls(certificates)) as url, asyncio.timeout(10):
        peer = connect(url, ca_file=certificates / "cert.pem")
        task = asyncio.create_task(peer.request("GET", "/"))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()


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
            credentials=KeyCredentials(dict),
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
            credentials=KeyCredentials(dict),
            metrics=metrics,
            clock=FakeClock(),
        )
