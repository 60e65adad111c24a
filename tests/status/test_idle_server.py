"""The idle server: the replaced part of uvicorn is as it was, and no client keeps it busy."""

import asyncio
import contextlib
import hashlib
import inspect
import resource
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from tests.status.idle import Idle, client
from uvicorn.protocols.http.h11_impl import H11Protocol

from auditrelay.status import idle_server
from auditrelay.status.idle_server import MAX_CONNECTIONS

WRITTEN_AGAINST = "0.54.0"
"""The version of uvicorn whose loop ``status/idle_server.py`` replaces."""


@pytest.mark.parametrize(
    ("method", "digest"),
    [
        (uvicorn.Server.main_loop, "afccb353a119333f"),
        (uvicorn.Server.on_tick, "60ea49b06ccf68c1"),
        (H11Protocol.data_received, "e03b145518ca44aa"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_replaced_part_of_uvicorn_has_not_changed(
    method: Callable[..., Any], digest: str
) -> None:
    found = hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]
    assert found == digest, (
        f"uvicorn {uvicorn.__version__} has another {method.__qualname__} than {WRITTEN_AGAINST}: "
        "read it, check that status/idle_server.py still does all of it, and then update version "
        f"and digest ({found}) here"
    )


@contextlib.asynccontextmanager
async def held_open(address: httpx.URL, count: int, first: bytes) -> AsyncIterator[list[Any]]:
    """Open *count* connections that send *first* and nothing more; yield their readers."""
    opened = [await asyncio.open_connection(address.host, address.port) for _ in range(count)]
    try:
        for _, writer in opened:
            writer.write(first)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_clients_that_do_not_ask_are_closed_for_one_that_does(
    instance: Idle, first: bytes
) -> None:
    async with (
        client(instance) as asking,
        held_open(asking.base_url, 2 * MAX_CONNECTIONS, first) as others,
    ):
        assert (await asking.get("/healthz")).status_code == 200
        # The oldest are the ones that are closed, and as many as it takes.
        for reader in others[: MAX_CONNECTIONS + 1]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert not any(reader.at_eof() for reader in others[MAX_CONNECTIONS + 1 :])


async def test_a_connection_that_is_being_answered_is_not_closed_for_a_new_one(
    instance: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(accept: str) -> tuple[bytes, str]:
        begun.set()
        await go_on.wait()
        return b"all of it\n", "text/plain"

    monkeypatch.setattr(instance, "render_metrics", slowly)
    async with client(instance) as asking:
        answer = asyncio.ensure_future(asking.get("/metrics"))
        await begun.wait()
        async with held_open(asking.base_url, 2 * MAX_CONNECTIONS, b"GET / "):
            assert (await asking.get("/healthz")).status_code == 200
            go_on.set()
            assert (await answer).text == "all of it\n"


@pytest.mark.parametrize(
    "first",
    [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"],
    ids=["silent", "half a request", "half of a second request"],
)
async def test_a_request_that_takes_too_long_closes_its_connection(
    instance: Idle, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(idle_server, "REQUEST_SECONDS", 0.05)
    async with client(instance) as asking, held_open(asking.base_url, 1, first) as (reader,):
        with contextlib.suppress(ConnectionResetError):
            answered = await asyncio.wait_for(reader.read(), 5)
            assert answered.startswith(b"HTTP/1.1 200" if first.endswith(b"GET /") else b"")


async def test_a_loop_that_is_slow_takes_the_request_all_the_same(
    instance: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = idle_server._Protocol.connection_made

    def slowly(self: idle_server._Protocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        time.sleep(0.1)  # the loop is held up

    monkeypatch.setattr(idle_server._Protocol, "connection_made", slowly)
    monkeypatch.setattr(idle_server, "REQUEST_SECONDS", 0.05)
    async with client(instance) as asking:
        assert (await asking.get("/healthz")).status_code == 200


async def test_a_connection_is_used_for_many_requests(
    instance: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_server, "REQUEST_SECONDS", 0.3)
    async with client(instance) as asking:
        address = asking.base_url
        reader, writer = await asyncio.open_connection(address.host, address.port)
        for _ in range(3):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readuntil(b"}") != b""
            await asyncio.sleep(0.15)  # the time that a client has is what is tested
        writer.close()


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(48, 12), (3, 1), (1024, 64), (resource.RLIM_INFINITY, 64)],
)
def test_connections_take_a_share_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert idle_server.max_connections() == most
