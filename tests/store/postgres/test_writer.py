"""The writer thread: grouped commits, fenced, and sure of what became of each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.postgres import Server
from tests.support.shared_state import SCHEMA, link, raw, rows, take
from tests.support.wire import Wire

from auditrelay.clock import Clock
from auditrelay.errors import Fenced, RelayError, RolledBack, StateError, StoreFull
from auditrelay.store.postgres import link as linking
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.link import Link
from auditrelay.store.postgres.writer import Work, Writer

pytestmark = pytest.mark.process

ME = UUID(int=7)


def put(name: str, value: int = 1) -> Work[str]:
    def work(db: Connection) -> str:
        db.execute("insert into meta (name, value) values (?, ?)", (f"test {name}", value))
        return name

    return work


def written(url: str) -> list[str]:
    found = rows(url, "select name from meta where name like 'test%%' order by name")
    return [name.removeprefix("test ") for (name,) in found]


def is_one_waiting(url: str) -> bool:
    """Return whether a connection waits for the lock of all writes."""
    return bool(rows(url, "select 1 from pg_stat_activity where wait_event = 'advisory'"))


def counted(url: str, replica: UUID = ME) -> int:
    ((writes,),) = rows(url, "select writes from writer where replica = %s", replica)
    found: int = writes
    return found


@asynccontextmanager
async def writing(url: str, *, own: Link | None = None) -> AsyncIterator[Writer]:
    writer = Writer(own or link(url), ME)
    try:
        yield writer
    finally:
        await asyncio.to_thread(writer.close)


class Held:
    """A work that the writer thread is in, until it is let go; what comes meanwhile is grouped."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def work(self, _: Connection) -> None:
        self.began.set()
        assert self.go_on.wait(30)

    async def in_(self, writer: Writer) -> "asyncio.Task[None]":
        task = asyncio.create_task(writer.write(self.work))
        await asyncio.to_thread(self.began.wait, 30)
        return task


async def grouped(
    writer: Writer, *works: Work[Any], then: Callable[[Any], None] | None = None
) -> list[Any]:
    """Return the results, or errors, of *works* that wait at the same time."""
    held = Held()
    first = await held.in_(writer)
    tasks = [asyncio.create_task(writer.write(work, then=then)) for work in works]
    await asyncio.sleep(0)
    held.go_on.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_works_that_wait_share_one_commit_in_their_order(database: str) -> None:
    done: list[str] = []
    async with writing(database) as writer:
        results = await grouped(writer, put("a"), put("b"), put("c"), then=done.append)
        assert (writer.writes, counted(database)) == (2, 2)
    assert results == done == ["a", "b", "c"]
    assert written(database) == ["a", "b", "c"]


async def test_of_a_group_only_those_fail_that_raise(database: str) -> None:
    def broken(db: Connection) -> None:
        put("broken")(db)
        raise RelayError("no")

    done: list[str] = []
    async with writing(database) as writer:
        a, b, c, d = await grouped(writer, put("a"), broken, put("a"), put("d"), then=done.append)
    assert (a, d, done) == ("a", "d", ["a", "d"])
    assert isinstance(b, RelayError)
    assert isinstance(c, psycopg.errors.UniqueViolation)
    assert written(database) == ["a", "d"]


async def test_a_work_that_was_cancelled_before_its_turn_is_skipped(database: str) -> None:
    held = Held()
    async with writing(database) as writer:
        first = await held.in_(writer)
        task = asyncio.create_task(writer.write(put("a")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        held.go_on.set()
        await first
        await writer.write(put("b"))
    assert written(database) == ["b"]


async def test_what_is_queued_is_finished_at_the_close_and_nothing_later(database: str) -> None:
    held = Held()
    writer = Writer(link(database), ME)
    first = await held.in_(writer)
    task = asyncio.create_task(writer.write(put("a")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(writer.close))
    held.go_on.set()
    await closing
    await first
    assert await task == "a"
    with pytest.raises(StateError, match="closed"):
        await writer.write(put("b"))
    assert written(database) == ["a"]
    assert rows(database, "select * from writer") == []


async def test_there_is_no_connection_before_something_is_to_be_written(database: str) -> None:
    made = []

    def connect() -> psycopg.Connection[Any]:
        made.append(1)
        return raw(database)

    async with writing(database, own=Link(connect, SCHEMA, clock=Clock())) as writer:
        assert made == []
        await writer.write(put("a"))
        await writer.write(put("b"))
    assert made == [1]


# --- leases ---------------------------------------------------------------------------------------


async def test_a_stale_lease_fails_alone(database: str) -> None:
    mine, other = take(database, "source a", ME), take(database, "source b", ME)
    take(database, "source a")
    held = Held()
    async with writing(database) as writer:
        first = await held.in_(writer)
        works = [
            asyncio.create_task(writer.write(put(lease.unit), lease=lease))
            for lease in (mine, other)
        ]
        await asyncio.sleep(0)
        held.go_on.set()
        await first
        lost, done = await asyncio.gather(*works, return_exceptions=True)
        assert isinstance(lost, Fenced)
        assert done == "source b"
        assert str(lost) == "fenced: source a"
        await writer.write(put("later"), lease=other)
    assert written(database) == ["later", "source b"]


async def test_works_of_two_leases_of_a_unit_are_distinguished(database: str) -> None:
    old = take(database, "source a", ME)
    new = take(database, "source a", ME)
    held = Held()
    async with writing(database) as writer:
        first = await held.in_(writer)
        works = [
            asyncio.create_task(writer.write(put(str(number)), lease=lease))
            for number, lease in enumerate((new, old, new))
        ]
        await asyncio.sleep(0)
        held.go_on.set()
        await first
        results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(each) for each in results] == [str, Fenced, str]
    assert written(database) == ["0", "2"]


async def test_a_replica_that_was_removed_writes_no_more_until_it_goes_on_as_another(
    database: str,
) -> None:
    async with writing(database) as writer:
        await writer.write(put("a"))
        rows(database, "delete from writer")
        for _ in range(2):
            with pytest.raises(Fenced, match="does not know this replica"):
                await writer.write(put("b"))
        again = uuid4()
        writer.continue_as(again)
        assert writer.writes == 0
        await writer.write(put("c"))
        assert (writer.writes, counted(database, again)) == (1, 1)
    assert written(database) == ["a", "c"]


async def test_a_database_that_lost_writes_is_noticed_before_the_next_one(
    postgres: Server, database: str
) -> None:
    async with writing(database) as writer:
        await writer.write(put("a"))
        rows(database, "update writer set writes = writes - 1")  # as after such a failover
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(RolledBack, match="lost 1 of the writes"):
                    await writer.write(put("b"))
        writer.continue_as(uuid4())
        await writer.write(put("c"))
    assert [line for line in logs if line["event"] == "store_rolled_back"] == [
        {"event": "store_rolled_back", "log_level": "error", "writes": 1}
    ]
    assert written(database) == ["a", "c"]


async def test_a_failover_that_loses_the_tail_is_noticed(postgres: Server, database: str) -> None:
    """The connection breaks, and behind it is an older database."""
    name = database.rpartition("/")[2]
    at = [database]
    own = Link(lambda: raw(at[0]), SCHEMA, clock=Clock())
    async with writing(database, own=own) as writer:
        await writer.write(put("a"))
        own.drop()  # a database is copied while there is no connection to it
        older = postgres.copy(name)
        await writer.write(put("b"))
        own.drop()
        at[0] = postgres.address(older)
        with pytest.raises(RolledBack):
            await writer.write(put("c"))
        assert written(at[0]) == ["a"]
    postgres.drop(older)


async def test_another_process_with_our_id_is_noticed(database: str) -> None:
    async with writing(database) as writer:
        await writer.write(put("a"))
        rows(database, "update writer set writes = writes + %s", 1)
        with pytest.raises(Fenced, match="another process"):
            await writer.write(put("b"))
    assert written(database) == ["a"]


async def test_what_was_queued_before_it_went_on_as_another_is_not_written_as_the_new_one(
    database: str,
) -> None:
    held = Held()
    async with writing(database) as writer:
        await writer.write(put("a"))
        rows(database, "delete from writer")
        first = await held.in_(writer)
        old = asyncio.create_task(writer.write(put("old")))
        await asyncio.sleep(0)
        writer.continue_as(uuid4())
        new = asyncio.create_task(writer.write(put("new")))
        await asyncio.sleep(0)
        held.go_on.set()
        results = await asyncio.gather(first, old, new, return_exceptions=True)
    assert [type(each) for each in results] == [Fenced, Fenced, str]
    assert written(database) == ["a", "new"]


# --- connections that are lost --------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 40, 200, 400, 600, 800])
@pytest.mark.parametrize("then", ["cut", "mute"])
async def test_a_write_whose_connection_breaks_is_done_exactly_once(
    database: str, wire: Wire, then: Any, after: int
) -> None:
    """Broken after so many bytes of it; beyond its end the reply alone is lost."""
    done: list[int] = []

    def add(db: Connection) -> int:
        (value,) = db.execute(
            "update meta set value = value + 1 where name = 'spool_bytes' returning value"
        ).fetchone()
        return int(value)

    async with writing(database, own=link(wire.through(database), limit=0.5)) as writer:
        assert await writer.write(add) == 1
        happened = wire.trip(then, at=b"begin isolation", after=after)
        with capture_logs() as logs:
            assert await writer.write(add, then=done.append) == 2
        assert happened.is_set() or after == 800
        assert await writer.write(add) == 3
        ((value,),) = rows(database, "select value from meta where name = 'spool_bytes'")
    assert (value, done) == (3, [2])
    events = [line["event"] for line in logs]
    assert events in ([], ["store_unreachable", "store_reached"])


async def test_a_commit_whose_reply_is_lost_is_not_run_again(database: str, wire: Wire) -> None:
    runs: list[int] = []
    done: list[str] = []

    def work(db: Connection) -> str:
        runs.append(1)
        return put("a")(db)

    async with writing(database, own=link(wire.through(database), limit=0.5)) as writer:
        await writer.write(put("first"))
        happened = wire.trip("mute", at=b"insert into meta")
        assert await writer.write(work, then=done.append) == "a"
        assert happened.is_set()
    assert (runs, done) == ([1], ["a"])
    assert written(database) == ["a", "first"]


async def test_a_write_that_was_not_committed_never_is(
    postgres: Server, database: str, wire: Wire
) -> None:
    """All of it reaches the server, but only after its caller was given an error."""
    runs = []

    def work(db: Connection) -> None:
        runs.append(1)
        if len(runs) > 1:
            raise RelayError("the second time it fails")
        put("a")(db)

    async with writing(database, own=link(wire.through(database), limit=0.5)) as writer:
        await writer.write(put("first"))
        happened = wire.trip("hold", at=b"begin isolation")
        with pytest.raises(RelayError, match="second time"):
            await writer.write(work)
        assert happened.is_set()
        before = len(postgres.log())
        wire.heal()
        while "fenced: other writes" not in postgres.log()[before:]:
            await asyncio.sleep(0.01)
            assert written(database) == ["first"]
        await writer.write(put("z"))
    assert written(database) == ["first", "z"]


async def test_a_write_of_which_one_half_has_arrived_is_done_exactly_once(
    database: str, wire: Wire
) -> None:
    """That half has the lock of all writes, for which the next connection has to wait."""
    async with writing(database, own=link(wire.through(database), limit=0.5)) as writer:
        await writer.write(put("first"))
        happened = wire.trip("hold", at=b"select fence(")
        task = asyncio.create_task(writer.write(put("a")))
        await asyncio.to_thread(happened.wait, 30)
        await eventually(lambda: is_one_waiting(database))
        wire.heal()
        assert await task == "a"
        await writer.write(put("z"))
    assert written(database) == ["a", "first", "z"]


async def test_a_whole_group_is_done_exactly_once(database: str, wire: Wire) -> None:
    async with writing(database, own=link(wire.through(database), limit=0.5)) as writer:
        await writer.write(put("first"))
        wire.trip("mute", at=b"test c")
        assert await grouped(writer, put("a"), put("b"), put("c")) == ["a", "b", "c"]
    assert written(database) == ["a", "b", "c", "first"]


async def test_works_that_take_too_long_together_are_run_one_by_one(database: str) -> None:
    def slow(name: str) -> Work[str]:
        def work(db: Connection) -> str:
            db.execute("select pg_sleep(0.4)").fetchone()
            return put(name)(db)

        return work

    async with writing(database, own=link(database, limit=0.7)) as writer:
        assert await grouped(writer, slow("a"), slow("b"), slow("c")) == ["a", "b", "c"]
    assert written(database) == ["a", "b", "c"]


async def test_a_restart_of_the_server_is_waited_for(postgres: Server, database: str) -> None:
    async with writing(database) as writer:
        await writer.write(put("a"))
        with capture_logs() as logs:
            await asyncio.to_thread(postgres.restart, "immediate")
            assert await writer.write(put("b")) == "b"
    assert written(database) == ["a", "b"]
    assert [line["event"] for line in logs] == ["store_unreachable", "store_reached"]


async def test_while_it_is_away_that_is_logged_once(postgres: Server, database: str) -> None:
    tries = []

    def connect() -> psycopg.Connection[Any]:
        tries.append(1)
        return raw(database)

    async with writing(database, own=Link(connect, SCHEMA, clock=Clock())) as writer:
        await writer.write(put("a"))
        await asyncio.to_thread(postgres.stop)
        try:
            with capture_logs() as logs:
                task = asyncio.create_task(writer.write(put("b")))
                await eventually(lambda: len(tries) >= 4)
                assert [line["event"] for line in logs] == ["store_unreachable"]
                assert "cannot be reached" in logs[0]["reason"]
        finally:
            await asyncio.to_thread(postgres.start)
        assert await task == "b"
    assert written(database) == ["a", "b"]


async def test_a_run_that_shall_end_does_not_wait_for_ever(postgres: Server, database: str) -> None:
    async with writing(database, own=link(database, patience=0.3)) as writer:
        await writer.write(put("a"))
        await asyncio.to_thread(postgres.stop)
        try:
            tasks = [asyncio.create_task(writer.write(put(name))) for name in "bcd"]
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, StateError)
                assert "cannot be reached" in str(result)
        finally:
            await asyncio.to_thread(postgres.start)
        assert await writer.write(put("e")) == "e"
    assert written(database) == ["a", "e"]


async def test_one_that_closes_does_not_wait_either(postgres: Server, database: str) -> None:
    writer = Writer(link(database), ME)
    await writer.write(put("a"))
    await asyncio.to_thread(postgres.stop)
    try:
        task = asyncio.create_task(writer.write(put("b")))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(writer.close), 10)
        with pytest.raises(StateError):
            await task
    finally:
        await asyncio.to_thread(postgres.start)
    assert written(database) == ["a"]


async def test_after_it_gave_up_it_is_still_sure_what_became_of_a_commit(
    database: str, wire: Wire
) -> None:
    own = link(wire.through(database), patience=0.0, limit=0.5)
    async with writing(database, own=own) as writer:
        await writer.write(put("first"))
        wire.trip("mute", at=b"insert into meta")
        with pytest.raises(StateError):
            await writer.write(put("a"))
        assert written(database) == ["a", "first"]
        await writer.write(put("b"))  # fenced by the right count
    assert written(database) == ["a", "b", "first"]


async def test_who_is_refused_later_waits_and_connects_again(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "REFUSED_WAIT", 0.1)
    at = [database]
    own = Link(lambda: raw(at[0]), SCHEMA, clock=Clock())
    async with writing(database, own=own) as writer:
        await writer.write(put("a"))
        own.drop()
        at[0] = database.replace("postgres@", "stranger@")
        with capture_logs() as logs:
            task = asyncio.create_task(writer.write(put("b")))
            await eventually(lambda: bool(logs))
            assert "refuses" in logs[0]["reason"]
            at[0] = database
            assert await task == "b"


# --- others in the way, no room, damage -----------------------------------------------------------


def failing(state: str, times: int) -> Work[int]:
    runs = []

    def work(db: Connection) -> int:
        runs.append(1)
        if len(runs) <= times:
            db.execute(
                f"do $$ begin raise exception using errcode = '{state}', message = 'no'; end $$"
            )
        return len(runs)

    return work


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_what_others_were_in_the_way_of_is_run_again(
    database: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "LONGEST_WAIT", 0.1)
    async with writing(database) as writer:
        with capture_logs() as logs:
            assert await writer.write(failing(state, 5)) == 6
            assert logs == []
            assert await writer.write(failing(state, 6)) == 7
    assert [line["event"] for line in logs] == ["store_unreachable", "store_reached"]


async def test_a_primary_that_became_read_only_is_left(database: str) -> None:
    made = []

    def connect() -> psycopg.Connection[Any]:
        made.append(1)
        return raw(database)

    async with writing(database, own=Link(connect, SCHEMA, clock=Clock())) as writer:
        assert await writer.write(failing("25006", 1)) == 2
    assert made == [1, 1]


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("53100", StoreFull, "no room"),
        ("XX001", StateError, "damaged"),
        ("42501", StateError, "refuses"),
        ("42601", psycopg.errors.SyntaxError, "no"),
    ],
)
async def test_what_does_not_help_to_repeat_is_raised(
    database: str, state: str, error: type[Exception], words: str
) -> None:
    async with writing(database) as writer:
        with pytest.raises(error, match=words) as caught:
            await writer.write(failing(state, 1))
        assert type(caught.value) is error
        assert caught.value.__cause__ is not caught.value
        assert await writer.write(put("b")) == "b"
    assert written(database) == ["b"]


async def test_a_commit_that_may_not_be_replicated_is_resolved(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning that a server gives if the wait for its standby was ended."""
    rows(
        database,
        "create function warn() returns trigger language plpgsql as "
        "$$ begin raise warning 'canceling wait'; return null; end $$;"
        "create constraint trigger late after insert on source deferrable initially deferred "
        "for each row execute function warn()",
    )
    runs = []

    def work(db: Connection) -> str:
        runs.append(1)
        db.execute("insert into source (name, started) values (?, 1)", (f"a {len(runs)}",))
        return "done"

    async with writing(database) as writer:
        assert await writer.write(work) == "done"
        assert writer.writes == counted(database) == 1
    assert len(runs) == 1
    assert rows(database, "select name from source") == [("a 1",)]
