"""The desk over tables, on a server, with two replicas: who answers, and who goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from tests.support.clock import FakeClock
from tests.support.replicas import connection
from tests.support.shared_state import SCHEMA, make_schema, raw

from auditrelay.collect.backfill import BackfillProgress
from auditrelay.collect.verify import Shown
from auditrelay.errors import ConfigError, Fenced, RelayError, StateError
from auditrelay.service import table_desk
from auditrelay.service.desk import (
    Backfill,
    Backfilled,
    Drop,
    Dropped,
    Forget,
    Forgotten,
    Handle,
    Note,
    OnProgress,
    Progress,
    Request,
    Result,
    Verify,
    encode,
)
from auditrelay.service.table_desk import PART, TableDesk, unit_of
from auditrelay.store.postgres import leases, requests
from auditrelay.store.postgres.membership import PostgresRequests
from auditrelay.store.replicas import Card, Served, Unreachable
from auditrelay.store.sql.connection import Connection

pytestmark = pytest.mark.process

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNITS = ("keeper", "source a")
ASKED = Backfill(
    source="a",
    start=NOON,
    end=None,
    sinks=(),
    dry_run=False,
    newest_first=False,
    concurrency=1,
)
DONE = Backfilled(BackfillProgress(1.0, 1.0))


@pytest.fixture
def speed() -> float:
    return 20.0  # the database has a clock of its own


@pytest.fixture
def prepare() -> Callable[[str], object]:
    return make_schema


class Fleet:
    """Replicas without a loop: the test says who takes what, and offers what there is."""

    def __init__(self, address: str, clock: FakeClock) -> None:
        self.address = address
        self.clock = clock
        self.db = connection(address)
        self.sql = raw(address)
        self.sql.execute(f"set search_path to {SCHEMA}".encode())
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.db.close()
        self.sql.close()

    def do(self, work: Callable[[Connection], Any], *, alone: bool = False) -> Any:
        self.db.begin(write=True, alone=alone)
        done = work(self.db)
        self.db.commit()
        return done

    def desk(self, name: str) -> TableDesk:
        table = PostgresRequests(partial(connection, self.address), lambda: name)
        self._stack.push_async_callback(table.close)
        return TableDesk(table, name=name, clock=self.clock)

    async def replica(self, name: str, handle: Handle) -> "Serving":
        made = Serving(self, name, handle)
        self._stack.push_async_callback(made.end)
        return made

    async def ask(self, request: Request = ASKED, steps: list[Progress] | None = None) -> Result:
        async def on_progress(progress: Progress) -> None:
            if steps is not None:
                steps.append(progress)

        async with asyncio.timeout(30):
            return await self.desk("host 1").ask(request, on_progress)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.sql.execute(f"select * from {table}".encode()).fetchall()


class Serving:
    """A replica that serves, and is offered what waits ten times a second."""

    def __init__(self, fleet: Fleet, name: str, handle: Handle) -> None:
        self.id: UUID = uuid4()
        self._fleet = fleet
        serves = {unit: Served("d") for unit in UNITS}
        card = Card(name=name, version="1", serves=serves)
        fleet.do(lambda db: leases.join(db, self.id, card))
        self.desk = fleet.desk(name)
        self._serving = asyncio.ensure_future(self.desk.serve(handle))
        self._offering = asyncio.ensure_future(self._offer())

    async def _offer(self) -> None:
        while True:
            seen = self._fleet.do(lambda db: leases.situation(db, self.id))
            held = {row.unit for row in seen.leases if row.holder == self.id}
            self.desk.offer(self.id, seen.requests, held)
            await asyncio.sleep(0.02)

    def take(self, *units: str, dead: tuple[UUID, ...] = ()) -> None:
        taken = self._fleet.do(lambda db: leases.take(db, self.id, units, dead), alone=True)
        assert len(taken) == len(units)

    def expire(self) -> None:
        self._fleet.sql.execute(
            "update replica set expires = clock_timestamp() - interval '1 s' where id = %s",
            [self.id],
        )

    async def end(self) -> None:
        self._offering.cancel()
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving


@pytest.fixture
async def fleet(database: str, clock: FakeClock) -> AsyncIterator[Fleet]:
    async with Fleet(database, clock) as made:
        yield made


async def done(request: Request, on_progress: OnProgress, by: int | None) -> Result:
    assert by is None
    await on_progress(Note("half of it"))
    return DONE


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # it looks at the database
            await asyncio.sleep(0.01)


async def test_the_holder_of_the_unit_answers_with_progress_and_then_the_result(
    fleet: Fleet,
) -> None:
    asked: list[Request] = []

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        asked.append(request)
        return await done(request, on_progress, by)

    async def refuse(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        raise AssertionError("it does not hold the unit")

    one, _ = await fleet.replica("one", handle), await fleet.replica("two", refuse)
    one.take("source a")
    steps: list[Progress] = []
    assert await fleet.ask(ASKED, steps) == DONE
    assert (asked, steps) == ([ASKED], [Note("half of it")])
    assert (fleet.rows("request"), fleet.rows("answer")) == ([], [])


async def test_it_is_done_once_though_it_is_offered_again_before_the_answer_is_read(
    fleet: Fleet,
) -> None:
    count = 0

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        nonlocal count
        count += 1
        return DONE

    one = await fleet.replica("one", handle)
    one.take("source a")
    number = fleet.do(lambda db: requests.ask(db, "source a", encode(ASKED).decode(), "x"))
    await until(lambda: bool(fleet.rows("answer")))
    await asyncio.sleep(0.3)  # some offers more
    assert count == 1
    found = fleet.do(lambda db: requests.answers(db, number, -1, 8))
    assert len(found.lines) == 1


async def test_a_request_waits_until_its_unit_is_held(fleet: Fleet) -> None:
    one = await fleet.replica("one", done)
    asking = asyncio.ensure_future(fleet.ask())
    await until(lambda: bool(fleet.rows("request")))
    await asyncio.sleep(0.1)
    assert not asking.done()
    one.take("source a")
    assert await asking == DONE


async def test_what_is_about_no_source_is_for_the_keeper(fleet: Fleet) -> None:
    async def drop(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        assert isinstance(request, Drop)
        return Dropped(request.ids)

    one = await fleet.replica("one", drop)
    one.take("keeper")
    assert await fleet.ask(Drop((1, 2))) == Dropped((1, 2))
    assert unit_of(ASKED) == "source a"


async def test_without_a_replica_that_serves_it_the_command_hears_so_at_once(fleet: Fleet) -> None:
    with pytest.raises(StateError, match="no running replica serves source a"):
        await fleet.ask()
    one = await fleet.replica("one", done)
    one.expire()
    with pytest.raises(StateError, match="no running replica serves source a"):
        await fleet.ask()
    assert fleet.rows("request") == []


@pytest.mark.parametrize("error", [ConfigError("a\nb"), RelayError("c"), StateError("d")])
async def test_the_error_of_the_work_is_the_error_of_the_command(
    fleet: Fleet, error: RelayError
) -> None:
    async def fail(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        raise error

    (await fleet.replica("one", fail)).take("source a")
    with pytest.raises(type(error)) as caught:
        await fleet.ask()
    assert str(caught.value) == str(error)


async def test_a_long_answer_comes_in_parts_and_whole(fleet: Fleet) -> None:
    name = "ü\0" * (PART * 2)

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        return Forgotten(name)

    (await fleet.replica("one", handle)).take("keeper")
    asking = asyncio.ensure_future(fleet.ask(Forget("x", yes=True)))
    longest = 0
    while not asking.done():
        lines = fleet.sql.execute("select max(octet_length(line)) from answer").fetchall()
        longest = max(longest, lines[0][0] or 0)
        await asyncio.sleep(0)
    assert await asking == Forgotten(name)
    assert 0 < longest <= 1 << 20


async def test_of_progress_only_the_newest_is_written_and_of_all_else_everything(
    fleet: Fleet,
) -> None:
    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        for number in range(1000):
            await on_progress(BackfillProgress(float(number), 1000.0))
            if number % 3 == 0:
                await on_progress(Shown(number, number, ()))
        return DONE

    (await fleet.replica("one", handle)).take("source a")
    steps: list[Progress] = []
    assert await fleet.ask(ASKED, steps) == DONE
    assert [each.start for each in steps if isinstance(each, Shown)] == list(range(0, 1000, 3))
    seconds = [each.done_seconds for each in steps if isinstance(each, BackfillProgress)]
    assert seconds[-1] == 999.0
    assert len(seconds) < 20


async def test_progress_is_shown_before_the_end(fleet: Fleet) -> None:
    shown = asyncio.Event()

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        await on_progress(Note("half of it"))
        await shown.wait()
        return DONE

    async def on_progress(_: Progress) -> None:
        shown.set()

    (await fleet.replica("one", handle)).take("source a")
    async with asyncio.timeout(20):
        assert await fleet.desk("host 1").ask(ASKED, on_progress) == DONE


async def test_if_the_command_goes_away_its_work_is_cancelled(fleet: Fleet) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return DONE

    (await fleet.replica("one", handle)).take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    await began.wait()
    asking.cancel()
    async with asyncio.timeout(10):
        await ended.wait()
    await asyncio.wait([asking])
    assert fleet.rows("request") == []


async def test_if_the_command_was_killed_its_work_is_cancelled(fleet: Fleet) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return DONE

    (await fleet.replica("one", handle)).take("source a")
    fleet.do(lambda db: requests.ask(db, "source a", encode(ASKED).decode(), "x"))
    await began.wait()
    fleet.sql.execute("update request set listens = clock_timestamp() - interval '1 ms'")
    async with asyncio.timeout(10):
        await ended.wait()


async def test_a_command_that_waits_long_goes_on_listening(fleet: Fleet) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        await go_on.wait()
        return DONE

    (await fleet.replica("one", handle)).take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    await began.wait()
    fleet.sql.execute("update request set listens = clock_timestamp() + interval '1 s'")
    await until(
        lambda: bool(
            fleet.sql.execute(
                "select from request where listens > clock_timestamp() + interval '10 s'"
            ).fetchall()
        )
    )
    go_on.set()
    assert await asking == DONE


async def test_if_the_holder_dies_the_next_one_goes_on(fleet: Fleet) -> None:
    began = asyncio.Event()

    async def hang(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        await on_progress(Note("half of it"))
        began.set()
        await asyncio.Event().wait()
        return DONE

    one, two = await fleet.replica("one", hang), await fleet.replica("two", done)
    one.take("source a")
    steps: list[Progress] = []
    asking = asyncio.ensure_future(fleet.ask(ASKED, steps))
    await began.wait()
    await until(lambda: bool(steps))
    # In the middle of an answer in parts; and it is killed, so it puts nothing back.
    fleet.sql.execute("insert into answer select id, 5, '+{\"half' from request")
    one._offering.cancel()
    one.expire()
    two.take("source a", dead=(one.id,))
    assert await asking == DONE
    assert steps == [Note("half of it"), Note("goes on at replica two"), Note("half of it")]


async def test_the_one_that_was_robbed_answers_nothing_more(fleet: Fleet) -> None:
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stale(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        try:
            await go_on.wait()
            await on_progress(Note("from the one that was robbed"))
            await asyncio.Event().wait()
        finally:
            ended.set()
        return DONE

    async def slow(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        go_on.set()
        await ended.wait()
        return DONE

    one, two = await fleet.replica("one", stale), await fleet.replica("two", slow)
    one.take("source a")
    steps: list[Progress] = []
    asking = asyncio.ensure_future(fleet.ask(ASKED, steps))
    await began.wait()
    one._offering.cancel()  # it is frozen
    one.expire()
    two.take("source a", dead=(one.id,))
    assert await asking == DONE
    assert steps == [Note("goes on at replica two")]


async def test_a_work_that_is_fenced_is_put_back_for_the_next_holder(fleet: Fleet) -> None:
    """The one that is fenced lives, and serves other units."""
    began, moved = asyncio.Event(), asyncio.Event()

    async def fenced(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        await moved.wait()
        raise Fenced("source a")

    one, two = await fleet.replica("one", fenced), await fleet.replica("two", done)
    one.take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    await began.wait()
    one._offering.cancel()
    fleet.sql.execute("update lease set holder = null, token = null")
    two.take("source a")
    await asyncio.sleep(0.2)  # some offers
    assert not asking.done()  # it is not taken from a replica that lives
    moved.set()
    async with asyncio.timeout(5):  # long before the first one expires
        assert await asking == DONE


async def test_a_unit_that_ends_takes_its_work_with_it_and_the_next_holder_goes_on(
    fleet: Fleet,
) -> None:
    begun = asyncio.Event()

    async def long(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    one = await fleet.replica("one", long)
    one.take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    async with asyncio.timeout(20):
        await begun.wait()
    one._offering.cancel()
    one.desk.leave("keeper")
    await asyncio.sleep(0.1)
    assert all(not task.done() for _, task in one.desk._working.values())
    one.desk.leave("source a")
    await until(lambda: all(task.done() for _, task in one.desk._working.values()))
    assert not one._serving.done()
    fleet.sql.execute("update lease set holder = null, token = null")
    (await fleet.replica("two", done)).take("source a")
    assert await asking == DONE


async def test_only_the_holder_takes_a_request(fleet: Fleet) -> None:
    one, two = await fleet.replica("one", done), await fleet.replica("two", done)
    one._offering.cancel()
    two._offering.cancel()
    one.take("source a")
    number = fleet.do(lambda db: requests.ask(db, "source a", encode(ASKED).decode(), "x"))
    assert fleet.do(lambda db: requests.serve(db, two.id, number)) is None
    assert fleet.do(lambda db: requests.serve(db, one.id, number)) is not None


async def test_a_replica_that_drains_is_not_asked(fleet: Fleet) -> None:
    one = await fleet.replica("one", done)
    fleet.do(lambda db: leases.beat(db, one.id, draining=True, info={}))
    with pytest.raises(StateError, match="no running replica"):
        await fleet.ask()


async def test_a_list_is_not_begun_twice(fleet: Fleet) -> None:
    async def hang(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        await on_progress(Shown(0, 1, ()))
        await asyncio.Event().wait()
        return DONE

    one, two = await fleet.replica("one", hang), await fleet.replica("two", done)
    one.take("source a")
    listed = Verify(source="a", start=NOON, end=NOON, repair=False, at_sink=False, listed=True)
    steps: list[Progress] = []
    asking = asyncio.ensure_future(fleet.ask(listed, steps))
    await until(lambda: bool(steps))
    one.expire()
    two.take("source a", dead=(one.id,))
    with pytest.raises(RelayError, match="ask again"):
        await asking


async def test_a_replica_that_stops_leaves_its_work_to_another(fleet: Fleet) -> None:
    began = asyncio.Event()

    async def hang(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        await asyncio.Event().wait()
        return DONE

    one, two = await fleet.replica("one", hang), await fleet.replica("two", done)
    one.take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    await began.wait()
    await one.end()
    fleet.do(lambda db: leases.leave(db, one.id))
    two.take("source a")
    assert await asking == DONE


async def test_if_no_replica_is_left_the_command_ends_with_an_error(fleet: Fleet) -> None:
    began = asyncio.Event()

    async def hang(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        began.set()
        await asyncio.Event().wait()
        return DONE

    one = await fleet.replica("one", hang)
    one.take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    await began.wait()
    one._offering.cancel()
    one.expire()
    with pytest.raises(RelayError, match="no replica works on it"):
        await asking


async def test_answers_that_may_have_been_written_are_written_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after each commit, before that is known."""
    answer = PostgresRequests.answer
    calls = 0

    async def lossy(*arguments: Any, **options: Any) -> bool:
        nonlocal calls
        calls += 1
        ours = await answer(*arguments, **options)
        if calls % 2:
            raise Unreachable("lost")
        return ours

    monkeypatch.setattr(PostgresRequests, "answer", lossy)

    async def handle(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        for number in range(3):
            await on_progress(Note(str(number)))
        return Forgotten("x" * (3 * PART))

    (await fleet.replica("one", handle)).take("keeper")
    steps: list[Progress] = []
    assert await fleet.ask(Forget("x", yes=True), steps) == Forgotten("x" * (3 * PART))
    assert steps == [Note("0"), Note("1"), Note("2")]
    assert calls >= 3


@pytest.mark.parametrize("late", [0.0, 0.5])
async def test_a_bug_ends_the_service_and_no_other_replica_tries_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    """Also where the command has read the answer, and has gone, before the replica knows."""

    async def bug(request: Request, on_progress: OnProgress, by: int | None) -> Result:
        raise ZeroDivisionError

    one = await fleet.replica("one", bug)
    answer = one.desk._requests.answer

    async def slowly(*args: Any, **named: Any) -> bool:
        written = await answer(*args, **named)
        await asyncio.sleep(late)
        return written

    monkeypatch.setattr(one.desk._requests, "answer", slowly)
    one.take("source a")
    asking = asyncio.ensure_future(fleet.ask())
    async with asyncio.timeout(20):
        with pytest.raises(BaseExceptionGroup) as caught:
            await one._serving
    assert caught.group_contains(ZeroDivisionError)
    with pytest.raises(RelayError, match="a bug"):
        await asking
    one._serving = asyncio.ensure_future(asyncio.sleep(0))


async def test_a_request_of_another_version_is_refused(fleet: Fleet) -> None:
    (await fleet.replica("one", done)).take("source a")
    number = fleet.do(lambda db: requests.ask(db, "source a", '{"do":"dance"}', "x"))
    await until(lambda: bool(fleet.rows("answer")))
    found = fleet.do(lambda db: requests.answers(db, number, -1, 8))
    assert "does not support this request" in found.lines[0]
    assert table_desk.POLL < 1
