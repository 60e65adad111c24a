"""
However much is to be deleted, no single write deletes much.

All others wait for that write, and PostgreSQL is given 30 seconds for it: if they are not enough,
they are not enough the next time either.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from tests.support.states import State, rows
from tests.support.stores import NOON, explained, opened, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.sql import known, removal, spool
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@contextlib.contextmanager
def watched(state: State, table: str) -> Iterator[Callable[[], int]]:
    """Yield what returns the most rows of *table* that one write of the block has deleted."""
    write, most = state.writer.write, 0

    def count() -> int:
        ((rows_there,),) = rows(state, f"select count(*) from {table}")
        return int(rows_there)

    left = count()

    async def counted(writer: object, *work: Any, **named: Any) -> Any:
        nonlocal most, left
        result = await write(writer, *work, **named)
        before, left = left, count()
        most = max(most, before - left)
        return result

    with mock.patch.object(state.writer, "write", counted):
        yield lambda: most


@pytest.fixture
async def filled(store: SqlStore, event: Make) -> SqlStore:
    """Seven pages of a source, all of which its sink has."""
    for number in range(7):
        await store.add("voice", Page.of([event(number)]))
    await store.settle("splunk", [(0, 7)])
    return store


LIMITS = {"pages": ("DELETED_PAGES", 2, 2), "bytes": ("DELETED_BYTES", 1, 1)}


@pytest.mark.parametrize("of", LIMITS)
async def test_what_is_old_is_pruned_in_steps(
    filled: SqlStore, state: State, event: Make, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    name, limit, most = LIMITS[of]
    monkeypatch.setattr(spool, name, limit)
    with watched(state, "spool") as most_at_once:
        assert await filled.prune(NOON + timedelta(days=8)) == 7
    assert most_at_once() == most
    assert filled.spool_bytes == 0
    explained(state)
    await filled.add("voice", Page.of([event(9)]))
    assert await uids(filled) == [event(9).uid]


async def test_room_is_made_in_steps_though_much_is_too_much(
    filled: SqlStore, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled.close()
    store = await opened(state, max_bytes=1)
    monkeypatch.setattr(spool, "DELETED_PAGES", 3)
    left = []
    while await store.make_room():
        left.append(len(rows(state, "select 1 from spool")))
    assert left == [4, 1, 0]
    explained(state)
    await store.close()


async def test_what_is_known_is_forgotten_in_steps(
    filled: SqlStore, state: State, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("other", "third"):
        await filled.start_source(name, NOON)
        await filled.add(name, Page.of([event(20)]))
    monkeypatch.setattr(known, "LOG_STEP", 1)
    with watched(state, "uid_log") as most_at_once:
        await filled.prune(NOON + timedelta(days=401))
    assert most_at_once() == 1
    assert rows(state, "select 1 from uid_log") == rows(state, "select 1 from known") == []


@pytest.mark.parametrize("table", ["spool", "uid_log"])
@pytest.mark.parametrize("name", ["voice", "splunk"])
async def test_a_source_or_a_sink_is_removed_in_steps(
    filled: SqlStore,
    state: State,
    event: Make,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    table: str,
) -> None:
    for number in range(30, 33):
        await filled.add("voice", Page.of([event(number)]))
    monkeypatch.setattr(spool, "DELETED_PAGES", 2)
    monkeypatch.setattr(removal, "LOG_STEP", 1)
    with watched(state, table) as most_at_once:
        await filled.forget(name)
    assert most_at_once() <= 2
    left = rows(state, "select 1 from spool")
    assert len(left) == (0 if name == "voice" else 10)
    assert (filled.spool_bytes > 0) == bool(left)
    explained(state)
