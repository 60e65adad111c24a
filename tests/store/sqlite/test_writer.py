"""The writer thread: a full disk, and the report of a commit."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from auditrelay.errors import StateError, StoreFull
from auditrelay.store.sqlite import writer as writing
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.writer import Writer

PAGES, RESERVED = 20, 10
PAGE = bytes(4000)


def connect(path: Path) -> Connection:
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, factory=Connection)


def put(db: Connection, pages: int) -> None:
    db.executemany("insert into data values (?)", [(PAGE,)] * pages)


class Disk:
    """A database that may not grow beyond PAGES until its reserve is released."""

    def __init__(self, path: Path) -> None:
        self.db = connect(path)
        self.db.executescript(f"create table data (x); pragma max_page_count = {PAGES}")
        self.released = 0
        self.writer = Writer(self.db, self.release)

    def release(self) -> None:
        self.released += 1
        self.db.execute(f"pragma max_page_count = {PAGES + RESERVED}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "state.db")
    yield disk
    disk.writer.close()


async def test_a_small_work_is_tried_again_with_the_reserve(disk: Disk) -> None:
    await disk.writer.write(lambda db: put(db, PAGES - 3))
    await disk.writer.write(lambda db: put(db, 3))
    assert disk.released == 1


async def test_a_page_does_not_use_up_the_reserve(disk: Disk) -> None:
    await disk.writer.write(lambda db: put(db, PAGES - 3))
    with pytest.raises(StoreFull):
        await disk.writer.write(lambda db: put(db, RESERVED - 1), spools=True)
    assert disk.released == 1
    for _ in range(RESERVED - 2):  # as many small works as the reserve has room for
        await disk.writer.write(lambda db: put(db, 1))


async def test_a_commit_is_reported_before_its_caller_goes_on_and_a_failure_is_not(
    disk: Disk,
) -> None:
    reported: list[object] = []

    def report(result: object) -> None:
        reported.append((result, disk.db.in_transaction))

    def odd(_: Connection) -> str:
        raise ValueError("odd")

    writes = [
        disk.writer.write(lambda _: 1, then=report),
        disk.writer.write(odd, then=report),
        disk.writer.write(lambda db: put(db, PAGES + RESERVED), spools=True, then=report),
        disk.writer.write(lambda _: 2, then=report),
    ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(each) for each in results] == [int, ValueError, StoreFull, int]
    assert reported == [(1, False), (2, False)]


async def test_a_work_that_fails_costs_those_nothing_that_share_its_commit(disk: Disk) -> None:
    go_on = threading.Event()

    def odd(db: Connection) -> None:
        put(db, 2)
        raise ValueError("odd")

    first = asyncio.ensure_future(disk.writer.write(lambda _: go_on.wait(10)))
    works = [
        disk.writer.write(work) for work in (lambda db: put(db, 1), odd, lambda db: put(db, 1))
    ]
    shared = asyncio.gather(*works, return_exceptions=True)
    await asyncio.sleep(0)  # now all of them wait for the first one
    go_on.set()
    assert [type(each) for each in await shared] == [type(None), ValueError, type(None)]
    await first
    assert disk.db.execute("select count(*) from data").fetchone() == (2,)


async def test_a_work_that_was_cancelled_before_its_turn_is_skipped(disk: Disk) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Connection) -> None:
        begun.set()
        go_on.wait(10)

    first = asyncio.ensure_future(disk.writer.write(wait))
    await asyncio.to_thread(begun.wait)
    skipped = asyncio.ensure_future(disk.writer.write(lambda db: put(db, 1)))
    await asyncio.sleep(0)
    skipped.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, disk.writer.write(lambda db: put(db, 2)))
    assert skipped.cancelled()
    assert disk.db.execute("select count(*) from data").fetchone() == (2,)


# --- other programs that have the database open


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(writing, "BUSY_MS", 5)
    monkeypatch.setattr(writing, "LONG_LOG", 1 << 20)
    db = connect(tmp_path / "state.db")
    db.executescript("pragma journal_mode = wal; create table data (x)")
    made = Writer(db, lambda: None)
    yield made
    made.close()


async def test_a_lock_of_another_program_is_waited_for_and_logged_once(
    writer: Writer, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("begin immediate")
    with capture_logs() as logs:
        works = [asyncio.ensure_future(writer.write(lambda db: put(db, 1))) for _ in range(3)]
        done, waiting = await asyncio.wait(works, timeout=0.1)
        assert (len(done), len(waiting)) == (0, 3)
        other.execute("rollback")
        await asyncio.gather(*works)
    assert [line["event"] for line in logs] == ["state_locked"]
    assert other.execute("select count(*) from data").fetchone() == (3,)


async def test_a_lock_does_not_keep_the_writer_from_its_end(writer: Writer, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("begin immediate")
    work = asyncio.ensure_future(writer.write(lambda db: put(db, 1)))
    await asyncio.wait([work], timeout=0.05)
    await asyncio.to_thread(writer.close)
    with pytest.raises(StateError, match="database is locked"):
        await work


async def test_a_log_that_a_reader_keeps_from_being_emptied_is_reported_as_it_grows(
    writer: Writer, tmp_path: Path
) -> None:
    log = tmp_path / "state.db-wal"
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from data").fetchone()
        with capture_logs() as logs:
            for _ in range(8):
                await writer.write(lambda db: put(db, 70))
        reader.execute("commit")
    reported = [line["bytes"] for line in logs if line["event"] == "state_log_long"]
    assert 1 <= len(reported) <= log.stat().st_size >> 20
    await writer.write(lambda db: put(db, 300))
    await writer.write(lambda db: put(db, 1))
    assert log.stat().st_size < 1 << 20


async def test_nothing_waits_for_a_writer_that_is_closed(writer: Writer) -> None:
    writer.close()
    with pytest.raises(StateError, match="the state is closed"):
        await asyncio.wait_for(writer.write(lambda db: put(db, 1)), 5)
