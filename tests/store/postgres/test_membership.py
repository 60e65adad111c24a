"""The membership of a replica over connections of its own, and what it does when they fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.support.replicas import connection
from tests.support.shared_state import SCHEMA, rows

from auditrelay.clock import Clock
from auditrelay.errors import StateError
from auditrelay.store.postgres import leases
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.leases import application_name
from auditrelay.store.postgres.line import Line
from auditrelay.store.postgres.link import Link
from auditrelay.store.postgres.membership import PostgresMembership
from auditrelay.store.postgres.writer import Writer
from auditrelay.store.replicas import Card, LeaseRow, Served, Unreachable

pytestmark = pytest.mark.process

NOWHERE = "postgresql://127.0.0.1:1/x"
CARD = Card(name="r", version="1", serves={unit: Served("d") for unit in ("a", "b")})


async def until_only(name: str, url: str) -> None:
    """Wait until all sessions have that name: the server ends those that were closed by itself."""
    async with asyncio.timeout(20):
        while names(url) != {name}:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)


@pytest.fixture
async def line(database: str) -> AsyncIterator[Line]:
    made = Line(partial(connection, database), lambda: "one")
    yield made
    await made.close()


@pytest.fixture
async def members(database: str) -> AsyncIterator[Callable[..., PostgresMembership]]:
    async with contextlib.AsyncExitStack() as stack:

        def make(replica: UUID | None = None) -> PostgresMembership:
            made = PostgresMembership(partial(connection, database), replica or uuid4())
            stack.push_async_callback(made.close)
            return made

        yield make


Members = Callable[..., PostgresMembership]


async def pulse(of: PostgresMembership) -> Any:
    return await of.pulse(beat=True, draining=False, info={})


def put(number: int) -> Callable[[Connection], object]:
    return lambda db: db.execute("insert into meta values (?, ?)", (str(number), number))


def names(url: str) -> set[str]:
    found = rows(url, "select application_name from pg_stat_activity where state is not null")
    return {name for (name,) in found if name}


async def test_what_fails_is_undone_and_the_next_transaction_works(
    line: Line, database: str
) -> None:
    def fail(db: Connection) -> None:
        put(1)(db)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await line.run(fail)
    await line.run(put(2))
    assert rows(database, "select value from meta where name in ('1', '2')") == [(2,)]


async def test_a_session_that_was_ended_is_unreachable_once(line: Line, database: str) -> None:
    await line.run(put(1))
    rows(
        database,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'one'",
    )
    with pytest.raises(Unreachable):
        await line.run(put(2))
    await line.run(put(3))


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    def refuse(_: str) -> Connection:
        raise StateError("another database")

    for connect, why in ((lambda _: connection(NOWHERE), "refused"), (refuse, "another database")):
        line = Line(connect, lambda: "")
        with pytest.raises(Unreachable, match=f"cannot connect .*{why}"):
            await line.run(put(1))
        await line.close()


async def test_our_own_bug_is_not_called_unreachable(line: Line) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        await line.run(lambda db: db.execute("nonsense"))


async def test_a_transaction_goes_on_though_its_caller_is_cancelled(
    line: Line, database: str
) -> None:
    began, go_on = Event(), Event()

    def work(db: Connection) -> None:
        put(1)(db)
        began.set()
        assert go_on.wait(10)

    task = asyncio.ensure_future(line.run(work))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await line.run(put(2))
    assert rows(database, "select value from meta where name in ('1', '2')") == [(1,), (2,)]


async def test_a_take_that_waits_delays_no_pulse(members: Members, database: str) -> None:
    one = members()
    await one.join(CARD)
    with contextlib.closing(connection(database)) as frozen:
        frozen.begin(write=True)
        frozen.execute("select 1").fetchone()
        taking = asyncio.ensure_future(one.take(["a"], []))
        for _ in range(3):
            seen = await pulse(one)
            assert seen.leases[0].holder is None
        assert not taking.done()
        frozen.roll_back()
    assert [lease.unit for lease in await taking] == ["a"]


async def test_to_join_twice_is_to_join_once(members: Members, database: str) -> None:
    one, seated = members(), members()
    me = await one.join(CARD)
    assert await one.join(CARD) == me  # the answer to the first time was lost
    assert [each.id for each in (await pulse(one)).replicas] == [me]
    card = Card(name="r", version="1", serves={}, seat="boot:1:2")
    await seated.join(card)
    rows(database, "update writer set writes = 3 returning writes")
    await seated.join(card)
    assert (await pulse(seated)).writes == 3
    assert len((await pulse(one)).replicas) == 2


async def test_who_left_joins_as_another_and_its_sessions_have_that_name(
    members: Members, database: str
) -> None:
    first = uuid4()
    one = members(first)
    assert await one.join(CARD) == first
    await one.take(["a"], [])
    assert names(database) == {application_name(first)}
    await one.leave()
    second = await one.join(CARD)
    assert second != first
    seen = await pulse(one)
    assert [each.id for each in seen.replicas] == [second]
    assert all(row.holder is None for row in seen.leases)
    await one.take(["a"], [])
    await until_only(application_name(second), database)


async def test_a_command_stays_one_with_each_beat(members: Members) -> None:
    one = members()
    await one.join(Card(name="r", version="1", serves={}, command=True))
    assert (await pulse(one)).replicas[0].command
    assert (await pulse(one)).replicas[0].command


async def test_a_lease_without_a_token_cannot_be_keyed_again(members: Members) -> None:
    one = members()
    await one.join(CARD)
    assert await one.rekey(LeaseRow("a")) is None


async def test_the_sessions_of_dead_replicas_are_ended_and_no_others(
    members: Members, database: str
) -> None:
    dead, alive = members(), members()
    gone, me = await dead.join(CARD), await alive.join(CARD)
    await alive.end_sessions([gone])
    with pytest.raises(Unreachable):
        await pulse(dead)
    await pulse(alive)
    assert application_name(me) in names(database)


async def test_the_writer_of_a_replica_that_joins_again_has_a_session_of_its_name(
    database: str,
) -> None:
    """Or the next one could not end that session, if this one is frozen while it writes."""
    first, second = uuid4(), uuid4()
    me = first
    writer = Writer(
        Link(
            lambda: psycopg.connect(
                database, autocommit=True, application_name=application_name(me)
            ),
            SCHEMA,
            clock=Clock(),
        ),
        first,
    )
    try:
        await writer.write(put(1))
        assert names(database) == {application_name(first)}
        me = second
        writer.continue_as(second)
        await writer.write(put(2))
        await until_only(application_name(second), database)
    finally:
        await asyncio.to_thread(writer.close)


async def test_a_role_that_may_not_ask_which_server_it_is_can_join(
    members: Callable[..., PostgresMembership], monkeypatch: pytest.MonkeyPatch
) -> None:
    member = members()
    assert await member.server() is not None

    def refused(_: Connection) -> None:
        raise psycopg.errors.InsufficientPrivilege("permission denied for pg_control_system")

    monkeypatch.setattr(leases, "server", refused)
    assert await member.server() is None

    def lost(_: Connection) -> None:
        raise psycopg.errors.AdminShutdown("terminating connection")

    monkeypatch.setattr(leases, "server", lost)
    with pytest.raises(Unreachable):
        await member.server()
