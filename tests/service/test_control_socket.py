"""The socket beside the service: who may ask, what is asked, and who goes away when."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import eventually

from auditrelay.collect.progress import OnProgress
from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import ConfigError, RelayError, StateError
from auditrelay.service.commands import Commands
from auditrelay.service.control_socket import SOCKET, ask, serve
from auditrelay.service.topology import Topology
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.telemetry.metrics import Metrics

Handle = Callable[[dict[str, Any], OnProgress], Awaitable[dict[str, Any]]]


async def silent(_: dict[str, Any]) -> None: ...


@contextlib.asynccontextmanager
async def service(folder: Path, handle: Handle) -> AsyncIterator[asyncio.Task[None]]:
    """Serve from *folder*; whoever still serves at the end is told to stop."""
    serving = asyncio.ensure_future(serve(folder, handle))
    async with asyncio.timeout(10):
        await eventually(lambda: (folder / SOCKET).is_socket() or serving.done())
        yield serving
        serving.cancel()
        await asyncio.wait([serving])


async def echo(request: dict[str, Any], tell: OnProgress) -> dict[str, Any]:
    await tell({"share": 0.5})
    return {"echo": request["say"]}


async def test_progress_comes_before_the_result(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def tell(progress: dict[str, Any]) -> None:
        told.append(progress)

    async with service(tmp_path, echo):
        assert await ask(tmp_path, {"say": "a\nb ü"}, tell) == {"echo": "a\nb ü"}
    assert told == [{"share": 0.5}]


async def test_only_the_owner_can_ask_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with service(tmp_path, echo):
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


async def test_a_socket_that_a_kill_left_over_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    with pytest.raises(StateError, match="does not listen"):
        await ask(tmp_path, {"say": 1}, silent)
    (tmp_path / SOCKET).rename(tmp_path / "elsewhere")
    (tmp_path / SOCKET).write_text("or a file")
    serving = asyncio.ensure_future(serve(tmp_path, echo))
    async with asyncio.timeout(10):
        await eventually((tmp_path / SOCKET).is_socket)
        assert await ask(tmp_path, {"say": 1}, silent) == {"echo": 1}
        serving.cancel()
        await asyncio.wait([serving])


async def test_where_nobody_listens_it_says_so_and_what_may_be_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"control: No such file.*try again when it has ended"):
        await ask(tmp_path, {"say": 1}, silent)


async def test_the_path_of_the_state_may_be_longer_than_a_socket_can_have(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30).strip()
    folder.mkdir()
    assert len(os.fsencode(folder / SOCKET)) > 107
    async with service(folder, echo):
        assert await ask(folder, {"say": 1}, silent) == {"echo": 1}
    assert not (folder / SOCKET).exists()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b'{"say": ',
        b"5\n",
        b"[1]\n",
        b"null\n",
        b"[" * 200_000 + b"\n",
    ],
)
async def test_garbage_is_answered_with_nothing_and_harms_nobody(
    tmp_path: Path, garbage: bytes
) -> None:
    async with service(tmp_path, echo) as serving:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(garbage)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert await ask(tmp_path, {"say": 1}, silent) == {"echo": 1}
        assert not serving.done()


async def test_what_is_asked_is_broken_off_when_the_command_goes_away(tmp_path: Path) -> None:
    began, broken_off = asyncio.Event(), asyncio.Event()

    async def work(_: dict[str, Any], tell: OnProgress) -> dict[str, Any]:
        try:
            began.set()
            while True:
                await tell({"share": 0.1})
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            broken_off.set()
            raise

    async with service(tmp_path, work) as serving:
        asking = asyncio.ensure_future(ask(tmp_path, {}, silent))
        await began.wait()
        asking.cancel()
        await broken_off.wait()
        assert not serving.done()


async def test_two_commands_are_answered_side_by_side_each_with_its_own(tmp_path: Path) -> None:
    both = asyncio.Barrier(2)

    async def meet(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        await both.wait()
        return {"echo": request["say"]}

    async with service(tmp_path, meet):
        answers = await asyncio.gather(*(ask(tmp_path, {"say": n}, silent) for n in (1, 2)))
    assert answers == [{"echo": 1}, {"echo": 2}]


async def test_a_service_that_stops_tells_whoever_waits_and_does_not_wait_for_him(
    tmp_path: Path,
) -> None:
    began = asyncio.Event()

    async def work(_: dict[str, Any], __: OnProgress) -> dict[str, Any]:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with service(tmp_path, work) as serving:
        asking = asyncio.ensure_future(ask(tmp_path, {}, silent))
        await began.wait()
        serving.cancel()
        await asyncio.wait([serving])
        with pytest.raises(RelayError, match="the service is stopping; what was done is kept"):
            await asking
        assert not (tmp_path / SOCKET).exists()


@pytest.mark.parametrize("half_a_line", [b"", b'{"result": {"missing": [', b'{"told"'])
async def test_a_service_that_is_killed_in_the_middle_of_a_word_is_no_traceback(
    tmp_path: Path, half_a_line: bytes
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"told": {}}\n' + half_a_line)
        writer.close()

    server = await asyncio.start_unix_server(die, tmp_path / SOCKET)
    with pytest.raises(RelayError, match="ended before it was done; what was done is kept"):
        await ask(tmp_path, {}, silent)
    server.close()


@pytest.mark.parametrize(
    "error", [ConfigError("no such source"), StateError("locked"), RelayError("401: no")]
)
async def test_what_went_wrong_there_is_the_same_here(tmp_path: Path, error: RelayError) -> None:
    async def fail(_: dict[str, Any], __: OnProgress) -> dict[str, Any]:
        raise error

    async with service(tmp_path, fail) as serving:
        with pytest.raises(type(error), match=str(error)) as caught:
            await ask(tmp_path, {}, silent)
        assert type(caught.value) is type(error)
        assert not serving.done()


@pytest.mark.parametrize("bug", [KeyError("x"), ValueError("x"), OSError("x"), TypeError("x")])
async def test_a_bug_ends_the_service_loudly(tmp_path: Path, bug: Exception) -> None:
    async def fail(_: dict[str, Any], __: OnProgress) -> dict[str, Any]:
        raise bug

    async with service(tmp_path, fail) as serving:
        with pytest.raises(RelayError, match="ended before it was done"):
            await ask(tmp_path, {}, silent)
        await asyncio.wait([serving])
        group = serving.exception()
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (bug,)


# --- what an instance makes of it


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"do": "teleport"}, "knows no teleport: it was started by another version; restart it"),
        ({}, "knows no None"),
        ({"do": ["backfill"]}, "knows no "),
        ({"do": "backfill", "source": "it"}, "has to be told start, end, sinks, dry_run, "),
        ({"do": "verify", "source": "it", "start": "x", "end": None}, "told repair, at_sink for"),
        ({"do": "replay"}, "has to be told ids for a replay"),
        ({"do": "forget", "name": "it"}, "has to be told yes for a forget"),
    ],
)
async def test_a_command_of_another_version_is_told_so(
    tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    def clock() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    store = await SqliteStore.open(
        tmp_path,
        max_bytes=1 << 30,
        retention=config.spool.retention,
        remember=config.spool.remember,
    )
    topology = Topology(config, store, Metrics(sources=[], sinks=[]), clock=clock)
    try:
        async with service(tmp_path, Commands(topology, store, clock=clock).do) as serving:
            with pytest.raises(ConfigError) as caught:
                await ask(tmp_path, json.loads(json.dumps(asked)), silent)
            assert words in str(caught.value)
            assert not serving.done()
    finally:
        await store.close()
