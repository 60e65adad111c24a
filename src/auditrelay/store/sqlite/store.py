"""The store on one machine: SQLite in the state directory."""

import asyncio
from datetime import timedelta
from pathlib import Path

from auditrelay.clock import Clock
from auditrelay.evidence.heads import Keys
from auditrelay.store.sql.store import SqlStore, open_on
from auditrelay.store.sql.view import StateView
from auditrelay.store.sqlite.engine import SqliteEngine, snapshot
from auditrelay.store.sqlite.state_dir import connect


async def open_store(
    state_dir: Path,
    *,
    clock: Clock,
    max_bytes: int,
    retention: timedelta,
    remember: timedelta,
    keys: Keys | None = None,
) -> SqlStore:
    """Open the state in *state_dir*, creating it if there is none. Raises StateError."""
    engine = await asyncio.to_thread(SqliteEngine, state_dir, keys)
    try:
        return await open_on(
            engine, clock=clock, max_bytes=max_bytes, retention=retention, remember=remember
        )
    except BaseException:
        await asyncio.to_thread(engine.close)
        raise


def open_view(state_dir: Path, keys: Keys | None = None) -> StateView:
    """Open a view of the state in *state_dir*. Raises StateError if there is none."""
    connect(state_dir, write=False).close()
    return StateView(lambda: snapshot(state_dir, keys))
