"""A disk that is full, or nearly."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.stores import uids

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.sql.store import SqlStore

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
