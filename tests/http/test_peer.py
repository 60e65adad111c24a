"""A peer over real sockets on loopback: the error for each failure, and what is never sent."""

import asyncio
import gc
import gzip
import socket
import tracemalloc
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.logged import logged
from tests.support.peers import (
    PARAMS,
    PLAIN,
    SHORT_TIMEOUT,
    Connect,
    Server,
    counted,
    failure,
    raw_server,
    scripted,
)

from auditrelay import __version__
from auditrelay.confirmed_time import REPEATED
from auditrelay.errors import ConfigError, Refused, RelayError, RequestRefused
from auditrelay.http import body
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.sandbox import faults
from auditrelay.settings import SourceSettings
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.telemetry.metrics import Metrics


class Rows(msgspec.Struct):
    rows: list[msgspec.Raw]


# --- an ordinary request


async def test_a_request_identifies_us_and_keeps_no_cookies(
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


async def test_a_configured_proxy_is_used(server: Server, direct: Connect) -> None:
    peer = direct("http://vendor.example", proxy=server.url)
    await peer.request("GET", "/logs")
    assert server.seen[0].headers["host"] == "vendor.example"


async def test_nothing_is_logged_about_a_request_that_succeeds(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await connect().request("GET", "/", params=PARAMS)
    assert "query-secret" not in caplog.text


async def test_at_debug_each_request_is_a_line_without_query_headers_or_bodies(
    server: Server, connect: Connect
) -> None:
    peer = connect(identity=lambda: {"X-Key": "header-secret"}, timeout=SHORT_TIMEOUT)
    server.faults.add(faults.hang(), nth=2)
    with logged("debug") as lines:
        reply = await peer.request("POST", "/logs", params=PARAMS, content=b"body-secret")
        await failure(peer)
        done, failed = lines()
    for line in (done, failed):
        assert (line["event"], line["level"]) == ("request", "debug")
        assert (line["peer"], line["path"]) == ("voice", "/logs")
        assert "secret" not in str(line)
    assert b"header-secret" in reply.body, "the reply has the secrets; the line has its length"
    assert (done["method"], done["status"], done["bytes"]) == ("POST", 200, len(reply.body))
    assert 0 <= done["seconds"] < 0.4 <= failed["seconds"]
    assert (failed["method"], failed["reason"]) == ("GET", "timeout")
    assert not {"status", "bytes"} & failed.keys()


async def test_at_debug_the_bytes_of_a_reply_are_those_of_its_decompressed_body(
    server: Server, connect: Connect
) -> None:
    text = gzip.compress(b"[" + b" " * 10_000 + b"]")
    server.faults.add(faults.answer(503, text, {"Content-Encoding": "gzip"}))
    with logged("debug") as lines:
        await connect().request("GET", "/logs")
        (line,) = lines()
    assert (line["status"], line["bytes"]) == (503, 10_002)


async def test_at_info_a_request_is_no_line(server: Server, connect: Connect) -> None:
    peer = connect(timeout=SHORT_TIMEOUT)
    server.faults.add(faults.hang(), nth=2)
    with logged("info") as lines:
        await peer.request("GET", "/logs", params=PARAMS)
        await failure(peer)
        assert lines() == []


# --- no reply


async def test_a_peer_that_never_answers_is_a_timeout(
    server: Server, connect: Connect, metrics: Metrics
) -> None:
    server.faults.add(faults.hang())
    error = await failure(connect(timeout=SHORT_TIMEOUT))
    assert (error.reason, error.sent) == ("timeout", True)
    assert str(error) == f"no complete reply to GET {server.url}/logs within 0.4 s"
    assert counted(metrics, "timeout") == 1


async def test_a_peer_that_trickles_is_a_timeout_too(server: Server, connect: Connect) -> None:
    server.faults.add(faults.drip(size=1, seconds=0.02))
    error = await failure(connect(timeout=SHORT_TIMEOUT))
    assert error.reason == "timeout"


async def test_the_connection_of_a_timeout_is_not_used_again(
    server: Server, connect: Connect
) -> None:
    server.faults.add(faults.drip(size=1, seconds=0.02))
    peer = connect(timeout=SHORT_TIMEOUT)
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
    async with asyncio.timeout(5):
        await asyncio.gather(*server._open)  # each ends with its connection


@pytest.mark.parametrize("action", [faults.reset(), faults.store_then_reset()])
async def test_a_broken_connection_is_a_reset_that_may_have_stored(
    server: Server, connect: Connect, metrics: Metrics, action: faults.Action
) -> None:
    server.faults.add(action)
    error = await failure(connect())
    assert (error.reason, error.sent) == ("reset", True)
    assert counted(metrics, "reset") == 1


async def test_a_closed_port_means_that_nothing_was_sent(direct: Connect, metrics: Metrics) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await failure(direct(f"http://127.0.0.1:{port}"))
    assert (error.reason, error.sent) == ("connect", False)
    assert "Connection refused" in str(error)
    assert counted(metrics, "connect") == 1


async def test_a_connection_that_is_never_accepted_means_that_nothing_was_sent(
    direct: Connect,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for client in (first, second):
                client.setblocking(False)  # noqa: FBT003  # the library's own form
                client.connect_ex(address)
            error = await failure(direct(f"http://127.0.0.1:{address[1]}", timeout=SHORT_TIMEOUT))
    assert (error.reason, error.sent) == ("connect", False)
    assert "no connection" in str(error)


async def test_an_unknown_host_means_that_nothing_was_sent(direct: Connect) -> None:
    error = await failure(direct("http://no-such-host.invalid"))
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
async def test_an_answer_that_is_not_http_is_a_bad_reply(connect: Connect, answer: bytes) -> None:
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
async def test_a_truncated_reply_is_a_reset(connect: Connect, answer: bytes) -> None:
    async with raw_server(answer) as url:
        error = await failure(connect(url))
    assert (error.reason, error.sent) == ("reset", True)


async def test_a_failure_does_not_keep_what_was_read(server: Server, connect: Connect) -> None:
    server.faults.add(faults.gzip_bomb(body.MAX_BODY_BYTES + 1), times=None)
    peer = connect()
    tracemalloc.start()
    try:
        failures = [await failure(peer) for _ in range(3)]
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [failure.reason for failure in failures] == ["reply_too_large"] * 3
    assert kept < body.MAX_BODY_BYTES / 2


def answer(status: int, body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), head) + body


BOMBS = {
    "too large": answer(200, gzip.compress(bytes(2**20))),
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2**20),
    "blanks": answer(200, gzip.compress(b" " * 400_000)),
    "odd": answer(200, gzip.compress(b'{"rows":["\\ud800' + b"x" * 400_000)),
    "a refusal": answer(401, b"x" * 400_000),
    "an error": answer(500, b"x" * 400_000),
    "damaged": answer(200, gzip.compress(b" " * 400_000)[:-9]),
}
"""What is refused: 25 of them are 10 MB."""


@pytest.mark.parametrize("name", BOMBS)
async def test_what_is_refused_leaves_nothing_in_memory(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not even until the next collection of cycles: with that switched off, it does not grow."""
    monkeypatch.setattr(body, "MAX_BODY_BYTES", 2**19)
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            writer.write(BOMBS[name])
            await writer.drain()

    def read(reply: Reply) -> Rows:
        return decode(check(reply), Rows)

    async def refuse(times: int) -> None:
        while asked < times:
            with pytest.raises(RelayError):
                await peer.get("/", {}, read)

    async with scripted(serve) as url:
        peer = connect(url)
        await refuse(5)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            await refuse(30)
            kept, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 5_000_000  # the server and the proxy have buffers, too


def test_an_address_that_httpx_cannot_use_is_a_configuration_error(metrics: Metrics) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        Peer(
            "voice",
            PLAIN,
            base_url="https://a\x00b",
            credentials=KeyCredentials(dict),
            metrics=metrics,
            clock=FakeClock(),
        )


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


async def test_concurrent_requests_all_use_one_rotation(
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
async def test_a_key_file_that_is_being_written_is_not_used(
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
        (timedelta(days=1), {"Age": "9" * 15}, True),
        (timedelta(days=1), {"Age": "9" * 5000}, True),
        (timedelta(days=-1), {}, True),
    ],
)
async def test_a_clock_ahead_of_the_vendors_pauses_polling(
    server: Server,
    metrics: Metrics,
    clock: FakeClock,
    ahead: timedelta | None,
    more: dict[str, str],
    *,
    read: bool,
) -> None:
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url, "settle": "30s"})
    headers = dict(more)
    if ahead is not None:
        headers["Date"] = format_datetime(clock.now() - ahead, usegmt=True)
    server.faults.add(faults.answer(200, b"{}", headers))
    peer = Peer(
        "voice",
        settings,
        base_url=server.url,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
    )
    try:
        if read:
            assert (await peer.get("/", {}, check)).status == 200
        else:
            with pytest.raises(
                Refused, match=r"ahead of that of .*: fix the system clock; polling is paused"
            ):
                await peer.get("/", {}, check)
    finally:
        await peer.aclose()


async def test_a_clock_that_others_agree_with_is_not_said_to_be_wrong(
    server: Server, metrics: Metrics, clock: FakeClock
) -> None:
    clock.confirmed.hear("splunk", clock.now(), timedelta(0))
    clock.confirmed.hear("voice", clock.now() - timedelta(hours=3), timedelta(0))
    date = format_datetime(clock.now() - timedelta(hours=3), usegmt=True)
    server.faults.add(faults.answer(200, b"{}", {"Date": date}))
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url})
    peer = Peer(
        "voice",
        settings,
        base_url=server.url,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
    )
    try:
        with pytest.raises(Refused, match=r"ahead of that of .*: 1 other agrees with it") as held:
            await peer.get("/", {}, check)
    finally:
        await peer.aclose()
    assert "fix the system clock" not in str(held.value)
    assert not isinstance(held.value, RequestRefused), "a smaller request would meet it, too"


@pytest.mark.parametrize("status", [200, 401, 503])
async def test_every_reply_says_what_time_it_is(
    server: Server, metrics: Metrics, clock: FakeClock, status: int
) -> None:
    date = format_datetime(clock.now() + timedelta(hours=3), usegmt=True)
    server.faults.add(faults.answer(status, b"{}", {"Date": date}), times=2)
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url})
    peer = Peer(
        "voice",
        settings,
        base_url=server.url,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
    )
    with capture_logs() as logs:
        await peer.request("GET", "/")
        await peer.request("GET", "/")
    await peer.aclose()
    assert clock.confirmed.now("voice") == clock.now() + timedelta(hours=3)
    assert [line["ahead_seconds"] for line in logs if line["event"] == "clock_differs"] == [-10800]


async def test_a_reply_that_says_no_time_is_heard_too(
    server: Server, metrics: Metrics, clock: FakeClock
) -> None:
    date = format_datetime(clock.now() - timedelta(days=700), usegmt=True)
    server.faults.add(faults.answer(502, b"", {"Date": date}))
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url})
    peer = Peer(
        "voice",
        settings,
        base_url=server.url,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
    )
    await peer.request("GET", "/")
    assert clock.confirmed.certain("voice") < clock.now()
    clock.advance(REPEATED + 1)
    await peer.request("GET", "/")
    await peer.aclose()
    assert clock.confirmed.certain("voice") == clock.now()


@pytest.mark.parametrize(
    "value",
    ["99999999999", "18446744073709551615", "9" * 5000, "2147483648", "-5", "1.5", "\u0664", ""],
)
async def test_no_age_raises(
    server: Server, metrics: Metrics, clock: FakeClock, value: str
) -> None:
    headers = {"Date": format_datetime(clock.now(), usegmt=True), "Age": value}
    if value.isascii():
        server.faults.add(faults.answer(200, b"{}", headers))
    settings = SourceSettings.model_validate({"type": "x", "base_url": server.url})
    peer = Peer(
        "voice",
        settings,
        base_url=server.url,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
    )
    assert (await peer.request("GET", "/")).status in (200, 404)
    await peer.aclose()
    assert clock.confirmed.certain("voice") == clock.now()
