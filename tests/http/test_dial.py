"""Which address of a host is connected to, and what becomes of the other attempts."""

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.support.peers import Connect, Server

from auditrelay.http.dial import dial

Address = tuple[str, int]


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that does not answer: a listener whose queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)  # noqa: FBT003  # the library's own form
            client.connect_ex(full.getsockname())
        yield full.getsockname()


@pytest.fixture
def refusing() -> Iterator[Address]:
    """An address where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@pytest.fixture
def listening() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()


async def dialled(*addresses: Address, monkeypatch: pytest.MonkeyPatch) -> Address:
    """Dial a host that has *addresses*, and return the one that was connected to."""

    async def getaddrinfo(*_arguments: Any, **_more: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with await dial("vendor.example", 443) as connected:
        name: Address = connected.getpeername()
        return name


async def test_an_address_that_does_not_answer_costs_little(
    silent: Address, listening: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(5):
        assert await dialled(silent, listening, monkeypatch=monkeypatch) == listening


async def test_an_address_that_refuses_costs_nothing(
    refusing: Address, listening: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditrelay.http.dial.ATTEMPT_DELAY", 60)
    async with asyncio.timeout(5):
        assert await dialled(refusing, listening, monkeypatch=monkeypatch) == listening


async def test_a_later_address_is_not_waited_for_once_one_has_answered(
    silent: Address, listening: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(5):
        assert await dialled(listening, silent, monkeypatch=monkeypatch) == listening


async def test_a_refusal_is_only_raised_when_no_address_is_left(
    refusing: Address, silent: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionRefusedError):
        await dialled(refusing, refusing, monkeypatch=monkeypatch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await dialled(silent, refusing, monkeypatch=monkeypatch)


async def test_a_dial_can_be_cancelled_at_any_moment_and_leaves_no_socket(
    listening: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that is left is an error of the tests' interpreter."""
    for turns in range(20):
        task = asyncio.create_task(dialled(listening, listening, monkeypatch=monkeypatch))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
    gc.collect()


async def test_a_request_can_be_cancelled_at_any_moment_and_leaves_no_connection(
    server: Server, direct: Connect
) -> None:
    peer = direct()
    for turns in range(40):
        task = asyncio.create_task(peer.request("GET", "/"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await peer.aclose()
    async with asyncio.timeout(5):
        await asyncio.gather(*server._open)
    gc.collect()
