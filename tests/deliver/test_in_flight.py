"""What a sink has in flight: a drain waits for requests, the loop is woken, progress is shown."""

import asyncio

from tests.support.clock import FakeClock

from auditrelay.deliver.in_flight import InFlight


async def test_a_drain_waits_for_the_last_request_and_for_no_batch() -> None:
    in_flight = InFlight(FakeClock())
    in_flight.batch_started()
    in_flight.request_started()
    in_flight.request_started()
    draining = asyncio.ensure_future(in_flight.drain())
    for _ in range(2):
        await asyncio.sleep(0)
        assert not draining.done()
        in_flight.request_finished()
    async with asyncio.timeout(5):
        await draining
    assert in_flight.batches == 1


async def test_without_a_request_a_drain_ends_at_once() -> None:
    in_flight = InFlight(FakeClock())
    in_flight.batch_started()
    async with asyncio.timeout(5):
        await in_flight.drain()


async def test_a_request_that_starts_during_a_drain_is_waited_for_too() -> None:
    in_flight = InFlight(FakeClock())
    in_flight.request_started()
    draining = asyncio.ensure_future(in_flight.drain())
    await asyncio.sleep(0)
    in_flight.request_finished()
    in_flight.request_started()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not draining.done()
    in_flight.request_finished()
    async with asyncio.timeout(5):
        await draining


def test_work_is_as_old_as_the_last_start_or_end_of_a_request() -> None:
    clock = FakeClock()
    assert InFlight(clock).worked_at is None
    in_flight = InFlight(clock)
    began = clock.monotonic()
    in_flight.request_started()
    assert in_flight.worked_at == began
    clock.advance(50)
    in_flight.request_started()
    assert in_flight.worked_at == began, "a request that hangs must not be hidden by new ones"
    clock.advance(10)
    in_flight.request_finished()
    assert in_flight.worked_at == began + 60
    in_flight.request_finished()
    assert in_flight.worked_at is None


def test_progress_counts_only_while_a_request_is_open() -> None:
    clock = FakeClock()
    idle = InFlight(clock)
    idle.still_working()
    assert idle.worked_at is None
    in_flight = InFlight(clock)
    in_flight.request_started()
    clock.advance(100)
    in_flight.still_working()
    assert in_flight.worked_at == clock.monotonic()


def test_the_end_of_a_batch_frees_a_slot() -> None:
    in_flight = InFlight(FakeClock())
    in_flight.batch_started()
    in_flight.batch_started()
    assert not in_flight.slot_changed.is_set()
    in_flight.batch_finished()
    assert in_flight.batches == 1
    assert in_flight.slot_changed.is_set()
    assert not in_flight.spool_changed.is_set()


def test_a_loop_that_is_to_end_checks_the_spool_whenever_something_ends() -> None:
    in_flight = InFlight(FakeClock())
    in_flight.finish()
    assert in_flight.finishing
    assert in_flight.spool_changed.is_set()
    in_flight.spool_changed.clear()
    in_flight.batch_started()
    in_flight.batch_finished()
    assert in_flight.spool_changed.is_set()
