"""A store in a folder, and the backlog of a sink in it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.window import Interval

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * MINUTE, NOON + end * MINUTE)


async def opened(folder: Path, max_bytes: int = 1 << 30) -> SqliteStore:
    return await SqliteStore.open(
        folder, max_bytes=max_bytes, retention=timedelta(days=7), remember=timedelta(days=400)
    )


async def uids(store: SqliteStore, sink: str = "splunk", after: int = 0) -> list[str]:
    return [event.uid for page in await store.read(sink, after, 10_000) for event in page.events]
