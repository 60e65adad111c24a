"""The hand-over: what the disk would return, and nothing before its commit."""

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import make_event
from tests.support.extent import extent
from tests.support.states import InFolder, State
from tests.support.stores import NOON, counted, explained, opened

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Added, Proof, Reached, SpoolPage
from auditrelay.store.sql import known, meta
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.handover import Handover
from auditrelay.store.sql.readers import all_readers
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sql.uids import Uids
from auditrelay.store.sqlite.state_dir import prepare

Make = Callable[..., AuditEvent]


@pytest.fixture
def state(tmp_path: Path) -> State:
    """On SQLite alone: where other replicas append as well, the database is asked."""
    return InFolder(tmp_path)


def shape(pages: list[SpoolPage]) -> list[tuple[int, str, list[str], int]]:
    return [(page.first, page.source, page.events.uid, page.size) for page in pages]


def uids(pages: list[SpoolPage]) -> list[str]:
    return [uid for page in pages for uid in page.events.uid]


async def add(store: SqlStore, *numbers: int, source: str = "voice") -> list[str]:
    page = Page.of([make_event(number, source=source) for number in numbers])
    await store.add(source, page)
    return page.uid


def handover_of(store: SqlStore) -> Handover:
    assert isinstance(store._shared.pages, Handover)
    return store._shared.pages


async def limit(store: SqlStore, max_bytes: int) -> None:
    """Let *store* hand over no more than *max_bytes*."""
    end, readers = await store._read(lambda db: (meta.read(db, "next_position"), all_readers(db)))
    made = Handover(readers, end, max_bytes=max_bytes)
    store._shared.pages = store._spooling._handover = store._pages._handover = made


async def test_what_was_just_stored_is_read_by_every_sink_without_the_disk(
    store: SqlStore,
) -> None:
    await store.start_sink("elastic", ["voice"])
    page = Page.of([make_event(1), make_event(2)])
    with counted(store) as calls:
        await store.add("voice", page)
        (first,), reached = await store.read("splunk", None, 10)
        (second,), _ = await store.read("elastic", None, 10)
        assert first.events is second.events is page
        assert (first.first, first.source) == (0, "voice")
        assert (await store.read("splunk", reached, 10))[0] == [], "nothing more, without the disk"
        assert calls == {"write add": 1}


async def test_works_that_run_again_since_another_failed_count_once(
    store: SqlStore, tmp_path: Path
) -> None:
    """What shares a commit is rolled back as a whole, and then each work runs a second time."""
    pages = [Page.of([make_event(n) for n in numbers]) for numbers in ((1, 2, 3), (3, 4), (1, 2))]
    new = await store.look_up("voice", pages[0].uid, pages[0].at, [b"x" * 32] * 3)
    assert new.new == [0, 1, 2]
    go_on = threading.Event()

    def odd(_: Connection) -> None:
        raise ValueError("odd")

    first = asyncio.ensure_future(store._engine.write(lambda _: go_on.wait(60)))
    works = [store.add("voice", page) for page in pages]
    again = store.resend("voice", ["splunk"], pages[:2], Proof())  # one work, two pages
    shared = asyncio.gather(*works, again, store._engine.write(odd), return_exceptions=True)
    await asyncio.sleep(0)  # now all of them wait for the first one
    go_on.set()
    *added, _, failed = await shared
    assert isinstance(failed, ValueError)
    assert [len(each.new) for each in added if isinstance(each, Added)] == [3, 1, 0]
    await first
    handed = (await store.read("splunk", None, 100))[0]
    assert uids(handed) == [make_event(number).uid for number in (1, 2, 3, 4, 1, 2, 3, 3, 4)]
    handover_of(store).restart({})  # from the disk
    assert shape((await store.read("splunk", None, 100))[0]) == shape(handed)
    stored, accepted = await store._read(
        lambda db: (
            db.execute("select sum(bytes) from spool").fetchone(),
            db.execute("select count(*) from fact where text like '%accepted%'").fetchone(),
        )
    )
    assert stored == (store.spool_bytes,)
    assert accepted == (2,)
    explained(tmp_path)


async def test_a_page_is_gone_from_memory_once_every_sink_has_read_it(store: SqlStore) -> None:
    await store.start_sink("elastic", ["voice"])
    await add(store, 1)
    await store.read("splunk", None, 10)
    assert len(handover_of(store)._pages) == 1
    await store.read("elastic", None, 10)
    assert len(handover_of(store)._pages) == 0
    with counted(store) as calls:
        assert len((await store.read("splunk", None, 10))[0]) == 1, "it is not settled yet"
        assert calls == {"read read": 1}


async def test_a_page_is_not_seen_before_it_is_durable(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    remember = known.remember

    def looks(*args: Any, **named: Any) -> None:
        """Within the transaction, and in the second work that shares it."""
        remember(*args, **named)
        seen.append(handover_of(store).read("splunk", 0, 10, 10**9))

    monkeypatch.setattr(known, "remember", looks)
    begun, go = threading.Event(), threading.Event()

    def wait(_: Connection) -> bool:
        begun.set()
        return go.wait(5)

    writes: list[Any] = [asyncio.ensure_future(store._engine.write(wait))]
    await asyncio.to_thread(begun.wait)
    writes += [asyncio.ensure_future(add(store, number)) for number in (1, 2)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*writes)
    assert seen == [([], 0, True), ([], 0, True)]
    found, _ = await store.read("splunk", None, 10)
    assert uids(found) == [make_event(1).uid, make_event(2).uid]


@pytest.mark.parametrize("error", [StoreFull("no room"), sqlite3.OperationalError("odd")])
async def test_a_page_whose_transaction_failed_is_not_handed_over(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    remember = known.remember

    def fails(db: Connection, uids: Uids, owner: int, keys: list[bytes], **named: Any) -> None:
        remember(db, uids, owner, keys, **named)
        if bytes.fromhex(make_event(2).uid) in keys[0]:
            raise error

    monkeypatch.setattr(known, "remember", fails)
    added = await asyncio.gather(
        *(add(store, number) for number in (1, 2, 3)), return_exceptions=True
    )
    assert [isinstance(each, list) for each in added] == [True, False, True]
    with counted(store) as calls:
        found, _ = await store.read("splunk", None, 10)
        assert [(page.first, page.events.uid) for page in found] == [
            (0, [make_event(1).uid]),
            (1, [make_event(3).uid]),
        ]
        assert not calls


async def test_what_is_stored_for_a_caller_that_gave_up_is_handed_over_all_the_same(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    remember = known.remember

    def slow(*args: Any, **named: Any) -> None:
        begun.set()
        go.wait(5)
        remember(*args, **named)

    monkeypatch.setattr(known, "remember", slow)
    adding = asyncio.ensure_future(add(store, 1))
    await asyncio.to_thread(begun.wait)
    adding.cancel()
    await asyncio.wait([adding])
    go.set()
    await store._engine.write(lambda _: None)
    with counted(store) as calls:
        assert uids((await store.read("splunk", None, 10))[0]) == [make_event(1).uid]
        assert not calls


async def test_what_there_is_no_room_for_is_read_from_the_disk_in_order(
    store: SqlStore,
) -> None:
    await add(store, 1)
    size = (await store.read("splunk", None, 10))[0][0].size
    await limit(store, 2 * size + 50)
    made = [await add(store, number) for number in range(10, 16)]
    assert len(handover_of(store)._pages) == 2, "the newest"
    found: list[str] = []
    with counted(store) as calls:
        pages, reached = await store.read("splunk", None, 3)
        while pages:
            found += uids(pages)
            pages, reached = await store.read("splunk", reached, 3)
        assert calls == {"read read": 2}, "then the disk was no longer needed"
    assert found == [make_event(1).uid, *(uid for (uid,) in made)]


async def test_what_the_disk_showed_before_it_was_handed_over_is_read_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader thread sees a commit before the writer thread has reported it."""
    await add(store, 1)
    await limit(store, 1 << 20)
    handover, reported = handover_of(store), list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(handover, "append", reported.append)
        await add(store, 2)
        await add(store, 3)
        pages, reached = await store.read("splunk", None, 10)
        assert len(uids(pages)) == 3
        nothing, reached = await store.read("splunk", reached, 10)
        assert nothing == []
    for each in reported:
        handover.append(each)
    nothing, reached = await store.read("splunk", reached, 10)
    assert nothing == []
    made = await add(store, 4)
    assert uids((await store.read("splunk", reached, 10))[0]) == made


async def test_a_page_of_its_own_is_not_read_by_other_sinks(store: SqlStore) -> None:
    await store.start_sink("elastic", ["voice"])
    await store.resend("voice", ["elastic"], [Page.of([make_event(1)])], Proof())
    await add(store, 2)
    with counted(store) as calls:
        assert uids((await store.read("splunk", None, 10))[0]) == [make_event(2).uid]
        assert uids((await store.read("elastic", None, 10))[0]) == [
            make_event(1).uid,
            make_event(2).uid,
        ]
        assert not calls


async def test_a_sink_of_a_quiet_source_does_not_read_the_disk_for_others(
    store: SqlStore,
) -> None:
    await store.start_source("calls", NOON)
    await store.start_sink("quiet", ["calls"])
    reached: dict[str, Reached | None] = {"splunk": None, "quiet": None}
    with counted(store) as calls:
        for number in range(5):
            await add(store, number)
            for sink, place in reached.items():
                found, reached[sink] = await store.read(sink, place, 10)
                assert len(found) == (sink == "splunk")
            assert not handover_of(store)._pages
        await add(store, 9, source="calls")
        found, _ = await store.read("quiet", reached["quiet"], 10)
        assert [page.first for page in found] == [5]
        assert calls == {"write add": 6}


async def test_what_was_settled_or_deleted_is_not_handed_over(store: SqlStore) -> None:
    await add(store, 1, 2, 3)
    await store.settle("splunk", [(1, 2)])
    found, _ = await store.read("splunk", None, 10)
    assert [page.first for page in found] == [0, 2]
    await store.settle("splunk", [(0, 3)])
    assert (await store.read("splunk", None, 10))[0] == []
    await add(store, 4)
    await store.forget("voice")
    assert (await store.read("splunk", None, 10))[0] == []


async def test_a_sink_that_gets_more_sources_reads_what_was_not_for_it_before(
    store: SqlStore,
) -> None:
    await store.start_source("calls", NOON)
    await store.start_sink("quiet", ["calls"])
    await add(store, 1)
    found, reached = await store.read("quiet", None, 10)
    assert found == []
    await store.start_sink("quiet", ["voice"])
    assert len((await store.read("quiet", reached, 10))[0]) == 1


async def test_a_retired_sink_reads_nothing_that_came_later(store: SqlStore) -> None:
    await store.start_sink("elastic", ["voice"])
    await store.retire({"elastic": ["voice"]}, ["voice"])
    await add(store, 1)
    assert (await store.read("splunk", None, 10))[0] == []
    assert len((await store.read("elastic", None, 10))[0]) == 1


# --- the property: as the disk


SINKS = {"splunk": ["voice"], "elastic": ["voice", "calls"], "quiet": ["calls"]}
sinks = st.sampled_from(sorted(SINKS))
sources = st.sampled_from(["voice", "calls"])
steps = st.one_of(
    st.tuples(st.just("add"), sources, st.integers(1, 4)),
    st.tuples(st.just("add"), sources, st.integers(1, 4)),
    st.tuples(st.just("read"), sinks, st.integers(1, 6)),
    st.tuples(st.just("read"), sinks, st.integers(1, 6)),
    st.tuples(st.just("read again"), sinks, st.integers(1, 6)),
    st.tuples(st.just("resend"), sinks, st.integers(1, 2)),
    st.tuples(st.just("settle"), sinks, st.tuples(st.integers(0, 8), st.integers(1, 4))),
    st.tuples(st.just("prune"), st.none(), st.integers(0, 9)),
    st.tuples(st.just("make room"), st.none(), st.none()),
    st.tuples(st.just("more sources"), sinks, st.none()),
    st.tuples(st.just("retire"), sinks, st.none()),
    st.tuples(st.just("forget"), sources, st.none()),
)


class Run:
    """One store, and how far each sink has read it."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.reached: dict[str, Reached | None] = {}
        self.number = 0

    async def start(self, sinks: dict[str, list[str]]) -> None:
        for source in ("voice", "calls"):
            await self.store.start_source(source, NOON - timedelta(days=7))
        for sink, sources in sinks.items():
            await self.store.start_sink(sink, sources)

    async def do(self, step: tuple[str, Any, Any]) -> object:
        what, name, value = step
        store = self.store
        if what == "add":
            numbers = range(self.number, self.number + value)
            self.number += value
            await add(store, *numbers, source=name)
        elif what in ("read", "read again"):
            reached = self.reached.get(name) if what == "read" else None
            pages, self.reached[name] = await store.read(name, reached, value)
            return shape(pages)
        elif what == "resend":
            page = Page.of([make_event(number) for number in range(value)])
            await store.resend("voice", [name], [page], Proof())
        elif what == "settle":
            start, length = value
            await store.settle(name, [(start, start + length)])
        elif what == "prune":
            await store.prune(NOON + timedelta(days=value))
        elif what == "make room":
            await store.make_room()
        elif what == "more sources":
            await store.start_sink(name, ["voice", "calls"])
        elif what == "retire":
            kept = {sink: sources for sink, sources in SINKS.items() if sink != name}
            return await store.retire(kept, ["voice", "calls"])
        elif what == "forget":
            await store.forget(name)
            await store.start_source(name, NOON)
        return None


@settings(max_examples=extent(30, 60))
@given(st.lists(steps, max_size=25), st.sampled_from([1500, 6000, 1 << 20]))
def test_whatever_happens_the_same_pages_are_read_as_from_the_disk(
    todo: list[tuple[str, Any, Any]], max_bytes: int
) -> None:
    async def both() -> None:
        runs = []
        with tempfile.TemporaryDirectory() as folder:
            for name, room in (("disk", 0), ("memory", max_bytes)):
                prepare(Path(folder, name))
                run = Run(await opened(Path(folder, name)))
                runs.append(run)
                await run.start(SINKS)
                await limit(run.store, room)
            try:
                for step in todo:
                    disk, memory = [await run.do(step) for run in runs]
                    assert memory == disk, step
                for sink in SINKS:
                    for again in ("read", "read again"):
                        disk, memory = [await run.do((again, sink, 100)) for run in runs]
                        assert memory == disk, sink
            finally:
                for run in runs:
                    await run.store.close()

    asyncio.run(both())
