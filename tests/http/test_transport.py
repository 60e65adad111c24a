"""The connections to one peer: kept, bounded, closed when idle, and replaced when stale."""

import asyncio
import socket
import subprocess
import sys
import threading
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.daemon import TIMEOUT
from tests.support.peers import (
    Connect,
    Server,
    failure,
    scripted,
)

from auditrelay.errors import Retryable
from auditrelay.http import transport
from auditrelay.http.peer import Peer
from auditrelay.http.transport import Transport
from auditrelay.sandbox import faults

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def closed(server: Server) -> None:
    """Wait until the server has no connection."""
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*server._open)


def own(peer: Peer) -> Transport:
    assert isinstance(peer._transport, Transport)
    return peer._transport


# --- kept connections


async def test_a_connection_is_used_again(server: Server, connect: Connect) -> None:
    peer = connect()
    for method in ("GET", "POST", "HEAD", "GET"):
        assert (await peer.request(method, "/")).status == 200
    assert server.connections == 1


async def test_requests_at_the_same_time_have_a_connection_each(
    server: Server, connect: Connect
) -> None:
    peer = connect()
    for _ in range(2):
        replies = await asyncio.gather(
            *(peer.request("GET", "/", params={"n": str(n)}) for n in range(8))
        )
        assert [reply.json()["query"] for reply in replies] == [{"n": str(n)} for n in range(8)]
    assert server.connections == 8


async def test_no_more_idle_connections_are_kept_than_the_limit(
    server: Server, direct: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_IDLE", 3)
    peer = direct()
    await asyncio.gather(*(peer.request("GET", "/") for _ in range(8)))
    async with asyncio.timeout(5):
        while len(server._open) > 3:
            await asyncio.wait(server._open, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*(peer.request("GET", "/") for _ in range(3)))
    assert server.connections == 8


async def test_a_connection_that_is_idle_for_too_long_is_closed_and_nothing_wakes_afterwards(
    server: Server, direct: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", 0.05)
    peer = direct()
    await asyncio.gather(*(peer.request("GET", "/") for _ in range(3)))
    await closed(server)
    assert own(peer)._timer is None
    assert (await peer.request("GET", "/")).status == 200


async def test_connections_to_different_addresses_are_not_mixed_up(
    server: Server, connect: Connect
) -> None:
    peer = connect()
    async with Server() as other:
        for _ in range(2):
            for each in (server, other):
                await peer.request("GET", "/", base_url=each.url)
        assert (len(server.seen), len(other.seen)) == (2, 2)
        assert (server.connections, other.connections) == (1, 1)


async def test_nothing_is_open_after_close(server: Server, connect: Connect) -> None:
    peer = connect()
    await asyncio.gather(*(peer.request("GET", "/") for _ in range(3)))
    await peer.aclose()
    await closed(server)


async def test_closing_fails_a_reply_that_is_not_complete(direct: Connect) -> None:
    """Also one whose end is that of the connection: it must not look complete."""
    arrived = asyncio.Event()

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n[1,2")
        await writer.drain()
        arrived.set()
        await reader.read()

    async with scripted(serve) as url:
        peer = direct(url)
        task = asyncio.create_task(peer.request("GET", "/"))
        await arrived.wait()
        await asyncio.sleep(0.05)
        await peer.aclose()
        with pytest.raises(Retryable) as caught:
            await task
    assert caught.value.reason == "reset"


async def test_closing_fails_a_get_for_good(server: Server, direct: Connect) -> None:
    """It is not sent again, on a connection that would stay open."""
    server.faults.add(faults.hang(), nth=2)
    arrived = asyncio.Event()
    peer = direct()
    await peer.request("GET", "/")
    server.on_request = lambda _request: arrived.set()
    task = asyncio.create_task(peer.request("GET", "/"))
    await arrived.wait()
    await peer.aclose()
    with pytest.raises(Retryable):
        await task
    await closed(server)
    assert (server.connections, len(server.seen)) == (1, 2)


# --- stale connections


@pytest.mark.parametrize("how", [faults.close(), faults.Action(close="reset")])
async def test_a_connection_that_the_peer_has_closed_is_not_used(
    server: Server, connect: Connect, how: faults.Action
) -> None:
    """Nothing is sent on it, so that no event counts as a possible duplicate."""
    server.faults.add(how)
    peer = connect()
    assert (await peer.request("POST", "/", content=b"{}")).status == 200
    await closed(server)
    await asyncio.sleep(0.02)  # for a proxy to pass it on
    assert (await peer.request("POST", "/", content=b"{}")).status == 200
    assert (server.connections, len(server.seen)) == (2, 2)


@contextmanager
def threaded(serve: Any) -> Iterator[str]:
    """Let *serve* accept connections in a thread, with no help from the loop of the test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


async def test_a_close_that_the_loop_has_not_seen_yet_is_seen(direct: Connect) -> None:
    closed = threading.Event()

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _address = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(OK)
            closed.set()

    with threaded(serve) as url:
        peer = direct(url)
        assert (await peer.request("POST", "/", content=b"1")).status == 200
        closed.wait(5)  # in the loop's own thread, so that it cannot see it
        assert (await peer.request("POST", "/", content=b"2")).status == 200


async def test_a_get_on_a_kept_connection_that_breaks_without_an_answer_is_sent_again(
    server: Server, direct: Connect
) -> None:
    server.faults.add(faults.reset(), nth=2)
    peer = direct()
    for n in range(2):
        reply = await peer.request("GET", "/", params={"n": str(n)})
        assert reply.json()["query"] == {"n": str(n)}
    assert (server.connections, len(server.seen)) == (2, 3)


async def test_it_is_sent_again_only_once(server: Server, direct: Connect) -> None:
    server.faults.add(faults.reset(), nth=(2, 3))
    peer = direct()
    await peer.request("GET", "/")
    assert (await failure(peer)).reason == "reset"
    assert len(server.seen) == 3


async def test_a_post_that_may_have_arrived_is_never_sent_again(
    server: Server, direct: Connect
) -> None:
    server.faults.add(faults.store_then_reset(), nth=2)
    peer = direct()
    await peer.request("POST", "/", content=b"1")
    with pytest.raises(Retryable) as caught:
        await peer.request("POST", "/", content=b"2")
    assert (caught.value.reason, caught.value.sent) == ("reset", True)
    assert len(server.seen) == 2


async def test_a_post_of_which_nothing_was_sent_is_sent_on_another_connection(
    server: Server, direct: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks between the look at it and the first byte."""
    peer = direct()
    await peer.request("POST", "/", content=b"1")
    (connection,) = own(peer)._idle
    write = connection._transport.write

    def broken(data: bytes) -> None:
        connection._transport.get_extra_info("socket")._sock.shutdown(socket.SHUT_WR)
        write(data)

    monkeypatch.setattr(connection._transport, "write", broken, raising=False)
    assert (await peer.request("POST", "/", content=b"2")).status == 200
    assert (server.connections, len(server.seen)) == (2, 2)


async def test_a_get_that_was_answered_in_part_is_not_sent_again(
    server: Server, direct: Connect
) -> None:
    server.faults.add(faults.truncated(), nth=2)
    peer = direct()
    await peer.request("GET", "/")
    assert (await failure(peer)).reason == "reset"
    assert len(server.seen) == 2


async def test_a_get_on_a_new_connection_is_not_sent_again(server: Server, direct: Connect) -> None:
    server.faults.add(faults.reset())
    assert (await failure(direct())).reason == "reset"
    assert len(server.seen) == 1


# --- connecting and sending


async def test_an_address_of_ipv6_is_reached(direct: Connect) -> None:
    async def serve(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nHost: [::1]:" in head
        writer.write(OK)

    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with scripted(serve, host="::1") as url:
        assert (await direct(url).request("GET", "/")).status == 200


async def test_a_name_with_several_addresses_is_reached_at_the_one_that_answers(
    server: Server, direct: Connect
) -> None:
    peer = direct(server.url.replace("127.0.0.1", "localhost"))
    assert (await peer.request("GET", "/")).status == 200


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", ".example"])
async def test_a_name_that_cannot_exist_is_no_connection(direct: Connect, host: str) -> None:
    error = await failure(direct(f"http://{host}"))
    assert (error.reason, error.sent) == ("connect", False)


@pytest.mark.parametrize("value", ["a\r\nX-More: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_cannot_add_another(server: Server, connect: Connect, value: str) -> None:
    await failure(connect(identity=lambda: {"X-Key": value}))
    assert not server.seen


async def test_large_requests_and_replies_arrive_whole(server: Server, connect: Connect) -> None:
    server.faults.add(faults.huge(5_000_000), times=None)
    peer = connect()
    for _ in range(2):
        reply = await peer.request("POST", "/", content=bytes(5_000_000))
        assert len(reply.body) == 5_000_000
    assert [seen.body_bytes for seen in server.seen] == [5_000_000] * 2
    assert server.connections == 1


@pytest.mark.process
def test_httpcore_h11_and_anyio_are_imported_for_a_proxy_only() -> None:
    program = """
import asyncio, sys
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.sandbox.server import Trap
from auditrelay.clock import Clock
from auditrelay.settings import PeerSettings
from auditrelay.telemetry.metrics import Metrics

async def main(*proxy):
    async with Trap() as server:
        settings = PeerSettings.model_validate({"proxy": server.url} if proxy else {})
        common = {"credentials": KeyCredentials(dict), "metrics": Metrics(), "clock": Clock()}
        peer = Peer("x", settings, base_url=server.url, **common)
        await peer.request("GET", "/")
        await peer.aclose()

asyncio.run(main(*sys.argv[1:]))
print(*sorted({"httpcore", "h11", "anyio"} & sys.modules.keys()))
"""
    for arguments, imported in ((), ""), (("proxy",), "anyio h11 httpcore"):
        command = [sys.executable, "-c", program, *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert output.splitlines()[-1].strip() == imported
