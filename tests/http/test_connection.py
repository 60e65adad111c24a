"""One connection over a real socket: replies that come early, in part, too much, or never."""

import asyncio
import contextlib
import socket
import struct
import threading
import tracemalloc
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.peers import PLAIN, SHORT_TIMEOUT, Connect, failure, raw_server, scripted
from tests.support.proxy import reset

from auditrelay.clock import Clock
from auditrelay.errors import Retryable
from auditrelay.http.connection import READ_AHEAD_BYTES, Connection
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.parser import ReplyParser
from auditrelay.http.peer import Peer
from auditrelay.http.tls import _no_tls
from auditrelay.http.transport import Transport
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber

LARGE = b"x" * 30_000_000
"""More than the sockets' buffers take, so that it can only be sent to a peer that reads."""

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def head(reader: Reader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


# --- replies that come before the request was sent


async def and_read_the_rest_away(reader: Reader, writer: Writer) -> None:
    writer.write_eof()
    while await reader.read(65536):
        pass


async def and_close(reader: Reader, writer: Writer) -> None:
    writer.close()


async def and_reset(reader: Reader, writer: Writer) -> None:
    await writer.drain()
    reset(writer)


async def and_wait(reader: Reader, writer: Writer) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("then", "size"),
    [
        *((and_read_the_rest_away, size) for size in (200_000, len(LARGE))),
        *((and_close, size) for size in (200_000, len(LARGE))),
        *((and_reset, size) for size in (200_000, len(LARGE))),
        (and_wait, len(LARGE)),
    ],
)
async def test_a_refusal_counts_though_the_request_was_not_sent_to_its_end(
    direct: Connect, then: Callable[[Reader, Writer], Awaitable[None]], size: int
) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        await reader.read(1000)
        writer.write(TOO_LARGE)
        await then(reader, writer)

    async with scripted(serve) as url:
        peer = direct(url, timeout="5s")
        for _ in range(10):
            reply = await peer.request("POST", "/", content=LARGE[:size])
            assert (reply.status, reply.body) == (413, b"large")


async def test_a_refusal_cut_off_by_a_reset_still_counts(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(TOO_LARGE[:-2])
        await and_reset(reader, writer)

    async with scripted(serve) as url:
        reply = await direct(url).request("POST", "/", content=LARGE)
    assert (reply.status, reply.body) == (413, b"lar")


@contextmanager
def broken_before_write(
    nth: int, *answers: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """
    A server that sends each of *answers* after some bytes of a request, and a reset at the end.

    The *nth* write of the client waits for the reset, without letting its loop run.
    """
    reset, writes = threading.Event(), 0
    write = Connection._write

    def late(connection: Connection, data: bytes | memoryview) -> None:
        nonlocal writes
        writes += 1
        if writes == nth:
            go.set()
            reset.wait(5)
        write(connection, data)

    go = threading.Event()

    def serve() -> None:
        accepted, _address = listener.accept()
        with accepted:
            for answer in answers[:-1]:
                accepted.recv(65536)
                accepted.sendall(answer)
            go.wait(5)
            accepted.sendall(answers[-1])
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.set()

    monkeypatch.setattr(Connection, "_write", late)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


async def test_a_refusal_counts_though_the_next_write_fails(
    direct: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken_before_write(2, TOO_LARGE, monkeypatch=monkeypatch) as url:
        reply = await direct(url).request("POST", "/", content=bytes(200_000))
    assert (reply.status, reply.body) == (413, b"large")


async def test_what_was_said_before_a_request_that_could_not_be_sent_is_no_reply_to_it(
    direct: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken_before_write(2, OK, OK, monkeypatch=monkeypatch) as url:
        peer = direct(url)
        assert (await peer.request("POST", "/", content=b"1")).status == 200
        assert (await failure_of_post(peer, b"2")).reason == "reset"


@pytest.mark.parametrize("size", [0, 1000, len(LARGE)])
async def test_a_connection_that_breaks_without_a_word_may_be_refusing_the_size(
    connect: Connect, size: int
) -> None:
    """Most proxies of one kind or another just reset what is too large."""

    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        reset(writer)

    async with scripted(serve) as url:
        error = await failure_of_post(connect(url), LARGE[:size])
    assert (error.reason, error.while_sending) == ("reset", True)


async def test_a_connection_that_breaks_within_a_reply_is_no_refusal_of_the_size(
    connect: Connect,
) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf") as url:
        error = await failure(connect(url))
    assert (error.reason, error.while_sending) == ("reset", False)


async def test_nothing_is_a_possible_duplicate_of_which_only_a_part_was_sent(
    direct: Connect,
) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        reset(writer)

    async with scripted(serve) as url:
        error = await failure_of_post(direct(url))
    assert (error.reason, error.sent) == ("reset", False)


async def test_a_success_for_half_a_request_is_none(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(OK)
        await and_reset(reader, writer)

    async with scripted(serve) as url:
        error = await failure_of_post(direct(url))
    assert (error.reason, error.sent) == ("reset", True)


async def failure_of_post(peer: Peer, content: bytes = LARGE) -> Retryable:
    with pytest.raises(Retryable) as caught:
        await peer.request("POST", "/", content=content)
    return caught.value


async def test_an_early_success_does_not_end_the_request(connect: Connect) -> None:
    arrived = asyncio.Event()

    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(OK)
        await reader.readexactly(len(LARGE))
        arrived.set()
        await reader.read()

    async with scripted(serve) as url, asyncio.timeout(90):
        assert (await connect(url).request("POST", "/", content=LARGE)).status == 200
        await arrived.wait()


async def test_a_peer_that_never_reads_is_a_timeout(connect: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await asyncio.sleep(60)

    async with scripted(serve) as url:
        error = await failure_of_post(connect(url, timeout=SHORT_TIMEOUT))
    assert (error.reason, error.sent) == ("timeout", True)


async def test_a_peer_that_ends_its_side_without_a_reply_is_a_reset(connect: Connect) -> None:
    async with scripted(and_read_the_rest_away) as url:
        error = await failure_of_post(connect(url), b"{}")
    assert (error.reason, error.sent) == ("reset", True)


# --- the reply and its end


async def test_a_reply_without_a_length_ends_with_the_connection(connect: Connect) -> None:
    async with raw_server(b"HTTP/1.0 200 OK\r\n\r\n[1,2]") as url:
        assert (await connect(url).request("GET", "/")).json() == [1, 2]


async def test_a_reply_without_a_length_is_not_complete_after_a_reset(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n[1,2")
        await and_reset(reader, writer)

    async with scripted(serve) as url:
        assert (await failure(direct(url))).reason == "reset"


async def test_interim_replies_are_skipped(connect: Connect) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    async with raw_server(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK) as url:
        reply = await connect(url).request("POST", "/", content=b"{}")
    assert (reply.status, reply.body, "link" in reply.headers) == (200, b"{}", False)


@pytest.mark.parametrize(
    "piece", [b"X: " + b"x" * 1000, b"X: 1\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_a_head_without_end_is_a_bad_reply(direct: Connect, piece: bytes) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        writer.write(b"" if piece.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(piece * 10)
            await writer.drain()

    async with scripted(serve) as url:
        error = await failure(direct(url))
    assert (error.reason, error.sent) == ("bad_reply", True)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (b"HTTP/1.1 200 OK\r\nbad header\r\n", 2),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\x01: 1\r\n", 4),
        (b"HTTP/1.1 103 Hints\r\nA: 1\r\n\r\nHTTP/1.1 200 OK\r\nB: 2\r\n\x01: 1\r\n", 6),
        (b"HTTP/1.1 two OK\r\n", 1),
    ],
)
async def test_the_line_for_which_a_reply_is_not_http_is_named(
    direct: Connect, head: bytes, line: int
) -> None:
    async with raw_server(head + b"\r\n") as url:
        error = await failure(direct(url))
    assert str(error).endswith(f" (line {line})")
    assert error.reason == "bad_reply"


@pytest.mark.parametrize("connect", ["proxied"], indirect=True)
async def test_behind_a_proxy_the_line_is_shown_without_secrets(connect: Connect) -> None:
    scrubber.learn(Secret("k7Qz9fA3bX81LmPq"))
    async with raw_server(b"HTTP/1.1 200 OK\r\nk7Qz9fA3bX81LmPq : 1\r\n\r\n") as url:
        error = await failure(connect(url))
    assert "is not HTTP: illegal header line" in str(error)
    assert "k7Qz9fA3" not in str(error)


async def test_a_peer_at_rest_takes_next_to_no_memory() -> None:
    tls, before = _no_tls(), tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        began, _ = tracemalloc.get_traced_memory()
        kept = [Transport(tls) for _ in range(50)]
        now, _ = tracemalloc.get_traced_memory()
    finally:
        if not before:
            tracemalloc.stop()
    assert now - began < 2048 * len(kept), "without a read buffer of its own"


async def test_connections_that_are_read_at_once_share_no_byte() -> None:
    """Bytes of all of them wait whenever the loop looks."""
    waiting: list[Writer] = []
    ready = asyncio.Event()
    pieces, size = 100, 10_000

    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        number = len(waiting)
        waiting.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * size))
        if len(waiting) == len(urls):
            ready.set()
        await ready.wait()
        for _ in range(pieces):
            writer.write(b"%d" % number * size)
            await asyncio.sleep(0)  # for the others to write as well, before any of them is read

    transport = Transport(_no_tls())

    async def body(url: str) -> bytes:
        request = httpx.Request("GET", url, extensions={"timeout": {"connect": 5}})
        response = await transport.handle_async_request(request)
        return b"".join([piece async for piece in response.aiter_raw()])

    async with scripted(serve) as url, asyncio.timeout(90):
        urls = [url] * 5
        bodies = await asyncio.gather(*map(body, urls))
    assert sorted(bodies) == [b"%d" % number * pieces * size for number in range(len(urls))]
    await transport.aclose()


async def test_a_body_is_not_read_faster_than_it_is_taken() -> None:
    size, sent = 50 * 2**20, 0

    async def serve(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(2**18))
            sent += 2**18
            await writer.drain()

    transport = Transport(_no_tls())
    async with scripted(serve) as url:
        request = httpx.Request("GET", url, extensions={"timeout": {"connect": 5}})
        response = await transport.handle_async_request(request)
        before = -1
        while before != sent:  # until the server is stuck
            before = sent
            await asyncio.sleep(0.05)
        assert sent < size / 2
        pieces = [len(piece) async for piece in response.aiter_raw()]
    assert sum(pieces) == size
    assert max(pieces) < 2 * READ_AHEAD_BYTES
    await response.aclose()
    await transport.aclose()


@pytest.mark.parametrize("surplus", [b"x", OK, b"HTTP/1.1 408 Timeout\r\n\r\n"])
@pytest.mark.parametrize("late", [False, True])
async def test_what_was_not_asked_for_is_no_reply_to_the_next_request(
    direct: Connect, caplog: pytest.LogCaptureFixture, surplus: bytes, *, late: bool
) -> None:
    answered = asyncio.Event()

    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(OK if late else OK + surplus)
        if late:
            await answered.wait()
            writer.write(surplus)
        await reader.read()

    async with scripted(serve) as url:
        peer = direct(url)
        for _ in range(3):
            answered.clear()
            reply = await peer.request("POST", "/", content=b"{}")
            assert (reply.status, reply.body) == (200, b"{}")
            answered.set()
            await asyncio.sleep(0.01)
    assert not caplog.records


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(b"HTTP/1.1 200 OK\r\n".__add__),
        st.binary(max_size=300).map(b"HTTP/1.1 200 OK\r\nContent-Length: 250\r\n\r\n".__add__),
        st.binary(max_size=300).map(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".__add__
        ),
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_reply_or_a_failure_with_a_reason(answer: bytes, broken: bool) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        await head(reader)
        writer.write(answer)
        await writer.drain()
        if broken:
            reset(writer)

    async def ask() -> None:
        async with scripted(serve) as url:
            peer = Peer(
                "voice",
                PLAIN,
                base_url=url,
                credentials=KeyCredentials(dict),
                metrics=Metrics(),
                clock=Clock(),
            )
            with contextlib.suppress(Retryable):
                async with asyncio.timeout(5):
                    await peer.request("GET", "/")
            await peer.aclose()

    asyncio.run(ask())


# --- a bug in what asyncio calls


async def test_a_bug_in_reading_a_reply_fails_that_request_at_once(
    direct: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def feed(_: ReplyParser, __: memoryview) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ReplyParser, "feed", feed)
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await direct().request("GET", "/logs")
    assert "buffer_updated() call failed" in caplog.text
