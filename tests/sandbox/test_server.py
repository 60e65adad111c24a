"""The server under the doubles: strict HTTP, every fault, and no hidden bugs."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from auditrelay.sandbox import Double, Request, Response, Trap, faults
from auditrelay.sandbox.messages import json_response


class Echo(Double):
    """Echoes requests, and counts how many it processed."""

    worked = 0

    def respond(self, request: Request) -> Response:
        self.worked += 1
        body = request.content("gzip", "deflate").decode()
        return json_response(200, {"path": request.path, "query": request.query, "body": body})


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as echo:
        yield echo


async def raw(double: Double, text: bytes) -> bytes:
    """Send *text* as it is and return all that comes back before the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", double.port)
    writer.write(text)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", b"400"),
        (
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", b"400"),
    ],
)
async def test_malformed_http_is_refused(echo: Echo, text: bytes, status: bytes) -> None:
    assert (await raw(echo, text)).startswith(b"HTTP/1.1 " + status)
    assert echo.worked == 0


async def test_a_chunked_request_is_reassembled(echo: Echo, client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    reply = await client.post(f"{echo.url}/a%20b?x=1&x=2&y=", content=pieces())
    assert reply.json() == {"path": "/a b", "query": {"x": "2", "y": ""}, "body": "one two"}


async def test_an_expected_continue_is_sent(echo: Echo) -> None:
    text = (
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    reply = await raw(echo, text)
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("gzip", gzip.compress(b"hel", mtime=0) + gzip.compress(b"lo", mtime=0)),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello", wbits=-15)),
        ("identity", b"hello"),
    ],
)
async def test_an_encoded_body_is_decoded(
    echo: Echo, client: httpx.AsyncClient, encoding: str, body: bytes
) -> None:
    reply = await client.post(echo.url, content=body, headers={"Content-Encoding": encoding})
    assert reply.json()["body"] == "hello"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("zstd", b"(\xb5/\xfd", 415),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-5], 400),
        ("deflate", b"\x78", 400),
    ],
)
async def test_a_body_that_cannot_be_decoded_is_refused(
    echo: Echo, client: httpx.AsyncClient, encoding: str, body: bytes, status: int
) -> None:
    reply = await client.post(echo.url, content=body, headers={"Content-Encoding": encoding})
    assert reply.status_code == status


async def test_one_connection_serves_many_requests(echo: Echo, client: httpx.AsyncClient) -> None:
    for _ in range(5):
        await client.get(echo.url)
    assert echo.connections == 1
    assert echo.requests == 5


async def test_every_request_is_logged_without_its_body(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    await client.post(f"{echo.url}/x?a=b", content=b"12345", headers={"X-Key": "k"})
    (seen,) = echo.seen
    assert (seen.method, seen.path, seen.query, seen.status) == ("POST", "/x", {"a": "b"}, 200)
    assert (seen.headers["x-key"], seen.body_bytes, seen.fault) == ("k", 5, False)


async def test_a_restarted_double_has_the_same_port(echo: Echo, client: httpx.AsyncClient) -> None:
    await client.get(echo.url)
    await echo.stop()
    with pytest.raises(httpx.ConnectError):
        await client.get(echo.url)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", echo.port))
    await echo.start()
    assert (await client.get(echo.url)).status_code == 200


async def test_a_double_does_not_wait_for_more_to_send(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    """With Nagle's algorithm each reply on a kept connection would come 40 ms late."""
    await client.get(echo.url)
    (writer,) = echo._open.values()
    connection = writer.get_extra_info("socket")
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("turns", range(5))
async def test_a_connection_that_comes_as_the_double_stops_is_ended_as_well(turns: int) -> None:
    """However far it has come by then: it would stay open, and its client wait."""
    double = await Echo().start()
    with socket.create_connection(("127.0.0.1", double.port), timeout=2) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await double.stop()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


async def test_a_bug_in_a_double_is_raised_when_it_stops(client: httpx.AsyncClient) -> None:
    class Broken(Double):
        def respond(self, request: Request) -> Response:
            raise KeyError("planted")

    double = await Broken().start()
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(double.url)
    with pytest.raises(ExceptionGroup) as raised:
        await double.stop()
    assert raised.group_contains(KeyError, match="planted")


async def test_on_request_may_be_asynchronous(echo: Echo, client: httpx.AsyncClient) -> None:
    paths = []

    async def note(request: Request) -> None:
        await asyncio.sleep(0)
        paths.append(request.path)

    echo.on_request = note
    await client.get(f"{echo.url}/x")
    assert paths == ["/x"]


# -- faults ------------------------------------------------------------------------------------


async def test_a_delay_delays_one_request(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.delay(0.2))
    start = time.monotonic()
    assert (await client.get(echo.url)).status_code == 200
    assert time.monotonic() - start >= 0.2
    start = time.monotonic()
    await client.get(echo.url)
    assert time.monotonic() - start < 0.2


@pytest.mark.parametrize(("process", "worked"), [(False, 0), (True, 1)])
async def test_a_hanging_double_never_answers(
    echo: Echo, client: httpx.AsyncClient, process: bool, worked: int
) -> None:
    echo.faults.add(faults.hang(process=process))
    with pytest.raises(httpx.ReadTimeout):
        await client.get(echo.url, timeout=0.2)
    assert echo.worked == worked


@pytest.mark.parametrize(("action", "worked"), [("reset", 0), ("store_then_reset", 1)])
async def test_a_reset_comes_before_or_after_processing(
    echo: Echo, client: httpx.AsyncClient, action: str, worked: int
) -> None:
    echo.faults.add(getattr(faults, action)())
    with pytest.raises(httpx.ReadError):  # a RST, not an orderly end
        await client.get(echo.url)
    assert echo.worked == worked
    assert echo.seen[0].status == 0
    assert (await client.get(echo.url)).status_code == 200


async def test_a_drip_is_complete_but_slow(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.drip(size=10, seconds=0.05))
    start = time.monotonic()
    reply = await client.get(echo.url)
    assert reply.json()["path"] == "/"
    assert time.monotonic() - start >= 0.1


async def test_a_scripted_answer_processes_nothing(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.answer(418, b"tea", {"X-Pot": "1"}))
    reply = await client.get(echo.url)
    assert (reply.status_code, reply.text, reply.headers["x-pot"]) == (418, "tea", "1")
    assert echo.worked == 0


async def test_retry_after_comes_in_seconds_as_a_date_or_not_at_all(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    at = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
    echo.faults.add(faults.too_many(retry_after=7))
    echo.faults.add(faults.too_many(retry_after=at))
    echo.faults.add(faults.too_many())
    echo.faults.add(faults.too_many_until(at.timestamp, 5))
    waits = [(await client.get(echo.url)).headers.get("retry-after", "") for _ in range(4)]
    assert waits[0] == "7"
    assert waits[1] == "Fri, 20 Nov 2026 12:00:30 GMT"
    assert waits[2] == ""
    assert parsedate_to_datetime(waits[3]) == at + timedelta(seconds=5)


@pytest.mark.parametrize("status", [200, 502, 503])
async def test_a_proxy_answers_html(echo: Echo, client: httpx.AsyncClient, status: int) -> None:
    echo.faults.add(faults.html(status))
    reply = await client.get(echo.url)
    assert reply.status_code == status
    assert reply.headers["content-type"].startswith("text/html")
    assert "<html>" in reply.text


async def test_an_empty_200_may_have_been_stored(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.empty(process=True))
    reply = await client.get(echo.url)
    assert (reply.status_code, reply.content, echo.worked) == (200, b"", 1)


async def test_a_reply_is_cut_with_or_without_an_honest_length(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    echo.faults.add(faults.truncated())
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(echo.url)
    echo.faults.add(faults.truncated(honest_length=True))
    reply = await client.get(echo.url)
    with pytest.raises(json.JSONDecodeError):
        reply.json()


async def test_the_content_type_may_be_wrong(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.wrong_type("text/html"))
    assert (await client.get(echo.url)).headers["content-type"] == "text/html"


async def test_a_trap_records_what_a_redirect_sent_it(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    async with Trap() as trap:
        echo.faults.add(faults.redirect(trap.url, 307))
        reply = await client.get(f"{echo.url}/a?b=c", headers={"X-Secret": "s3cr3t"})
        assert reply.headers["location"] == f"{trap.url}/a?b=c"
        assert not trap.received("s3cr3t")
        await client.post(reply.headers["location"], headers={"X-Secret": "s3cr3t"})
        await client.post(trap.url, content=gzip.compress(b"t0k3n"), headers=GZIP)
        assert trap.received("s3cr3t")
        assert trap.received("t0k3n")
        assert not trap.received("other")


GZIP = {"Content-Encoding": "gzip"}


async def test_a_huge_reply_has_the_requested_size(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.huge(3_000_000))
    assert len((await client.get(echo.url)).content) == 3_000_000


async def test_a_gzip_bomb_is_small_on_the_wire(echo: Echo, client: httpx.AsyncClient) -> None:
    echo.faults.add(faults.gzip_bomb(20_000_000))
    reply = await client.get(echo.url)
    assert int(reply.headers["content-length"]) < 50_000
    assert len(reply.content) == 20_000_000


@pytest.mark.parametrize("action", [faults.gzipped, faults.chunked])
async def test_a_reply_is_the_same_in_every_coding(
    echo: Echo, client: httpx.AsyncClient, action: Callable[[], faults.Action]
) -> None:
    plain = await client.get(echo.url)
    echo.faults.add(action())
    coded = await client.get(echo.url)
    assert coded.json() == plain.json()
    assert {"content-encoding", "transfer-encoding"} & set(coded.headers)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_kept_connection_is_closed_after_a_reply(
    echo: Echo, client: httpx.AsyncClient, announced: bool
) -> None:
    echo.faults.add(faults.close(announced=announced))
    reply = await client.get(echo.url)
    assert (reply.headers.get("connection") == "close") is announced
    await asyncio.sleep(0.05)  # httpx sees the end of an idle connection when it next looks
    assert (await client.get(echo.url)).status_code == 200
    assert echo.connections == 2


async def test_a_fault_applies_only_to_matching_requests(
    echo: Echo, client: httpx.AsyncClient
) -> None:
    fault = echo.faults.add(faults.answer(500), method="POST", path="/a/*", nth=(2, 3))
    statuses = []
    for method, path in [
        ("POST", "/a/1"),
        ("GET", "/a/1"),
        ("POST", "/b"),
        ("POST", "/a/2"),
        ("POST", "/a/3"),
        ("POST", "/a/4"),
    ]:
        statuses.append((await client.request(method, f"{echo.url}{path}")).status_code)
    assert statuses == [200, 200, 200, 500, 500, 200]
    assert (fault.matched, fault.applied) == (3, 2)


async def test_chance_is_the_same_for_the_same_seed(client: httpx.AsyncClient) -> None:
    runs = []
    for seed in (1, 1, 2):
        async with Echo(seed=seed) as echo:
            echo.faults.add(faults.answer(500), chance=0.5, times=None)
            runs.append([(await client.get(echo.url)).status_code for _ in range(20)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert {200, 500} == set(runs[0])
