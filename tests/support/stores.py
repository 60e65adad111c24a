"""A store in a folder, the backlog of a sink in it, and its dead letters."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from auditrelay.deliver.spool import Spool
from auditrelay.store import SpoolPage, StoredDeadLetter
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.store.sqlite.view import StateView
from auditrelay.window import Interval

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * MINUTE, NOON + end * MINUTE)


async def opened(folder: Path, max_bytes: int = 1 << 30) -> SqliteStore:
    return await SqliteStore.open(
        folder, max_bytes=max_bytes, retention=timedelta(days=7), remember=timedelta(days=400)
    )


async def backlog(store: Spool, sink: str = "splunk") -> list[SpoolPage]:
    """Return the pages that wait for *sink*, from the first on."""
    pages, reached = await store.read(sink, None, 10_000)
    while more := (step := await store.read(sink, reached, 10_000))[0]:
        pages, reached = pages + more, step[1]
    return pages


async def uids(store: Spool, sink: str = "splunk") -> list[str]:
    return [event.uid for page in await backlog(store, sink) for event in page.events]


def dead_letters(folder: Path, **filters: Any) -> list[StoredDeadLetter]:
    """Return the dead letters of the store in *folder*, as the commands read them."""
    with StateView(folder) as view:
        return view.dead_letters(**filters)
