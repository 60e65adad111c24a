"""The control socket: access, requests, and disconnects on either side."""

import asyncio
import logging
import os
import socket
import stat
from pathlib import Path

import pytest
from tests.service.serving import service, silent
from tests.support.daemon import eventually

from auditrelay.errors import ConfigError, RelayError, StateError
from auditrelay.service import control_socket
from auditrelay.service.control_socket import SOCKET, ControlSocket
from auditrelay.service.desk import (
    Answer,
    Failure,
    Forget,
    Forgotten,
    Note,
    OnProgress,
    Progress,
    Replay,
    Replayed,
    Request,
    Result,
    decode_answer,
    encode,
)
from auditrelay.status import idle_server

ASKED = Forget("a\nb ü", yes=True)


async def echo(request: Request, on_progress: OnProgress, by: int | None) -> Result:
    assert isinstance(request, Forget)
    await on_progress(Note("half of it"))
    return Forgotten(request.name)


async def ask(folder: Path, request: Request = ASKED) -> Result:
    return await ControlSocket(folder).ask(request, silent)


async def test_progress_comes_before_the_result(tmp_path: Path) -> None:
    steps: list[Progress] = []

    async def on_progress(progress: Progress) -> None:
        steps.append(progress)

    async with service(tmp_path, echo):
        answer = await ControlSocket(tmp_path).ask(ASKED, on_progress)
    assert answer == Forgotten("a\nb ü")
    assert steps == [Note("half of it")]


async def test_progress_is_reported_when_it_is_made_and_not_at_the_end(tmp_path: Path) -> None:
    reported = asyncio.Event()

    async def on_progress(_: Progress) -> None:
        reported.set()

    async def wait(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        await on_progress(Note("half of it"))
        await reported.wait()
        return Forgotten("it")

    async with service(tmp_path, wait):
        assert await ControlSocket(tmp_path).ask(ASKED, on_progress) == Forgotten("it")


async def test_only_the_owner_can_ask_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with service(tmp_path, echo):
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


async def test_a_stale_socket_of_a_killed_service_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET))
    with pytest.raises(
        StateError, match=r"does not listen on its socket [^ ]+: Connection refused;"
    ):
        await ask(tmp_path)
    (tmp_path / SOCKET).rename(tmp_path / "elsewhere")
    (tmp_path / SOCKET).write_text("or a file")
    serving = asyncio.ensure_future(ControlSocket(tmp_path).serve(echo))
    async with asyncio.timeout(10):
        await eventually((tmp_path / SOCKET).is_socket)
        assert await ask(tmp_path) == Forgotten("a\nb ü")
        serving.cancel()
        await asyncio.wait([serving])


async def test_without_a_listener_the_error_names_the_likely_reason(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"control: .*No such file.*try again when it has ended"):
        await ask(tmp_path)


async def test_the_path_of_the_state_may_be_longer_than_a_socket_can_have(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30).strip()
    folder.mkdir()
    assert len(os.fsencode(folder / SOCKET)) > 107
    async with service(folder, echo):
        assert await ask(folder) == Forgotten("a\nb ü")
    assert not (folder / SOCKET).exists()


async def test_a_proxy_in_the_environment_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with service(tmp_path, echo):
        assert await ask(tmp_path) == Forgotten("a\nb ü")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\xff\xfe\n",
        b'{"do": ',
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhal",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nno ho",
    ],
)
async def test_what_is_no_request_does_nothing_and_the_service_goes_on(
    tmp_path: Path, garbage: bytes
) -> None:
    async with service(tmp_path, echo) as serving:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(garbage)
        writer.write_eof()
        answer = await reader.read()
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        writer.close()
        assert await ask(tmp_path) == Forgotten("a\nb ü")
        assert not serving.done()


DEEP = b'{"do": "forget", "name": "x", "yes": true, "more": ' + b"[" * 100_000
TIME = b'"2026-01-01T00:00:00Z"'
BACKFILL = (
    b'{"do":"backfill","source":%b,"start":%b,"end":%b,"sinks":%b,"dry_run":%b,'
    b'"newest_first":true,"concurrency":%b}'
)
MALFORMED = {
    "nothing": b"",
    "no JSON": b"forget x",
    "cut off": b'{"do": "forget", "na',
    "no object": b"[]",
    "deep": DEEP,
    "bytes that are no text": b'{"do": "forget", "name": "\xff", "yes": true}',
    "half a character": rb'{"do": "forget", "name": "\ud800", "yes": true}',
    "another verb": b'{"do": "explode"}',
    "a key is missing": b'{"do": "forget"}',
    "a list for a name": b'{"do": "forget", "name": [], "yes": true}',
    "a number for a list": b'{"do": "replay", "ids": 5}',
    "a number that no database has": b'{"do": "drop", "ids": [%d]}' % 10**30,
    "a number below all": b'{"do": "drop", "ids": [-1]}',
    "a text for a time": BACKFILL % (b'"x"', b'"x"', b"null", b"[]", b"true", b"1"),
    "a number for a time": BACKFILL % (b'"x"', b"5", b"null", b"[]", b"true", b"1"),
    "a time without offset": BACKFILL
    % (b'"x"', b'"2026-01-01T00:00:00"', b"null", b"[]", b"true", b"1"),
    "a time that does not exist": BACKFILL
    % (b'"x"', TIME, b'"2026-02-30T00:00:00Z"', b"[]", b"true", b"1"),
    "a list for a source": BACKFILL % (b"[]", TIME, b"null", b"[]", b"true", b"1"),
    "a text for a list": BACKFILL % (b'"x"', TIME, b"null", b'"x"', b"true", b"1"),
    "a number for a choice": BACKFILL % (b'"x"', TIME, b"null", b"[]", b"1", b"1"),
    "no concurrency": BACKFILL % (b'"x"', TIME, b"null", b"[]", b"true", b"0"),
}


async def posted(folder: Path, body: bytes, length: int | None = None) -> Answer:
    """Return the one answer to a request of *body*, which may say another *length*."""
    reader, writer = await asyncio.open_unix_connection(folder / SOCKET)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % (len(body) if length is None else length) + body)
    reply = await reader.read()
    writer.close()
    assert reply.startswith(b"HTTP/1.1 200"), reply[:200]
    (line,) = [line for line in reply.splitlines() if line.startswith(b"{")]
    return decode_answer(line)


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_is_answered_with_status_2_and_the_service_goes_on(
    tmp_path: Path, body: bytes
) -> None:
    async with service(tmp_path, echo) as serving:
        failure = await posted(tmp_path, body)
        assert isinstance(failure, Failure)
        assert failure.status == 2
        assert "does not support this request: " in failure.message
        assert len(failure.message) < 1000
        assert await ask(tmp_path) == Forgotten("a\nb ü")
        assert not serving.done()


async def test_a_request_that_does_not_come_to_its_end_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_SECONDS", 0.05)
    async with service(tmp_path, echo) as serving:
        failure = await posted(tmp_path, b'{"do": ', length=100)
        assert failure == Failure("the request has not come within 0 seconds", 2)
        assert not serving.done()


async def test_a_client_that_never_asks_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_server, "REQUEST_SECONDS", 0.05)
    async with service(tmp_path, echo):
        for begun in (b"", b"POST / HTTP/1.1\r\nHo"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_a_request_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MAX_REQUEST", 1_000)
    async with service(tmp_path, echo) as serving:
        with pytest.raises(ConfigError, match=r"^the request is longer than 1,000 bytes$"):
            await ask(tmp_path, Forget("x" * 1_000, yes=True))
        assert not serving.done()


async def test_an_answer_may_be_long_and_one_that_is_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tuple(range(300_000))

    async def many(_: Request, __: OnProgress, by: int | None) -> Result:
        return Replayed(ids)

    async with service(tmp_path, many):
        assert await ask(tmp_path, Replay((1,))) == Replayed(ids)
        monkeypatch.setattr(control_socket, "MAX_LINE", 1_000)
        with pytest.raises(RelayError, match="is longer than 1,000 bytes"):
            await ask(tmp_path, Replay((1,)))


@pytest.mark.parametrize("busy", [True, False])
async def test_the_work_is_cancelled_when_the_command_disconnects(
    tmp_path: Path, busy: bool
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: Request, on_progress: OnProgress, by: int | None) -> Result:
        try:
            began.set()
            while busy:
                await on_progress(Note("x"))
                await asyncio.sleep(0)
            await asyncio.Event().wait()
            raise AssertionError
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with service(tmp_path, work) as serving:
        asking = asyncio.ensure_future(ask(tmp_path))
        await began.wait()
        asking.cancel()
        await cancelled.wait()
        assert not serving.done()


async def test_two_commands_are_answered_concurrently_each_with_its_own_result(
    tmp_path: Path,
) -> None:
    both = asyncio.Barrier(2)

    async def meet(request: Request, _: OnProgress, by: int | None) -> Result:
        assert isinstance(request, Replay)
        await both.wait()
        return Replayed(request.ids)

    async with service(tmp_path, meet):
        answers = await asyncio.gather(*(ask(tmp_path, Replay((n,))) for n in (1, 2)))
    assert answers == [Replayed((1,)), Replayed((2,))]


async def test_a_service_that_stops_sends_an_error_to_waiting_commands_and_does_not_wait(
    tmp_path: Path,
) -> None:
    began = asyncio.Event()

    async def work(_: Request, __: OnProgress, by: int | None) -> Result:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with service(tmp_path, work) as serving:
        asking = asyncio.ensure_future(ask(tmp_path))
        await began.wait()
        serving.cancel()
        async with asyncio.timeout(0.9):
            await asyncio.wait([serving])
        with pytest.raises(RelayError, match="the service is stopping; what was done is kept"):
            await asking
        assert not (tmp_path / SOCKET).exists()


async def test_a_command_that_comes_while_the_service_stops_gets_that_error_too(
    tmp_path: Path,
) -> None:
    body = encode(ASKED)
    async with service(tmp_path, echo) as serving:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        await ask(tmp_path)  # so that the other request is being read
        serving.cancel()
        await asyncio.sleep(0)
        writer.write(body)
        assert b"the service is stopping" in await reader.read()
        writer.close()
        await asyncio.wait([serving])
        assert serving.cancelled()


async def test_cleanup_that_takes_long_is_not_cut_off_by_the_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began, cancelled, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cancels = 0

    async def work(_: Request, __: OnProgress, by: int | None) -> Result:
        nonlocal cancels
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            while not cleaned.is_set():
                try:
                    await cleaned.wait()
                except asyncio.CancelledError:
                    cancels += 1
        raise AssertionError

    async with service(tmp_path, work) as serving:
        asking = [asyncio.ensure_future(ask(tmp_path)) for _ in range(2)]
        await began.wait()
        serving.cancel()
        await cancelled.wait()
        asking[1].cancel()
        try:
            with pytest.raises(RelayError, match="is stopping"):  # so the server has not stopped
                await ask(tmp_path)
        finally:
            cleaned.set()
        with pytest.raises(RelayError, match="the service is stopping; what was done is kept"):
            await asking[0]
        await asyncio.wait([serving])
    assert not cancels
    assert not errors(caplog)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("ends", [False, True])
async def test_a_command_that_does_not_read_its_answers_does_not_keep_the_service_from_stopping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ends: bool
) -> None:
    stuck = asyncio.Event()

    async def talk(_: Request, on_progress: OnProgress, by: int | None) -> Result:
        while True:
            writing = asyncio.ensure_future(on_progress(Note("x" * 1_000_000)))
            if not (await asyncio.wait([writing], timeout=0.1))[0]:
                stuck.set()
                if ends:
                    return Forgotten("it")
            await writing

    body = encode(ASKED)
    async with service(tmp_path, talk) as serving:
        _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET, limit=1)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await stuck.wait()
        serving.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([serving])
        assert serving.cancelled()
        writer.close()
    assert not errors(caplog)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NOTE = b'{"type":"Note","text":"x"}\n'


@pytest.mark.parametrize(
    "reply",
    [
        HEAD,
        HEAD + b"%x\r\n%b\r\n" % (len(NOTE), NOTE),
        HEAD + b'10\r\n{"type":"Verifi\r\n',
        HEAD + b'40\r\n{"type":"Verified","rep',
        HEAD + b'10\r\n{"type":"Verifi\r\n0\r\n\r\n',
    ],
)
async def test_a_service_that_is_killed_in_the_middle_of_a_line_is_no_traceback(
    tmp_path: Path, reply: bytes
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(die, tmp_path / SOCKET)
    with pytest.raises(
        RelayError, match="ended before the command was done; what was done is kept"
    ):
        await ask(tmp_path)
    server.close()


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 2", b'{"error": "no JSON"}\n'])
@pytest.mark.parametrize("unread", [True, False])
async def test_a_service_of_a_version_without_http_is_named_as_such(
    tmp_path: Path, reply: bytes, unread: bool
) -> None:
    """It took the first line for the request; what it did not read breaks the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (reader.readline() if unread else reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / SOCKET)
    with pytest.raises(StateError, match="has just ended, or it and the command are of different"):
        await ask(tmp_path)
    server.close()


async def test_a_command_of_a_version_without_http_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with service(tmp_path, echo) as serving:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(b'{"do": "forget", "name": "x"}\n')
        assert await reader.read() == b""
        writer.close()
        assert await ask(tmp_path) == Forgotten("a\nb ü")
        assert not serving.done()


@pytest.mark.parametrize(
    "error", [ConfigError("no such source"), StateError("locked"), RelayError("401: no")]
)
async def test_an_error_of_the_service_is_raised_in_the_command(
    tmp_path: Path, error: RelayError
) -> None:
    async def fail(_: Request, __: OnProgress, by: int | None) -> Result:
        raise error

    async with service(tmp_path, fail) as serving:
        with pytest.raises(type(error), match=str(error)) as caught:
            await ask(tmp_path)
        assert type(caught.value) is type(error)
        assert not serving.done()


@pytest.mark.parametrize("bug", [KeyError("x"), ValueError("x"), OSError("x"), TypeError("x")])
async def test_a_bug_ends_the_service_loudly(tmp_path: Path, bug: Exception) -> None:
    async def fail(_: Request, __: OnProgress, by: int | None) -> Result:
        raise bug

    async with service(tmp_path, fail) as serving:
        with pytest.raises(RelayError, match="ended before the command was done"):
            await ask(tmp_path)
        await asyncio.wait([serving])
        group = serving.exception()
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (bug,)
