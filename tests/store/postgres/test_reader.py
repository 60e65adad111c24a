"""The reader thread, and snapshots."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.postgres import Server
from tests.support.shared_state import link, rows
from tests.support.wire import Wire

from auditrelay.errors import StateError
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.reader import ReaderThread

pytestmark = pytest.mark.process


@pytest.fixture
def reader(database: str, wire: Wire) -> Iterator[ReaderThread]:
    reader = ReaderThread(lambda: link(wire.through(database), limit=0.5))
    yield reader
    reader.close()


def sources(db: Connection) -> list[Any]:
    return db.execute("select name from source order by name").fetchall()


def add(url: str, name: str) -> None:
    rows(url, "insert into source (name, started) values (%s, 1)", name)


async def test_each_read_sees_what_is_committed(reader: ReaderThread, database: str) -> None:
    assert await reader.read(sources) == []
    add(database, "a")
    assert await reader.read(sources) == [("a",)]


async def test_it_does_not_write(reader: ReaderThread) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await reader.read(
            lambda db: db.execute("update meta set value = 1 returning value").fetchone()
        )


async def test_a_read_whose_connection_breaks_is_repeated(reader: ReaderThread, wire: Wire) -> None:
    assert await reader.read(sources) == []
    for then in ("cut", "mute"):
        happened = wire.trip(then, at=b"select name")
        assert await reader.read(sources) == []
        assert happened.is_set()
    wire.reset()
    assert await reader.read(sources) == []
    assert wire.connections == 4


async def test_what_a_work_raises_reaches_the_caller(reader: ReaderThread) -> None:
    def broken(db: Connection) -> None:
        sources(db)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await reader.read(broken)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        await reader.read(lambda db: db.execute("select no_such_column from meta").fetchone())
    assert await reader.read(sources) == []


async def test_one_that_closes_does_not_wait_for_a_database_that_is_away(
    postgres: Server, database: str
) -> None:
    reader = ReaderThread(lambda: link(database))
    assert await reader.read(sources) == []
    await asyncio.to_thread(postgres.stop)
    try:
        task = asyncio.create_task(reader.read(sources))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(reader.close), 10)
        with pytest.raises(StateError, match="cannot be reached"):
            await task
    finally:
        await asyncio.to_thread(postgres.start)


def test_a_snapshot_is_of_the_moment_at_which_it_begins(
    reader: ReaderThread, database: str
) -> None:
    with reader.snapshot() as db:
        add(database, "a")
        assert sources(db) == []
    with reader.snapshot() as db:
        assert sources(db) == [("a",)]


def test_a_snapshot_has_a_connection_of_its_own_which_ends(
    reader: ReaderThread, wire: Wire
) -> None:
    before = wire.open
    with reader.snapshot(), reader.snapshot():
        assert wire.open == before + 2
    with pytest.raises(KeyError), reader.snapshot():
        raise KeyError("x")
    while wire.open > before:
        threading.Event().wait(0.01)


def test_a_snapshot_that_is_lost_is_an_error_of_the_state(reader: ReaderThread, wire: Wire) -> None:
    def lose(db: Connection) -> None:
        wire.reset()
        sources(db)

    with pytest.raises(StateError, match="cannot be reached"), reader.snapshot() as db:
        lose(db)


async def test_a_snapshot_that_waits_for_the_database_ends_with_the_reader(
    postgres: Server, database: str
) -> None:
    reader = ReaderThread(lambda: link(database))

    def look() -> None:
        with reader.snapshot() as db:
            sources(db)

    await asyncio.to_thread(postgres.stop)
    try:
        with capture_logs() as logs:
            task = asyncio.create_task(asyncio.to_thread(look))
            await eventually(lambda: bool(logs))
            await asyncio.to_thread(reader.close)
            with pytest.raises(StateError, match="cannot be reached"):
                await task
    finally:
        await asyncio.to_thread(postgres.start)
