"""The ledger: what is covered, with how many events, and what is a gap."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.stores import span, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Declared, Proof
from auditrelay.store.sql import intake, ledger, spool
from auditrelay.store.sql.facts import insert
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


async def test_coverage_grows_with_its_events(store: SqlStore, event: Make) -> None:
    await store.add("voice", Page.of([event(1)]), proof=Proof(covers=(span(0, 5),)))
    await store.add("voice", Page.of([event(1), event(400)]), proof=Proof(covers=(span(4, 10),)))
    (entry,) = await store.ledger("voice")
    assert (entry.interval, entry.events, entry.gap) == (span(0, 10), 2, None)


async def test_an_event_found_late_enters_the_count_of_its_own_span(
    store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1)]), proof=Proof(covers=(span(0, 5),)))
    await store.add("voice", Page.of([event(2), event(1)]), proof=Proof(covers=(span(0, 5),)))
    (entry,) = await store.ledger("voice")
    assert entry.events == 2


async def test_a_ledger_entry_ends_with_its_day(store: SqlStore) -> None:
    for hour in range(36):
        await store.add(
            "voice", Page.of([]), proof=Proof(covers=(span(hour * 60, hour * 60 + 60),))
        )
    assert len(await store.ledger("voice")) == 2


async def test_a_gap_is_declared_once_and_gives_way_to_coverage(
    store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([]), proof=Proof(covers=(span(0, 5),)))
    declares = Proof(gaps=((span(0, 20), "catch_up_limit"),))
    added = await store.add(
        "voice", Page.of([]), proof=declares, notice=lambda gap, filled: event(1)
    )
    assert added.declared == (Declared(span(5, 20), "catch_up_limit", new=True),)
    added = await store.add(
        "voice", Page.of([]), proof=declares, notice=lambda gap, filled: event(2)
    )
    assert added.declared == ()
    assert await uids(store) == [event(1).uid]
    await store.add("voice", Page.of([]), proof=Proof(covers=(span(10, 15),)))
    assert [(entry.interval, entry.gap) for entry in await store.ledger("voice")] == [
        (span(0, 5), None),
        (span(5, 10), "catch_up_limit"),
        (span(10, 15), None),
        (span(15, 20), "catch_up_limit"),
    ]


async def test_notices_are_made_before_anything_is_written(
    store: SqlStore, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def watched(step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steps.append(step)
            return work(*args, **kwargs)

        return call

    monkeypatch.setattr(spool.Spool, "append", watched("page", spool.Spool.append))
    monkeypatch.setattr(ledger, "write", watched("ledger", ledger.write))
    monkeypatch.setattr(intake, "insert", watched("facts", insert))
    await store.add(
        "voice",
        Page.of([event(1)]),
        proof=Proof(gaps=((span(0, 20), "catch_up_limit"),)),
        notice=watched("notice", lambda *_: event(2)),
    )
    assert steps == ["notice", "page", "page", "ledger", "facts"]
