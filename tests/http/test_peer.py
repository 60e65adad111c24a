"""One peer over real sockets on loopback: what each failure becomes, and what never leaves."""

import asyncio
import gzip
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog

from auditrelay import __version__
from auditrelay.errors import (
    ConfigError,
    Refused,
    Rejected,
    RelayError,
    Retryable,
    TooLarge,
    WalkBroken,
)
from auditrelay.http import body, replies, retry
from auditrelay.http.peer import Peer
from auditrelay.http.rate import RateLimiter
from auditrelay.http.replies import Reply, check, decode, retry_after
from auditrelay.http.retry import retrying
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double, Trap
from auditrelay.settings import PeerSettings, SourceSettings
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.telemetry.metrics import Metrics

PLAIN = PeerSettings.model_validate({})
PARAMS = {"token": "query-secret", "page": "1"}
PROMPT = timedelta(milliseconds=400)


class Server(Double):
    """Answers with what it was asked."""

    key = ""

    def respond(self, request: Request) -> Response:
        if self.key and request.headers.get("x-key") != self.key:
            return json_response(401, {"detail": "no"})
        answer = {"query": request.query, "headers": request.headers, "path": request.path}
        return json_response(200, answer, {"Set-Cookie": "session=1"})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as server:
        yield server


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record every wait instead of waiting."""
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(retry, "pause", pause)
    return waited


Connect = Callable[..., Peer]


@pytest.fixture
async def connect(server: Server, metrics: Metrics) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    def make(
        base_url: str | None = None,
        *,
        secrets: tuple[Secret, ...] = (),
        identity: Callable[[], Mapping[str, str]] = dict,
        per_minute: int | None = None,
        **settings: Any,
    ) -> Peer:
        peer = Peer(
            "voice",
            PeerSettings.model_validate(settings),
            base_url=base_url or server.url,
            headers=identity,
            secrets=secrets,
            metrics=metrics,
            requests_per_minute=per_minute,
        )
        peers.append(peer)
        return peer

    yield make
    for peer in peers:
        await peer.aclose()


@asynccontextmanager
async def raw_server(
    *answers: bytes, tls: ssl.SSLContext | None = None, listen: bool = True
) -> AsyncIterator[str]:
    """Serve the bytes of *answers*, one a connection, whatever (*listen*) is asked; hang up."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if listen:
                await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0) if left else b"")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


def counted(metrics: Metrics, code: str) -> int:
    """Return how many requests with this code the histogram has seen."""
    pattern = rf'request_duration_seconds_count\{{code="{code}",peer="voice"\}} (\d+)'
    pattern += rf'|request_duration_seconds_count\{{peer="voice",code="{code}"\}} (\d+)'
    found = re.search(pattern, metrics.render()[0].decode())
    return int(found[1] or found[2]) if found else 0


def reply(status: int, body: bytes = b"", **headers: Any) -> Reply:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Reply(status, httpx.Headers(named), body, "GET https://api.example/logs")


# --- an ordinary request


async def test_a_request_says_who_we_are_and_keeps_nothing(
    server: Server, connect: Connect, metrics: Metrics
) -> None:
    peer = connect(identity=lambda: {"X-Key": "k"})
    answers = [
        (await peer.request("GET", "/logs/", params=PARAMS, headers={"Accept": "x/y"})).json()
        for _ in range(2)
    ]
    assert answers[0]["query"] == PARAMS
    assert answers[0]["path"] == "/logs/"
    headers = answers[1]["headers"]
    assert headers["user-agent"] == f"auditrelay/{__version__}"
    assert headers["x-key"] == "k"
    assert headers["accept"] == "x/y"
    assert headers["accept-encoding"] == "gzip"
    assert "cookie" not in headers
    assert server.connections == 1
    assert counted(metrics, "200") == 2


async def test_a_request_can_go_to_another_of_the_peers_addresses(connect: Connect) -> None:
    async with Server() as other:
        await connect().request("POST", "/_bulk", content=b"{}", base_url=other.url)
        assert [(seen.method, seen.body_bytes) for seen in other.seen] == [("POST", 2)]


async def test_the_environment_sets_no_proxy(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await connect().request("GET", "/")).status == 200


async def test_a_configured_proxy_is_used(server: Server, connect: Connect) -> None:
    peer = connect("http://vendor.example", proxy=server.url)
    await peer.request("GET", "/logs")
    assert server.seen[0].headers["host"] == "vendor.example"


async def test_nothing_is_logged_about_a_request_that_succeeds(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await connect().request("GET", "/", params=PARAMS)
    assert "query-secret" not in caplog.text


# --- no reply


async def failure(peer: Peer, **request: Any) -> Retryable:
    with pytest.raises(Retryable) as caught:
        await peer.request("GET", "/logs", params=PARAMS, **request)
    assert "query-secret" not in str(caught.value)
    return caught.value


async def test_a_peer_that_never_answers_is_a_timeout(
    server: Server, connect: Connect, metrics: Metrics
) -> None:
    server.faults.add(faults.hang())
    error = await failure(connect(timeout=PROMPT))
    assert (error.reason, error.sent) == ("timeout", True)
    assert str(error) == f"no complete reply to GET {server.url}/logs within 0.4 s"
    assert counted(metrics, "timeout") == 1


async def test_a_peer_that_trickles_is_a_timeout_too(server: Server, connect: Connect) -> None:
    server.faults.add(faults.drip(size=1, seconds=0.02))
    error = await failure(connect(timeout=PROMPT))
    assert error.reason == "timeout"


async def test_the_connection_of_a_timeout_is_not_used_again(
    server: Server, connect: Connect
) -> None:
    server.faults.add(faults.drip(size=1, seconds=0.02))
    peer = connect(timeout=PROMPT)
    await failure(peer)
    assert (await peer.request("GET", "/", params={"n": "2"})).json()["query"] == {"n": "2"}
    assert server.connections == 2


async def test_cancelling_a_request_leaves_no_connection_behind(
    server: Server, connect: Connect
) -> None:
    server.faults.add(faults.hang(), times=None)
    arrived = asyncio.Event()
    server.on_request = lambda _request: arrived.set()
    peer = connect()
    for _ in range(3):
        arrived.clear()
        task = asyncio.create_task(peer.request("GET", "/"))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert peer._transport._pool.connections == []


@pytest.mark.parametrize("action", [faults.reset(), faults.store_then_reset()])
async def test_a_broken_connection_is_a_reset_that_may_have_stored(
    server: Server, connect: Connect, metrics: Metrics, action: faults.Action
) -> None:
    server.faults.add(action)
    error = await failure(connect())
    assert (error.reason, error.sent) == ("reset", True)
    assert counted(metrics, "reset") == 1


async def test_a_closed_port_means_that_nothing_was_sent(
    connect: Connect, metrics: Metrics
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await failure(connect(f"http://127.0.0.1:{port}"))
    assert (error.reason, error.sent) == ("connect", False)
    assert "Connection refused" in str(error)
    assert counted(metrics, "connect") == 1


async def test_a_connection_that_is_never_accepted_means_that_nothing_was_sent(
    connect: Connect,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for client in (first, second):
                client.setblocking(False)  # noqa: FBT003  # the library's own form
                client.connect_ex(address)
            error = await failure(connect(f"http://127.0.0.1:{address[1]}", timeout=PROMPT))
    assert (error.reason, error.sent) == ("connect", False)
    assert "no connection" in str(error)


async def test_an_unknown_host_means_that_nothing_was_sent(connect: Connect) -> None:
    error = await failure(connect("http://no-such-host.invalid"))
    assert (error.reason, error.sent) == ("connect", False)


async def test_a_proxy_that_refuses_means_that_nothing_was_sent(
    server: Server, connect: Connect
) -> None:
    server.faults.add(faults.answer(407))
    error = await failure(connect("https://vendor.example", proxy=server.url))
    assert (error.reason, error.sent) == ("connect", False)
    assert "407" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_bad_reply(connect: Connect, answer: bytes) -> None:
    async with raw_server(answer) as url:
        error = await failure(connect(url))
    assert (error.reason, error.sent) == ("bad_reply", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_a_reply_that_breaks_off_is_a_reset(connect: Connect, answer: bytes) -> None:
    async with raw_server(answer) as url:
        error = await failure(connect(url))
    assert (error.reason, error.sent) == ("reset", True)


# --- sizes and encodings


async def test_a_gzipped_reply_is_decompressed(server: Server, connect: Connect) -> None:
    server.faults.add(faults.gzipped())
    assert (await connect().request("GET", "/")).json()["path"] == "/"


async def test_a_gzipped_reply_may_have_several_members_and_come_in_pieces(
    server: Server, connect: Connect
) -> None:
    body = gzip.compress(b'{"a":') + gzip.compress(b"") + gzip.compress(b"1}")

    def made(_request: Request, _response: Response) -> Response:
        pieces = [body[at : at + 1] for at in range(len(body))]
        return Response(200, headers={"Content-Encoding": "GZip"}, chunks=pieces, chunked=True)

    server.faults.add(faults.rewrite(made))
    assert (await connect().request("GET", "/")).json() == {"a": 1}


async def test_an_empty_body_may_claim_to_be_gzip(server: Server, connect: Connect) -> None:
    server.faults.add(faults.answer(503, b"", {"Content-Encoding": "gzip"}))
    assert (await connect().request("GET", "/")).status == 503


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", gzip.compress(b"{}" * 500, mtime=0)[:-9], "breaks off"),
        ("gzip", b"\x1f\x8bnot gzip", "damaged"),
        ("gzip", b'{"not": "gzip at all, and longer"}', "damaged"),
        ("br", b"\x0b", "content encoding br"),
        ("gzip, gzip", b"", "content encoding gzip, gzip"),
    ],
)
async def test_a_body_that_cannot_be_decompressed_is_a_bad_reply(
    server: Server, connect: Connect, encoding: str, body: bytes, words: str
) -> None:
    server.faults.add(faults.answer(200, body, {"Content-Encoding": encoding}))
    error = await failure(connect())
    assert error.reason == "bad_reply"
    assert words in str(error)


async def test_a_reply_of_just_the_most_bytes_is_read(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "MOST_BYTES", 100_000)
    for text, encoding in ((b"x" * 100_000, "identity"), (gzip.compress(b"x" * 100_000), "gzip")):
        server.faults.add(faults.answer(200, text, {"Content-Encoding": encoding}))
        assert len((await connect().request("GET", "/")).body) == 100_000


@pytest.mark.parametrize("action", [faults.huge(100_001), faults.gzip_bomb(100_001)])
async def test_a_reply_of_one_byte_more_is_refused(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch, action: faults.Action
) -> None:
    monkeypatch.setattr(body, "MOST_BYTES", 100_000)
    server.faults.add(action)
    error = await failure(connect())
    assert (error.reason, error.sent) == ("reply_too_large", True)


async def test_a_bomb_is_not_unfolded(server: Server, connect: Connect) -> None:
    """128 MiB in 128 KiB: no more of it is made than is needed to see that it is too much."""
    server.faults.add(faults.gzip_bomb(2**27))
    unfolded = 0
    feed = body._Unzip.feed

    def counting(self: body._Unzip, data: bytes, most: int) -> bytes:
        nonlocal unfolded
        part = feed(self, data, most)
        unfolded += len(part)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body._Unzip, "feed", counting)
        error = await failure(connect())
    assert error.reason == "reply_too_large"
    assert unfolded == body.MOST_BYTES + 1


async def test_a_huge_reply_is_not_read_to_its_end(server: Server, connect: Connect) -> None:
    server.faults.add(faults.huge(10**12))
    assert (await failure(connect())).reason == "reply_too_large"


# --- redirects and TLS


async def test_a_redirect_is_not_followed_and_only_its_host_is_named(
    server: Server, connect: Connect
) -> None:
    async with Trap() as trap:
        target = trap.url.replace("127.0.0.1", "localhost")
        server.faults.add(faults.redirect(target), times=None)
        peer = connect(identity=lambda: {"x-key": "key-secret"})
        answer = await peer.request("GET", "/logs", params=PARAMS)
        with pytest.raises(Refused, match="redirects to localhost, and") as caught:
            check(answer)
        assert not trap.caught
    assert caught.value.status == 302
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["", "/login", "http://[broken", "//"])
def test_a_redirect_to_nowhere_is_refused_too(location: str) -> None:
    with pytest.raises(Refused, match="redirects elsewhere"):
        check(reply(307, location=location))


def test_a_redirects_host_may_not_forge_a_line() -> None:
    headers = httpx.Headers([(b"location", "http://a\x1b31m\u2028b/".encode())])
    with pytest.raises(Refused, match="redirects to a") as caught:
        check(Reply(307, headers, b"", "GET https://api.example/logs"))
    assert str(caught.value).isprintable()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, a certificate for 127.0.0.1 signed by itself, and a locked key."""
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
        Peer("voice", settings, base_url="https://a.example", headers=dict, metrics=metrics)


def test_a_useless_ca_file_is_a_configuration_error(tmp_path: Path, metrics: Metrics) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = PeerSettings.model_validate({"ca_file": tmp_path / "ca.pem"})
    with pytest.raises(ConfigError, match=r"voice\.ca_file: .*ca\.pem holds no certificates"):
        Peer("voice", settings, base_url="https://a.example", headers=dict, metrics=metrics)


def test_an_address_that_httpx_cannot_use_is_a_configuration_error(metrics: Metrics) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        Peer("voice", PLAIN, base_url="https://a\x00b", headers=dict, metrics=metrics)


# --- credentials that change


def write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("old-key\n")
    return path


async def test_a_rotated_key_is_used_at_once(
    server: Server, connect: Connect, key_file: Path
) -> None:
    secret = Secret(Resolved(f"${{file:{key_file}}}"))
    peer = connect(secrets=(secret,), identity=lambda: {"x-key": secret.reveal()})
    server.key = "old-key"
    assert (await peer.request("GET", "/")).status == 200
    server.key = "new-key"
    write(key_file, "new-key\n")
    assert (await peer.request("GET", "/")).status == 200
    assert [seen.headers["x-key"] for seen in server.seen] == ["old-key", "old-key", "new-key"]


async def test_requests_side_by_side_all_profit_from_one_rotation(
    server: Server, connect: Connect, key_file: Path
) -> None:
    secret = Secret(Resolved(f"${{file:{key_file}}}"))
    peer = connect(secrets=(secret,), identity=lambda: {"x-key": secret.reveal()})
    server.key = "new-key"
    write(key_file, "new-key\n")
    replies = await asyncio.gather(*(peer.request("GET", "/") for _ in range(8)))
    assert [reply.status for reply in replies] == [200] * 8


async def test_an_unchanged_key_is_not_tried_twice(
    server: Server, connect: Connect, key_file: Path
) -> None:
    secret = Secret(Resolved(f"${{file:{key_file}}}"))
    peer = connect(secrets=(secret,), identity=lambda: {"x-key": secret.reveal()})
    server.key = "another"
    assert (await peer.request("GET", "/")).status == 401
    assert len(server.seen) == 1


@pytest.mark.parametrize("content", ["", "two\nlines\n", "caf\u00e9\n", "space \n"])
async def test_a_key_file_that_is_being_written_is_not_believed(
    server: Server, connect: Connect, key_file: Path, content: str
) -> None:
    secret = Secret(Resolved(f"${{file:{key_file}}}"))
    peer = connect(secrets=(secret,), identity=lambda: {"x-key": secret.reveal()})
    server.key = "another"
    write(key_file, content)
    assert (await peer.request("GET", "/")).status == 401
    assert secret.reveal() == "old-key"


# --- clocks


@pytest.mark.parametrize(
    ("ahead", "more", "read"),
    [
        (None, {}, True),
        (None, {"Date": "yesterday"}, True),
        (timedelta(seconds=60), {}, True),
        (timedelta(seconds=120), {}, False),
        (timedelta(days=1), {}, False),
        (timedelta(days=1), {"Age": "86400"}, True),
        (timedelta(days=1), {"Age": "9" * 15}, False),
        (timedelta(days=1), {"Age": "9" * 5000}, False),
        (timedelta(days=-1), {}, True),
    ],
)
async def test_a_clock_ahead_of_the_vendors_stops_reading(
    server: Server, metrics: Metrics, ahead: timedelta | None, more: dict[str, str], *, read: bool
) -> None:
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url, "settle": "30s"})
    headers = dict(more)
    if ahead is not None:
        headers["Date"] = format_datetime(datetime.now(UTC) - ahead, usegmt=True)
    server.faults.add(faults.answer(200, b"{}", headers))
    peer = Peer("voice", settings, base_url=server.url, headers=dict, metrics=metrics)
    try:
        if read:
            assert (await peer.get("/", {}, check)).status == 200
        else:
            with pytest.raises(Refused, match="ahead of that of"):
                await peer.get("/", {}, check)
    finally:
        await peer.aclose()


# --- what a status means


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_passes(status: int) -> None:
    assert check(reply(status)).status == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_retryable(status: int) -> None:
    with pytest.raises(Retryable) as caught:
        check(reply(status, retry_after="7"))
    assert caught.value.reason == f"status_{status}"
    assert caught.value.retry_after == 7
    assert caught.value.sent is (status in (500, 502, 504))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Refused, "check the key"),
        (403, Refused, "check the rights"),
        (404, Refused, "check the address"),
        (405, Refused, "check the address"),
        (301, Refused, "redirects elsewhere"),
        (304, Refused, "redirects elsewhere"),
        (400, Rejected, "400 from GET https://api.example/logs"),
        (413, TooLarge, "413 from"),
        (422, Rejected, "422 from"),
    ],
)
def test_every_other_status_says_what_to_do(
    status: int, kind: type[RelayError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        check(reply(status, b"body-secret", x_token="header-secret"))
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)
    assert getattr(caught.value, "status", None) == status


def test_the_servers_words_are_cut_and_cannot_forge_a_line() -> None:
    with pytest.raises(Rejected) as caught:
        check(reply(400), words="no\n" + "x" * 1000)
    assert "no" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_hint_takes_the_place_of_the_general_advice() -> None:
    with pytest.raises(Refused, match=r"logs: Forbidden; ask the admin$"):
        check(reply(403), words="Forbidden", hint="ask the admin")


NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "99999999999999"}, replies.LONGEST_WAIT),
        ({"retry-after": "1e400"}, replies.LONGEST_WAIT),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sunday, 01-Mar-26 12:00:30 GMT"}, 30),
        ({"retry-after": "Sun Mar  1 12:00:30 2026"}, 30),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Sun, 01 Mar 9999 11:00:00 GMT"}, replies.LONGEST_WAIT),
        ({"retry-after": "Sun, 99 Mar 2026 99:00:00 GMT"}, None),
        ({"retry-after": "Sun, 01 Mar 99999999999999999999 11:00:00 GMT"}, None),
        (  # the peer's clock is an hour behind: what counts is the distance
            {
                "retry-after": "Sun, 01 Mar 2026 11:00:30 GMT",
                "date": "Sun, 01 Mar 2026 11:00:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "yesterday"}, 30),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds


def test_a_wait_in_the_servers_own_way_counts_only_without_retry_after() -> None:
    for answer, seconds in ((reply(429), 9.0), (reply(429, retry_after="3"), 3.0)):
        with pytest.raises(Retryable) as caught:
            check(answer, wait=9.0)
        assert caught.value.retry_after == seconds


# --- the retry policy


def good(reply: Reply) -> Reply:
    return check(reply)


async def test_a_source_gives_up_after_a_few_attempts_and_raises_the_last_failure(
    server: Server, connect: Connect, metrics: Metrics, waits: list[float]
) -> None:
    server.faults.add(faults.answer(503), times=None)
    with structlog.testing.capture_logs() as logs, pytest.raises(Retryable, match=r"^503 from"):
        await connect().get("/logs", PARAMS, good)
    assert len(server.seen) == retry.SOURCE_ATTEMPTS
    assert all(0 <= wait <= 0.5 * 2**number for number, wait in enumerate(waits))
    assert [line["attempt"] for line in logs] == [1, 2, 3, 4]
    assert set(logs[0]) == {"event", "log_level", "peer", "attempt", "wait", "reason"}
    assert (logs[0]["event"], logs[0]["log_level"]) == ("request_retried", "warning")
    assert (logs[0]["peer"], logs[0]["reason"]) == ("voice", "status_503")
    line = 'requests_retried_total{peer="voice",reason="status_503"} 4.0'
    assert line in metrics.render()[0].decode()


async def test_a_source_goes_on_when_the_trouble_is_over(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    for action in (faults.html(502), faults.reset(), faults.too_many()):
        server.faults.add(action)
    assert (await connect().get("/logs", PARAMS, good)).json()["query"] == PARAMS
    assert len(waits) == 3


async def test_retry_after_is_never_shortened(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.too_many(retry_after=retry.SOURCE_PATIENCE))
    await connect().get("/", PARAMS, good)
    assert waits == [retry.SOURCE_PATIENCE]


async def test_a_source_does_not_wait_longer_than_its_patience(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.too_many(retry_after=retry.SOURCE_PATIENCE + 1), times=None)
    with pytest.raises(Retryable) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.retry_after == retry.SOURCE_PATIENCE + 1
    assert (len(server.seen), waits) == (1, [])


async def test_retry_after_nought_is_not_a_tight_loop(metrics: Metrics, waits: list[float]) -> None:
    async for attempt in retrying("voice", metrics):
        with attempt:
            if len(waits) < 40:
                raise Retryable("busy", reason="status_429", retry_after=0)
    assert sum(waits) > 60


async def test_without_a_limit_nothing_is_given_up_and_waits_stay_bounded(
    metrics: Metrics, waits: list[float]
) -> None:
    async for attempt in retrying("splunk", metrics):
        with attempt:
            if len(waits) < 2000:
                raise Retryable("down", reason="connect")
    assert len(waits) == 2000
    assert 30 < max(waits) <= 60
    assert min(waits[100:]) < 5  # full jitter


@pytest.mark.parametrize("error", [KeyError("bug"), Refused("no"), asyncio.CancelledError()])
async def test_only_what_is_retryable_is_retried(
    metrics: Metrics, waits: list[float], error: BaseException
) -> None:
    async def loop() -> None:
        async for attempt in retrying("voice", metrics, attempts=5):
            with attempt:
                raise error

    with pytest.raises(type(error)):
        await loop()
    assert waits == []


async def test_a_wait_between_attempts_can_be_cancelled(metrics: Metrics) -> None:
    async def loop() -> None:
        async for attempt in retrying("splunk", metrics):
            with attempt:
                raise Retryable("busy", reason="status_429", retry_after=3600)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop()


async def test_a_source_is_held_by_what_the_vendor_will_never_accept(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.answer(400), times=None)
    with pytest.raises(Refused) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.status == 400
    assert (len(server.seen), waits) == (1, [])


async def test_a_page_that_is_too_large_breaks_the_walk(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.gzip_bomb(body.MOST_BYTES + 1), times=None)
    with pytest.raises(WalkBroken) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.reason == "reply_too_large"
    assert waits == []


# --- the rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 600])
async def test_no_minute_has_more_requests_than_allowed(
    per_minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    async def pause(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(retry, "pause", pause)
    limiter = RateLimiter(per_minute, clock)
    times = []
    for number in range(per_minute * 3):
        await limiter.turn()
        times.append(clock.now)
        if number == per_minute:
            clock.now += 7.5  # an idle spell earns a burst, and no more
    for start in times:
        # (a hair less than a minute: the sums are floating)
        assert sum(start <= at < start + 59.999999 for at in times) <= per_minute
    assert times[-1] - times[0] < 60 * 3 * 1.2 + 10


async def test_the_turns_of_a_crowd_are_spaced_in_order(waits: list[float]) -> None:
    limiter = RateLimiter(60, Clock())
    await asyncio.gather(*(limiter.turn() for _ in range(10)))
    assert waits == pytest.approx([60 / 55 * number for number in range(1, 5)])


async def test_a_peer_keeps_to_its_rate(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    peer = connect(per_minute=2)
    for _ in range(2):
        await peer.request("GET", "/")
    assert waits == pytest.approx([30], abs=1)


# --- decoding


class Rows(msgspec.Struct):
    rows: list[msgspec.Raw]
    more: bool = False


class Envelope(msgspec.Struct):
    data: Rows | None = None


def texts(body: bytes) -> list[bytes]:
    answer = decode(reply(200, body, content_type="application/json"), Envelope)
    assert answer.data is not None
    assert answer.data.more is True
    return [bytes(row) for row in answer.data.rows]


def test_records_keep_their_text_byte_for_byte() -> None:
    row = b'{"n": 1.10, "big":12345678901234567890123 , "u":"\\u00e9"}'
    assert texts(b'{"data":{"rows":[' + row + b', 1],"more":true}}') == [row, b"1"]


@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        (b"NaN", b"NaN"),
        (b"-Infinity", b"-Infinity"),
        (b'"\\ud800"', b'"\\ud800"'),
        (b'"a\tb"', b'"a\\tb"'),
    ],
)
def test_one_odd_value_does_not_cost_a_page(odd: bytes, kept: bytes) -> None:
    body = b'{"extra":[1],"data":{"rows":[{"a":' + odd + b'},{"b":2}],"more":true,"x":null}}'
    assert texts(body) == [b'{"a": ' + kept + b"}", b'{"b": 2}']


def test_an_odd_page_may_leave_out_what_has_a_default() -> None:
    answer = decode(reply(200, b'{"data":{"rows":[NaN]}}'), Envelope)
    assert answer == Envelope(Rows([msgspec.Raw(b"NaN")], more=False))


def test_a_byte_order_mark_does_not_cost_a_page() -> None:
    assert texts(b'\xef\xbb\xbf{"data":{"rows":[1],"more":true}}') == [b"1"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>captive</html>",
        b'{"data":{"rows":[{"a":',
        b"[]",
        b"null",
        b'"secret"',
        b'{"data":{"rows":{}}}',
        b'{"data":{"rows":[1],"more":"secret"}}',
        b'{"data":{"rows":[NaN],"more":"secret"}}',
        b'{"data":{"more":true}}',
        b'{"data":[NaN]}',
        b"[" * 200_000,
        b'{"data":{"rows":[' + b"[" * 200_000 + b"]" * 200_000 + b"]}}",
        b'\xff\xfe{"secret',
        b"{}secret",
    ],
)
def test_what_is_not_the_expected_json_is_a_bad_reply(body: bytes) -> None:
    with pytest.raises(Retryable) as caught:
        decode(reply(200, body, content_type="text/html; charset=x"), Envelope)
    assert caught.value.reason == "bad_reply"
    assert "content type text/html" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_reply_without_a_content_type_says_so() -> None:
    with pytest.raises(Retryable, match="content type not given"):
        decode(reply(200, b""), Envelope)


@pytest.mark.parametrize("body", [b"NaN", b'"\\ud800"', b'{"a":"\x01"}', b"[1]"])
def test_a_replys_json_is_read_leniently(body: bytes) -> None:
    assert repr(reply(200, body).json()) == repr(json.loads(body, strict=False))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 200_000])
def test_a_replys_json_is_a_value_error_if_it_is_not_json(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # three decoders, each with its own words
        reply(200, body).json()


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"a": NaN}', {"a": pytest.approx(float("nan"), nan_ok=True)}), (b"[1]", {}), (b"", {})],
)
def test_a_replys_object_is_empty_if_there_is_none(body: bytes, expected: dict[str, Any]) -> None:
    assert reply(400, body).object() == expected
