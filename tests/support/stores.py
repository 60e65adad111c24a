"""A store on either engine, the backlog of a sink, its dead letters, and calls of the store."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest import mock

from tests.support.clock import FakeClock
from tests.support.states import State, open_state, state_in

from auditrelay.clock import Clock
from auditrelay.deliver.spool import Spool
from auditrelay.events import AuditEvent
from auditrelay.evidence.auditor import program
from auditrelay.evidence.heads import Keys
from auditrelay.service.seal import head_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import SpoolPage, StoredDeadLetter
from auditrelay.store.sealing import Sealed
from auditrelay.store.sql import evidence
from auditrelay.store.sql.known_contents import KnownContents
from auditrelay.store.sql.store import SqlStore
from auditrelay.window import Interval

T = TypeVar("T")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * MINUTE, NOON + end * MINUTE)


async def opened(
    where: State | Path,
    max_bytes: int = 1 << 30,
    clock: Clock = FakeClock(NOON),  # noqa: B008  # never moved
    keys: Keys | None = None,
) -> SqlStore:
    return await open_state(where, clock=clock, max_bytes=max_bytes, keys=keys)


async def backlog(store: Spool, sink: str = "splunk") -> list[SpoolPage]:
    """Return the pages that wait for *sink*, from the first on."""
    pages, reached = await store.read(sink, None, 10_000)
    while more := (step := await store.read(sink, reached, 10_000))[0]:
        pages, reached = pages + more, step[1]
    return pages


async def uids(store: Spool, sink: str = "splunk") -> list[str]:
    return [event.uid for page in await backlog(store, sink) for event in page.events]


def dead_letters(where: State | Path, **filters: Any) -> list[StoredDeadLetter]:
    """Return the dead letters of the state, as the commands read them."""
    with state_in(where).view() as view:
        return view.dead_letters(**filters)


def explained(where: State | Path, *, sealed: bool = False) -> None:
    """
    Fail unless the facts explain the state; if it is *sealed*, there is a head.

    A log that was left is a note, once an operator has said why.
    """
    with state_in(where).view() as view:
        checked = view.check()
        lines = [line for _, line in view.read(evidence.entries)]
        words = [head.word for head in view.read(evidence.heads)]
    fair = [("note", "branch")] if sealed else [("note", "branch"), ("bad", "nothing")]
    found = [each for each in checked.findings if (each.level, each.code) not in fair]
    assert found == [], [f"{each.code} {each.where}: {each.what}" for each in found]
    if not lines:
        return
    # The auditor's program shares no code with what wrote them.
    with TemporaryDirectory() as name:
        export = Path(name)
        (export / "journal.ndjson").write_text("".join(f"{line}\n" for line in lines))
        (export / "heads.txt").write_text("".join(f"{word}\n" for word in words))
        (export / "witness.txt").write_text("".join(f"{word}\n" for word in words))
        report = program.check([export], [export / "witness.txt"], [], {}, [])
    bad = [each for each in report["findings"] if each["level"] == "bad"]
    assert bad == [], [f"{each['code']} {each['where']}: {each['what']}" for each in bad]


async def seal(store: SqlStore) -> Sealed:
    """Seal as the service does; the source of its own events is started if it is not yet."""
    await store.start_source(ALERTS, NOON)
    return await store.log.seal(head_event)


@contextmanager
def counted(store: SqlStore) -> Iterator[Counter[str]]:
    """Count in this block the writes to *store* and the reads of it, by the store's method."""
    calls = Counter[str]()
    read, write = store._read, store._engine.write

    def caller() -> str:
        frame = sys._getframe(2)
        while not any(hasattr(of, frame.f_code.co_name) for of in (SqlStore, KnownContents)):
            assert frame.f_back is not None, "no method of the store"
            frame = frame.f_back
        return frame.f_code.co_name

    async def counted_read(work: Callable[..., T]) -> T:
        calls[f"read {caller()}"] += 1
        return await read(work)

    async def counted_write(work: Callable[..., T], **named: Any) -> T:
        calls[f"write {caller()}"] += 1
        return await write(work, **named)

    with (
        mock.patch.object(store, "_read", counted_read),
        mock.patch.object(store._engine, "read", counted_read),
        mock.patch.object(store.contents, "_read", counted_read),
        mock.patch.object(store._pages, "_read", counted_read),
        mock.patch.object(store._engine, "write", counted_write),
    ):
        yield calls


async def find_new(
    store: SqlStore, source: str, uids: Sequence[str], at: Sequence[int]
) -> list[int]:
    """Return which of *uids* are not known, each once."""
    return (await store.look_up(source, uids, at, [b""] * len(uids))).new


async def count_new(store: SqlStore, source: str, events: Sequence[AuditEvent]) -> int:
    """Count the *events* of *source* whose uids are not known."""
    uids, at = [event.uid for event in events], [event.at for event in events]
    return len(await find_new(store, source, uids, at))
