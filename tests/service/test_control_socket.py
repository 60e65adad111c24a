"""The control socket: access, requests, and disconnects on either side."""

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.service.serving import service, silent
from tests.support.daemon import eventually

from auditrelay.collect.on_progress import OnProgress
from auditrelay.errors import ConfigError, RelayError, StateError
from auditrelay.service.control_socket import SOCKET, ask, serve


async def echo(request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    await on_progress({"share": 0.5})
    return {"echo": request["say"]}


async def test_progress_comes_before_the_result(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []

    async def on_progress(progress: dict[str, Any]) -> None:
        steps.append(progress)

    async with service(tmp_path, echo):
        assert await ask(tmp_path, {"say": "a\nb ü"}, on_progress) == {"echo": "a\nb ü"}
    assert steps == [{"share": 0.5}]


async def test_only_the_owner_can_ask_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with service(tmp_path, echo):
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


async def test_a_stale_socket_of_a_killed_service_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET))
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


async def test_without_a_listener_the_error_names_the_likely_reason(tmp_path: Path) -> None:
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
async def test_garbage_gets_no_answer_and_the_service_goes_on(
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


async def test_the_work_is_cancelled_when_the_command_disconnects(tmp_path: Path) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        try:
            began.set()
            while True:
                await on_progress({"share": 0.1})
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with service(tmp_path, work) as serving:
        asking = asyncio.ensure_future(ask(tmp_path, {}, silent))
        await began.wait()
        asking.cancel()
        await cancelled.wait()
        assert not serving.done()


async def test_two_commands_are_answered_concurrently_each_with_its_own_result(
    tmp_path: Path,
) -> None:
    both = asyncio.Barrier(2)

    async def meet(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        await both.wait()
        return {"echo": request["say"]}

    async with service(tmp_path, meet):
        answers = await asyncio.gather(*(ask(tmp_path, {"say": n}, silent) for n in (1, 2)))
    assert answers == [{"echo": 1}, {"echo": 2}]


async def test_a_service_that_stops_sends_an_error_to_waiting_commands_and_does_not_wait(
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


@pytest.mark.parametrize("half_a_line", [b"", b'{"result": {"missing": [', b'{"progress"'])
async def test_a_service_that_is_killed_in_the_middle_of_a_line_is_no_traceback(
    tmp_path: Path, half_a_line: bytes
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"progress": {}}\n' + half_a_line)
        writer.close()

    server = await asyncio.start_unix_server(die, tmp_path / SOCKET)
    with pytest.raises(
        RelayError, match="ended before the command was done; what was done is kept"
    ):
        await ask(tmp_path, {}, silent)
    server.close()


@pytest.mark.parametrize(
    "error", [ConfigError("no such source"), StateError("locked"), RelayError("401: no")]
)
async def test_an_error_of_the_service_is_raised_in_the_command(
    tmp_path: Path, error: RelayError
) -> None:
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
        with pytest.raises(RelayError, match="ended before the command was done"):
            await ask(tmp_path, {}, silent)
        await asyncio.wait([serving])
        group = serving.exception()
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (bug,)
