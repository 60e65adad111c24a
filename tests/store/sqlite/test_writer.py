"""The writer thread: a full disk, and the report of a commit."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditrelay.errors import StoreFull
from auditrelay.store.sqlite.writer import Writer

PAGES, RESERVED = 20, 10
PAGE = bytes(4000)


def put(db: sqlite3.Connection, pages: int) -> None:
    db.executemany("insert into data values (?)", [(PAGE,)] * pages)


class Disk:
    """A database that may not grow beyond PAGES until its reserve is released."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
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

    def odd(_: sqlite3.Connection) -> str:
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
