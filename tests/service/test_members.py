"""Two members on a server, with their loops running: the rows are what is in memory elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from uuid import uuid4

import pytest
from tests.service.rows import FakeInstance
from tests.support.clock import FakeClock
from tests.support.replicas import connection
from tests.support.shared_state import make_schema, rows

from auditrelay.service.member import Member
from auditrelay.service.membership import Loss
from auditrelay.store.leases import KEEPER
from auditrelay.store.postgres.membership import PostgresMembership
from auditrelay.store.replicas import Card, Served

pytestmark = pytest.mark.process

UNITS = ["source a", "source b", "sink x", "sink y", KEEPER]


@pytest.fixture
def speed() -> float:
    return 10.0  # of the clocks of the replicas; that of the database runs as it does


@pytest.fixture
def prepare() -> Callable[[str], object]:
    return make_schema


class Running:
    """A member whose loop runs."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.instance = FakeInstance()
        self.membership = PostgresMembership(partial(connection, url), uuid4())
        card = Card(name="r", version="1", serves={unit: Served("") for unit in UNITS})
        self.member = Member(self.membership, self.instance, card, clock=clock)
        self.pulsing = asyncio.ensure_future(self.member.keep_pulsing())

    @property
    def running(self) -> set[str]:
        return set(self.instance.running)

    async def end(self) -> None:
        self.pulsing.cancel()
        await asyncio.wait([self.pulsing])
        await self.membership.close()


@pytest.fixture
async def start(database: str, clock: FakeClock) -> AsyncIterator[Callable[[], Running]]:
    async with contextlib.AsyncExitStack() as stack:

        def start() -> Running:
            made = Running(database, clock)
            stack.push_async_callback(made.end)
            return made

        yield start


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # other tasks and the database change it
            await asyncio.sleep(0.01)


async def test_two_share_the_work_and_the_one_that_is_left_has_all_of_it(
    start: Callable[[], Running], database: str
) -> None:
    one = start()
    await until(lambda: one.running == set(UNITS))
    two = start()
    await until(lambda: len(two.running) >= 2)
    await until(lambda: one.running | two.running == set(UNITS))
    assert not one.running & two.running
    assert {why for _, why in one.instance.lost} == {Loss.MOVED}
    one.member.drain()
    async with asyncio.timeout(20):
        await one.pulsing
    await until(lambda: two.running == set(UNITS))
    assert rows(database, "select count(*) from replica") == [(1,)]


async def test_what_a_killed_one_held_is_taken_once_both_witnesses_say_so(
    start: Callable[[], Running], database: str
) -> None:
    one, two = start(), start()
    await until(lambda: one.member.joined.is_set() and two.member.joined.is_set())
    await until(lambda: one.running | two.running == set(UNITS))
    one.pulsing.cancel()  # and nothing is given
    await asyncio.wait([one.pulsing])
    rows(
        database,
        "update replica set expires = clock_timestamp() - interval '1 s' where id = %s",
        one.member.me,
    )
    await until(lambda: two.running == set(UNITS))
