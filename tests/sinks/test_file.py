# ruff: noqa: ASYNC240  # a test may look at a small file from the loop
"""The file sink: lines are complete, on the disk, and never mixed."""

import asyncio
import errno
import fcntl
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, Retryable
from auditrelay.events import AuditEvent
from auditrelay.sinks import Item, Sink, Verdict, file
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
MakeSink = Callable[..., Sink]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.ndjson"


@pytest.fixture
async def make(path: Path, clock: FakeClock) -> AsyncIterator[MakeSink]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        settings = file.Settings.model_validate({"type": "file", "path": str(path), **keys})
        made.append(file.build("archive", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


def lines(*texts: bytes) -> list[Item]:
    return [Item(place, "u", "acme-voice", 0, text) for place, text in enumerate(texts)]


async def test_a_batch_is_one_line_an_event_on_a_file_that_only_its_owner_reads(
    make: MakeSink, path: Path, event: MakeEvent, batch: Callable[..., list[Item]]
) -> None:
    sink = make()
    events = [event(1, message="fünf ☃ \u2028"), event(2)]
    assert await sink.send(batch(sink, events)) == Verdict()
    written = path.read_bytes()
    assert written.endswith(b"\n")
    assert [json.loads(line)["message"] for line in written.split(b"\n")[:-1]] == [
        each.message for each in events
    ]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_next_batch_is_appended_also_after_a_restart(make: MakeSink, path: Path) -> None:
    sink = make()
    await sink.send(lines(b"1", b"2"))
    await sink.send(lines(b"3"))
    await make().send(lines(b"4"))
    assert path.read_bytes() == b"1\n2\n3\n4\n"


async def test_a_batch_counts_only_once_it_is_on_the_disk(
    make: MakeSink, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    synced: list[bytes] = []
    fsync = os.fsync

    def seen(number: int) -> None:
        synced.append(path.read_bytes())
        fsync(number)

    monkeypatch.setattr(os, "fsync", seen)
    await make().send(lines(b"1", b"2"))
    assert synced[-1] == b"1\n2\n"


async def test_a_torn_line_left_by_a_crash_is_ended_before_the_next_one(
    make: MakeSink, path: Path
) -> None:
    path.write_bytes(b'{"a":1}\n{"b":')
    await make().send(lines(b'{"c":3}'))
    assert path.read_bytes() == b'{"a":1}\n{"b":\n{"c":3}\n'


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_waited_for_and_leaves_no_half_batch(
    make: MakeSink, path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sink = make()
    await sink.send(lines(b"1"))
    write = os.write
    calls = 0

    def short(number: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(number, data[:3])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(Retryable) as caught:
            await sink.send(lines(b"22", b"33"))
    assert caught.value.reason == "disk_full"
    assert path.read_bytes() == b"1\n"
    await sink.send(lines(b"22", b"33"))
    assert path.read_bytes() == b"1\n22\n33\n"


async def test_a_failing_fsync_is_not_a_delivery(
    make: MakeSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make()
    await sink.send(lines(b"1"))

    def broken(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(Retryable) as caught:
            await sink.send(lines(b"2"))
    assert caught.value.reason == "io_error"
    assert path.read_bytes() == b"1\n"


async def test_a_cancelled_batch_is_written_to_its_end_before_the_next(
    make: MakeSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make()
    await sink.send(lines(b"0"))
    write = os.write
    writing, go_on = threading.Event(), threading.Event()

    def slow(number: int, data: memoryview) -> int:
        written = write(number, data[:1])
        writing.set()
        assert go_on.wait(10)
        return written

    monkeypatch.setattr(os, "write", slow)
    first = asyncio.create_task(sink.send(lines(b"1", b"2")))
    await asyncio.to_thread(writing.wait, 10)
    first.cancel()
    monkeypatch.setattr(os, "write", write)
    second = asyncio.create_task(sink.send(lines(b"3")))
    done, _ = await asyncio.wait({second}, timeout=0.1)
    assert not done
    go_on.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert path.read_bytes() == b"0\n1\n2\n3\n"


async def test_rotation_loses_no_line_and_overwrites_no_file(make: MakeSink, path: Path) -> None:
    older = path.with_name(f"{path.name}.7")
    older.write_bytes(b"old\n")
    path.with_name(f"{path.name}.gz").write_bytes(b"not a number\n")
    sink = make(rotate_bytes=6)
    for number in range(7):
        await sink.send(lines(b"%d" % number, b"x"))
    assert older.read_bytes() == b"old\n"
    pieces = [path.with_name(f"{path.name}.{number}") for number in range(8, 14)]
    assert b"".join(piece.read_bytes() for piece in [*pieces, path]) == b"".join(
        b"%d\nx\n" % number for number in range(7)
    )
    assert all(piece.stat().st_size <= 6 for piece in pieces)


async def test_a_batch_larger_than_rotate_bytes_is_still_written(
    make: MakeSink, path: Path
) -> None:
    sink = make(rotate_bytes=4)
    await sink.send(lines(b"too long for it"))
    await sink.send(lines(b"1"))
    assert path.with_name(f"{path.name}.1").read_bytes() == b"too long for it\n"
    assert path.read_bytes() == b"1\n"


async def test_a_file_that_was_renamed_or_removed_is_created_again(
    make: MakeSink, path: Path
) -> None:
    sink = make()
    await sink.send(lines(b"1"))
    moved = path.rename(path.with_name("moved"))
    await sink.send(lines(b"2"))
    assert (moved.read_bytes(), path.read_bytes()) == (b"1\n", b"2\n")
    path.unlink()
    await sink.send(lines(b"3"))
    assert path.read_bytes() == b"3\n"


async def test_another_writer_of_the_same_file_is_waited_for(make: MakeSink, path: Path) -> None:
    with path.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Retryable, match="another process") as caught:
            await make().send(lines(b"1"))
    assert caught.value.reason == "busy"
    await make().send(lines(b"1"))
    assert path.read_bytes() == b"1\n"


async def test_two_sinks_on_one_path_mix_no_lines_while_they_rotate(
    make: MakeSink, path: Path
) -> None:
    sinks = [make(rotate_bytes=200), make(rotate_bytes=200)]
    waited: list[str] = []

    async def write(sink: Sink, letter: bytes) -> None:
        for number in range(40):
            while True:
                try:
                    await sink.send(lines(b"%b%d" % (letter, number), letter * 20))
                    break
                except Retryable as error:
                    waited.append(error.reason)

    await asyncio.gather(write(sinks[0], b"a"), write(sinks[1], b"b"))
    assert set(waited) <= {"busy"}
    written = b"".join(each.read_bytes() for each in path.parent.iterdir()).splitlines()
    assert sorted(written) == sorted(
        line
        for letter in (b"a", b"b")
        for number in range(40)
        for line in (b"%b%d" % (letter, number), letter * 20)
    )


async def test_a_missing_folder_or_a_folder_instead_of_the_file_holds_the_sink(
    make: MakeSink, tmp_path: Path
) -> None:
    for wrong in (tmp_path / "none" / "x", tmp_path):
        sink = make(path=str(wrong))
        with pytest.raises(Refused, match="check the path"):
            await sink.send(lines(b"1"))
    with pytest.raises(Refused, match="does not exist; create it"):
        await make(path=str(tmp_path / "none" / "x")).check()


async def test_a_pipe_instead_of_the_file_holds_the_sink(make: MakeSink, path: Path) -> None:
    os.mkfifo(path)
    sink = make()
    for work in (sink.send(lines(b"1")), sink.check()):
        with pytest.raises(Refused, match="not a regular file"):
            await work


async def test_check_creates_nothing(make: MakeSink, path: Path) -> None:
    sink = make()
    assert await sink.check() == f"{path} will be created"
    assert not path.exists()
    await sink.send(lines(b"1"))
    assert await sink.check() == f"{path} can be written"
    assert path.read_bytes() == b"1\n"


async def test_stdout_gets_every_line_through_a_small_pipe(
    make: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, into = os.pipe()
    monkeypatch.setattr(file, "STDOUT", into)
    batch = lines(*(b"%d" % number * 100 for number in range(2000)))
    sink = make(path="-")
    sending = asyncio.create_task(sink.send(batch))
    expected = b"".join(item.text + b"\n" for item in batch)
    got = b""
    while len(got) < len(expected):
        got += await asyncio.to_thread(os.read, out, 65536)
    assert await sending == Verdict()
    assert got == expected
    os.close(into)
    os.close(out)


async def test_a_reader_of_stdout_that_stops_reading_does_not_block_the_process(
    make: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, into = os.pipe()
    monkeypatch.setattr(file, "STDOUT", into)
    sink = make(path="-", timeout="50ms")
    with pytest.raises(Retryable) as caught:
        await sink.send(lines(b"x" * 200_000))
    assert (caught.value.reason, caught.value.sent) == ("timeout", True)
    kept = os.read(out, 200_000)
    await sink.send(lines(b"1"))
    assert os.read(out, 100) == b"\n1\n"  # the torn line is ended first
    assert kept == b"x" * len(kept)
    os.close(out)
    with pytest.raises(Refused, match="stdout: Broken pipe; what reads it has ended"):
        await sink.send(lines(b"2"))
    os.close(into)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": ""}, "at least 1 character"),
        ({"path": "logs/"}, "not the name of a file"),
        ({"path": "-", "rotate_bytes": "1MB"}, "rotate_bytes: stdout cannot be rotated"),
        ({"path": "x", "compression": "gzip"}, "none"),
        ({"path": "x", "concurrency": 2}, "less than or equal to 1"),
        ({"path": "x", "parts": 2}, "parts: must be 1: lines of two writers would mix"),
        ({"path": "x", "format": "xml"}, "'ecs'"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        file.Settings.model_validate({"type": "file", **keys})


# --- a file that is not ours alone


def victim(path: Path) -> Path:
    other = path.with_name("victim")
    other.write_bytes(b"precious\n")
    return other


def as_link(path: Path) -> None:
    path.symlink_to(victim(path))


def as_broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def as_hard_link(path: Path) -> None:
    path.hardlink_to(victim(path))


def as_file_that_others_write(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (as_link, "is a link, which is not followed"),
        (as_broken_link, "is a link, which is not followed"),
        (as_hard_link, "has other names"),
        (as_file_that_others_write, "chmod o-w"),
    ],
)
async def test_a_file_that_is_not_ours_alone_is_refused_and_left_as_it_is(
    make: MakeSink, path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(path)
    sink = make()
    for attempt in (sink.check(), sink.send(lines(b"1")), sink.send(lines(b"2"))):
        with pytest.raises(Refused, match=words):
            await attempt
    assert not path.exists() or path.read_bytes() in (b"", b"precious\n")
    assert not path.with_name("nothing").exists()


async def test_a_file_of_another_user_is_refused_and_left_as_it_is(
    make: MakeSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    sink = make()
    for attempt in (sink.check(), sink.send(lines(b"1"))):
        with pytest.raises(Refused, match=f"belongs to the user {owner}, not to {owner + 1}"):
            await attempt
    assert path.read_bytes() == b""


async def test_a_file_that_becomes_a_link_is_not_written_any_more(
    make: MakeSink, path: Path
) -> None:
    sink = make()
    await sink.send(lines(b"1"))
    path.rename(path.with_name("moved"))
    as_link(path)
    with pytest.raises(Refused, match="is a link"):
        await sink.send(lines(b"2"))
    assert victim_content(path) == b"precious\n"
    assert path.with_name("moved").read_bytes() == b"1\n"


def victim_content(path: Path) -> bytes:
    return path.with_name("victim").read_bytes()
