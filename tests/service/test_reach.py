"""How a replica reaches the database: whether, how fast, and which one it is."""

from collections.abc import MutableMapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.clock import FakeClock

from auditrelay.service.reach import OVERDUE, SLOW, Reach
from auditrelay.store.replicas import Server, Unreachable


class Database:
    def __init__(self) -> None:
        self.server: Server | None = Server("16.4", "70", 1)

    async def ask(self) -> Server | None:
        return self.server


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def reach(database: Database, clock: FakeClock) -> Reach:
    return Reach(database.ask, clock=clock)


def fail(reach: Reach) -> None:
    with pytest.raises(Unreachable), reach.asking():
        raise Unreachable("there is none")


def events(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs]


def test_an_outage_is_logged_once_and_has_a_beginning(reach: Reach, clock: FakeClock) -> None:
    began = clock.now()
    with capture_logs() as logs:
        for _ in range(3):
            fail(reach)
            clock.advance(1)
    assert events(logs) == ["store_unreachable"]
    assert reach.away_since == began
    with reach.asking():
        pass
    assert reach.away_since is None


async def test_which_server_answers_is_asked_at_first_and_after_each_outage(
    reach: Reach, database: Database
) -> None:
    with capture_logs() as logs:
        await reach.identify()
        await reach.identify()
        fail(reach)
        await reach.identify()
    assert events(logs) == ["store_reached", "store_unreachable", "store_reached"]
    assert (logs[0]["version"], logs[0]["system"], logs[0]["timeline"]) == ("16.4", "70", 1)


async def test_another_timeline_is_a_failover(reach: Reach, database: Database) -> None:
    await reach.identify()
    fail(reach)
    database.server = Server("16.4", "70", 2)
    with capture_logs() as logs:
        await reach.identify()
    assert events(logs) == ["store_failed_over", "store_reached"]
    assert (logs[0]["former_timeline"], logs[0]["timeline"]) == (1, 2)


async def test_a_database_that_does_not_say_what_it_is_is_reached_all_the_same(
    reach: Reach, database: Database
) -> None:
    database.server = None
    with capture_logs() as logs:
        await reach.identify()
    assert events(logs) == ["store_reached"]


def test_a_slow_pulse_is_logged_when_that_begins(reach: Reach, clock: FakeClock) -> None:
    with capture_logs() as logs:
        for took in (SLOW, SLOW + 1, SLOW + 2, 0.0, SLOW + 1):
            sent, at = clock.boottime(), clock.now()
            clock.advance(took)
            reach.answered(sent, at, clock.now())
            assert reach.round_trip == took
    assert events(logs) == ["store_slow", "store_slow"]


def test_half_of_the_round_trip_is_taken_off_the_difference_of_the_clocks(
    reach: Reach, clock: FakeClock
) -> None:
    sent, at = clock.boottime(), clock.now()
    clock.advance(2)
    reach.answered(sent, at, at + timedelta(seconds=41))
    assert reach.offset == timedelta(seconds=40)
    assert reach.age() == 0
    clock.advance(5)
    assert reach.age() == 5


def test_it_is_overdue_without_an_attempt_and_never_while_the_database_is_waited_for(
    reach: Reach, clock: FakeClock
) -> None:
    with reach.asking():
        clock.advance(OVERDUE + 1)
        assert not reach.is_overdue()
        with reach.not_asking():
            assert not reach.is_overdue()
            clock.advance(OVERDUE + 1)
            assert reach.is_overdue()
        clock.advance(OVERDUE + 1)
    assert reach.is_overdue()  # the next attempt was due long ago
    with reach.asking():
        pass
    clock.advance(OVERDUE)
    assert not reach.is_overdue()
    clock.advance(1)
    assert reach.is_overdue()
