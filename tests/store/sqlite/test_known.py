"""A known event is not spooled again, until its uid is forgotten."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.support.stores import NOON, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.sqlite.store import SqliteStore

Make = Callable[..., AuditEvent]


async def test_a_known_event_is_not_spooled_again(store: SqliteStore, event: Make) -> None:
    first = await store.add("voice", Page.of([event(1), event(2)]))
    again = await store.add("voice", Page.of([event(2), event(3), event(1), event(3)]))
    assert (first.new, first.known) == ((0, 1), 0)
    assert (again.new, again.known) == ((1,), 3)
    assert await uids(store) == [event(n).uid for n in (1, 2, 3)]


@pytest.mark.parametrize("at", [-62135596800_000_000, 16725225600_000_000])
async def test_an_event_of_the_year_1_or_2500_is_known_again(
    store: SqliteStore, event: Make, at: int
) -> None:
    assert (await store.add("voice", Page.of([event(1, at=at)]))).new == (0,)
    assert (await store.add("voice", Page.of([event(1, at=at)]))).new == ()


async def test_an_event_without_a_time_of_its_own_is_known_again(
    store: SqliteStore, event: Make
) -> None:
    assert (await store.add("voice", Page.of([event(1, at=5, time_quality="fetched")]))).new == (0,)
    assert (await store.add("voice", Page.of([event(1, at=9, time_quality="fetched")]))).new == ()


async def test_two_sources_know_their_own_events(store: SqliteStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.add("voice", Page.of([event(1)]))
    assert (await store.add("other", Page.of([event(1)]))).new == (0,)


async def test_pruning_forgets_no_uid_before_its_time(store: SqliteStore, event: Make) -> None:
    timeless = event(2, time_quality="fetched")
    await store.add("voice", Page.of([event(1), timeless]))
    await store.prune(NOON + timedelta(days=399))
    assert (await store.add("voice", Page.of([event(1)]))).new == ()
    await store.prune(NOON + timedelta(days=401))
    assert (await store.add("voice", Page.of([event(1), timeless]))).new == (0,)
