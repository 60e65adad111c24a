"""A disk that is full, or nearly."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.stores import uids

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.engine import SqliteEngine

Make = Callable[..., AuditEvent]


async def test_a_full_disk_stops_collecting_and_still_takes_positions(
    store: SqlStore, event: Make, tmp_path: Path
) -> None:
    await store.add("voice", Page.of([event(n) for n in range(100)]))
    (pages,) = await store._engine.write(lambda db: db.execute("pragma page_count").fetchone())
    await store._engine.write(
        lambda db: db.execute(f"pragma max_page_count = {pages + 2}").fetchall()
    )
    with pytest.raises(StoreFull):
        await store.add("voice", Page.of([event(n, message="x" * 9 * n) for n in range(100, 4000)]))
    assert not (tmp_path / "ballast").exists()
    await store.settle("splunk", [(0, 100)])
    assert await uids(store) == []
    await store._engine.write(lambda db: db.execute("pragma max_page_count = 1000000").fetchall())
    assert await store.make_room()
    assert (await store.add("voice", Page.of([event(100)]))).new == (0,)
    assert store.spool_bytes == sum(
        row[0]
        for row in await store._read(lambda db: db.execute("select bytes from spool").fetchall())
    )


async def test_a_page_is_refused_while_a_nearly_full_disk_still_takes_verdicts(
    store: SqlStore, event: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.add("voice", Page.of([event(1)]))
    left = SimpleNamespace(f_bavail=100, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: left)
    with pytest.raises(StoreFull, match="409,600 bytes left"):
        await store.add("voice", Page.of([event(2)]))
    assert (tmp_path / "ballast").exists(), "the reserve is for verdicts"
    await store.settle("splunk", [(0, 1)])
    left.f_bavail = 1000
    assert (await store.add("voice", Page.of([event(2)]))).new == (0,)


async def test_what_the_log_has_yet_to_bring_into_the_database_needs_room_as_well(
    store: SqlStore, event: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was moved into the database yet: it grows by about what the log has."""
    noise = random.Random(1)
    page = Page.of([event(n, message=noise.randbytes(900).hex()) for n in range(1500)])
    await store.add("voice", page)
    log = (tmp_path / "state.db-wal").stat().st_size
    grown = log - (tmp_path / "state.db").stat().st_size
    assert grown > 1 << 20
    left = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: left)
    left.f_bavail = 600_000  # enough for a page
    with pytest.raises(StoreFull):
        await store.add("voice", Page.of([event(9000)]))
    asked: list[str] = []
    engine = store._engine
    assert isinstance(engine, SqliteEngine)
    raw = engine._writer._db
    await engine.write(lambda _: raw.set_trace_callback(asked.append))
    left.f_bavail = 600_000 + log
    assert (await store.add("voice", Page.of([event(9000)]))).new == (0,)
    await engine.write(lambda _: raw.set_trace_callback(None))
    assert asked, "the statements were seen"
    assert not [each for each in asked if "page_count" in each], "a disk with room costs no look"
