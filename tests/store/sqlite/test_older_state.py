"""
A state that an older commit wrote is continued where that commit left it: see fixtures/README.md.

Nothing is lost, nothing is forwarded twice, and the evidence is intact.
"""

import contextlib
import gzip
import json
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.store.sqlite.fixtures import history
from tests.store.sqlite.fixtures.history import HOUR, LEFT, MINUTE, START
from tests.support.clock import FakeClock
from tests.support.delivering import Intake, World
from tests.support.stores import (
    backlog,
    count_new,
    dead_letters,
    explained,
    opened,
    seal,
)

from auditrelay.collect.backfill import Backfiller, BackfillProgress
from auditrelay.collect.collector import Collector
from auditrelay.collect.file_collector import FileCollector
from auditrelay.errors import StateError
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.page import Page as EventPage
from auditrelay.settings import SourceSettings
from auditrelay.sinks import Rendered
from auditrelay.sources import FileSource, Page, Source, bland, cencori, jitsudo, make_file_source
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.ledger import DAY
from auditrelay.store.sql import evidence
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.state_dir import DATABASE, prepare
from auditrelay.store.sqlite.store import open_view
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros

FIXTURES = Path(__file__).with_name("fixtures")
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
"""What the older commit read from its own state."""
SETTINGS: Mapping[str, type[SourceSettings]] = {
    "voice": bland.Settings,
    "access": jitsudo.Settings,
    "exports": cencori.Settings,
}
POLLED = ("voice", "access")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state directory as the older commit left it."""
    folder = tmp_path / "state"
    prepare(folder)
    path = folder / DATABASE
    path.touch(mode=0o600)
    path.write_bytes(gzip.decompress((FIXTURES / "state.db.gz").read_bytes()))
    return folder


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[SqlStore]:
    store = await opened(folder)
    yield store
    await store.close()


@dataclass
class Vendor:
    """The API of *name*, as it goes on after the state was left."""

    name: str
    clock: Callable[[], datetime]
    asked: list[Interval] = field(default_factory=list)
    scope: str = ""

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        self.asked.append(window)
        yield Page(history.shown(self.name, window.start, window.end, self.clock()), last=True)

    async def check(self) -> str:
        return ""

    async def close(self) -> None: ...


def settings_of(name: str, **changes: Any) -> SourceSettings:
    return SETTINGS[name].model_validate({**history.SETTINGS[name], **changes})


def normalizer(name: str, settings: SourceSettings) -> Normalizer:
    return Normalizer(
        vendor=vendor_named(settings.type),
        source=name,
        api_host="",
        scope="",
        redact="default",
        tags={},
        time_path=settings.record_paths.get("time_path", ()),
    )


def collector(
    name: str,
    store: SqlStore,
    now: datetime,
    source: Source | None = None,
    **changes: Any,
) -> Collector:
    settings = settings_of(name, **changes)
    return Collector(
        name,
        settings,
        Vendor(name, lambda: now) if source is None else source,
        normalizer=normalizer(name, settings),
        store=store,
        metrics=Metrics(sources=list(history.SETTINGS), sinks=list(history.SINKS)),
        clock=FakeClock(now),
        announce=lambda: None,
    )


def reads_files(store: SqlStore, settings: SourceSettings, source: FileSource) -> FileCollector:
    return FileCollector(
        "exports",
        settings,
        source,
        normalizer=normalizer("exports", settings),
        store=store,
        metrics=Metrics(sources=list(history.SETTINGS), sinks=list(history.SINKS)),
        clock=FakeClock(LEFT),
        announce=lambda: None,
    )


def events(name: str, start: datetime, end: datetime, now: datetime) -> list[AuditEvent]:
    """Return what *name* shows from *start* to *end*, as we forward it."""
    records = history.shown(name, start, end, now)
    return list(normalizer(name, settings_of(name))(records, micros(now)))


def uids(found: list[AuditEvent]) -> list[str]:
    return [event.uid for event in found]


async def waiting(store: SqlStore, sink: str) -> list[list[Any]]:
    return [
        [page.first + place, page.source, event.uid]
        for page in await backlog(store, sink)
        for place, event in enumerate(page.events)
    ]


# --- the evidence


@pytest.mark.parametrize("name", EXPECTED["sources"])
async def test_its_ledger_says_what_it_said_and_its_journal_is_taken_over(
    folder: Path, name: str
) -> None:
    await (await opened(folder)).close()
    with open_view(folder) as view:
        known = view.coverage(name)
    assert known is not None
    expected = EXPECTED["sources"][name]
    assert [
        [
            span.interval.start.isoformat(),
            span.interval.end.isoformat(),
            span.gap,
            span.events,
        ]
        for span in known.spans
    ] == [span[:4] for span in expected["spans"]]
    found = known.facts[0].body
    assert (len(found["records"]), found["head"]) == (expected["records"], expected["head"])
    assert found["events"] >= sum(span.events for span in known.spans) > 0
    assert known.head is None, "it was not sealed yet"
    assert sum(each.events for each in known.lateness) == expected["late"]
    assert known.deleted_at_source == expected["vanished"]


async def test_its_gap_its_late_event_and_the_deleted_one_are_on_record(folder: Path) -> None:
    await (await opened(folder)).close()
    with open_view(folder) as view:
        known = view.coverage("voice")
    assert known is not None
    assert [span.interval for span in known.spans if span.gap] == [Interval(*history.GAP)]
    records = {what: digest for _, _, what, *_, digest in known.facts[0].body["records"]}
    now = START + 2 * HOUR + 10 * MINUTE  # both are shown
    by_id = {event.native_id: event for event in events("voice", START, now, now)}
    assert records["late"] == by_id[history.LATE].uid
    assert records["vanished"] == by_id[history.DELETED].uid
    with open_view(folder) as view:
        (state,) = [each for each in view.sources() if each.name == "voice"]
    (late,) = state.late
    assert (late.events, late.via.split()[-1]) == (1, "1h")
    assert late.recorded // DAY == micros(START) // DAY


@pytest.mark.parametrize("looked_for_uids_to_forget", [False, True])
async def test_it_is_explained_before_its_first_seal_and_after_it(
    folder: Path, looked_for_uids_to_forget: bool
) -> None:
    if looked_for_uids_to_forget:  # the older service did so all the time, although it found none
        with contextlib.closing(sqlite3.connect(folder / DATABASE)) as db:
            time = micros(START - timedelta(days=400))
            db.execute("insert into meta values ('forgotten_before', ?)", (time,))
            db.commit()
    store = await opened(folder)
    explained(folder)
    sealed = await seal(store)
    explained(folder, sealed=True)
    assert sealed.before is None
    await store.settle("elastic", [(0, EXPECTED["end_of_spool"])])
    await seal(store)
    await store.close()
    explained(folder, sealed=True)
    with open_view(folder) as view:
        entries = [json.loads(line) for _, line in view.read(evidence.entries)]
    first = {entry["unit"]: entry for entry in entries if entry["seq"] == 1}
    (taken_over,) = first["instance"]["facts"]
    place = EXPECTED["end_of_spool"]
    assert taken_over == {"fact": "taken_over", "schema": 2, "place": place}
    for name in EXPECTED["sources"]:
        assert first[f"source {name}"]["facts"][0]["fact"] == "taken_over"
    settled = {sink: first[f"sink {sink}"]["facts"][-1]["done"] for sink in history.SINKS}
    assert settled == {"splunk": [[0, 7], [9, 3]], "elastic": [[0, 2]]}
    (dead,) = [fact for fact in first["sink splunk"]["facts"] if fact["fact"] == "dead"]
    assert dead["each"] == [EXPECTED["dead_letters"][1][3]]


# --- collecting


@pytest.mark.parametrize("name", POLLED)
async def test_what_was_forwarded_is_known_when_it_is_shown_again(
    store: SqlStore, name: str
) -> None:
    for entry in await store.ledger(name):
        shown = events(name, entry.interval.start, entry.interval.end, LEFT)
        added = await store.add(name, EventPage.of(shown))
        if entry.gap:
            assert added.new == tuple(range(len(shown))), "it was not read"
        else:
            assert (added.new, added.known) == ((), len(shown))
            assert shown
            assert (await store.count_forwarded(name, entry.interval))[0] == entry.events


@pytest.mark.parametrize("name", POLLED)
@pytest.mark.parametrize("edit", [52, -3_000_000, 7 * 3_600_000_000, 90 * 86_400_000_000])
async def test_what_was_forwarded_is_known_when_its_time_was_edited_since(
    store: SqlStore, name: str, edit: int
) -> None:
    forwarded = [
        msgspec.structs.replace(event, at=event.at + edit)
        for entry in await store.ledger(name)
        if not entry.gap
        for event in events(name, entry.interval.start, entry.interval.end, LEFT)
    ]
    unreadable = [msgspec.structs.replace(event, time_quality="fetched") for event in forwarded]
    for shown in (forwarded, unreadable):
        assert await count_new(store, name, shown) == 0
        assert None not in await store.delivery_status(name, shown)
        added = await store.add(name, EventPage.of(shown))
        assert (added.new, added.known) == ((), len(shown))
        assert shown


async def test_its_uids_have_no_digest_and_new_ones_have_one(
    store: SqlStore, folder: Path, event: Callable[..., AuditEvent]
) -> None:
    await store.add("voice", EventPage.of([event(1)]))
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as db:
        found = db.execute("select digest from known where digest is not null").fetchall()
    assert found == [(bytes.fromhex(event(1).raw_sha256)[:8],)]


def test_the_commands_wait_for_the_service_to_upgrade_it(folder: Path) -> None:
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(StateError, match="the next start of the service upgrades it"):
        open_view(folder)
    assert (folder / DATABASE).read_bytes() == before


@pytest.mark.parametrize("name", POLLED)
async def test_polling_goes_on_where_it_stopped(store: SqlStore, name: str) -> None:
    now = LEFT + 2 * HOUR
    vendor = Vendor(name, lambda: now)
    spans = await store.ledger(name)
    before = await store.end_of_spool("voice")
    await collector(name, store, now, vendor).poll()
    assert vendor.asked[0].start == spans[-1].interval.end - 5 * MINUTE, "the overlap, no more"
    assert (await store.ledger(name))[-1].interval.end == now - MINUTE
    new = events(name, spans[-1].interval.end, now - MINUTE, now)
    assert await store.end_of_spool("voice") == before + len(new)
    found = [row[2] for row in await waiting(store, "elastic") if row[0] >= before]
    assert found == uids(new)
    assert await store.resweep_from(name, HOUR) == now - HOUR


async def test_resweeps_begin_where_the_last_one_ended(store: SqlStore) -> None:
    for name in POLLED:
        until = datetime.fromisoformat(EXPECTED["sources"][name]["resweep"])
        assert await store.resweep_from(name, HOUR) == until


async def test_a_file_that_was_read_is_not_read_again(
    store: SqlStore, tmp_path: Path, folder: Path
) -> None:
    directory = tmp_path / "exports"
    directory.mkdir()
    for name in (history.EXPORT_NAME, "renamed.csv"):
        export = directory / name
        export.write_text(history.EXPORT)
        os.utime(export, (START.timestamp(), START.timestamp()))
    settings = settings_of("exports", directory=directory)
    source = make_file_source("exports", settings, Metrics(), FakeClock(LEFT))
    letters = dead_letters(folder)
    await reads_files(store, settings, source).poll()
    assert await store.end_of_spool("voice") == EXPECTED["end_of_spool"]
    assert dead_letters(folder) == letters
    other = directory / "other.csv"
    other.write_text(history.EXPORT.replace("p1", "p2"))
    os.utime(other, (START.timestamp(), START.timestamp()))
    await reads_files(store, settings, source).poll()
    assert await store.end_of_spool("voice") == EXPECTED["end_of_spool"] + 2, "another one is"


async def test_the_backfill_resumes_where_it_broke_off(store: SqlStore) -> None:
    vendor = Vendor("voice", lambda: LEFT)
    before = await store.end_of_spool("voice")

    async def ignore(_: BackfillProgress) -> None: ...

    result = await Backfiller(
        collector("voice", store, LEFT, vendor),
        store,
        span=Interval(*history.BACKFILL),
        sinks=[],
        clock=FakeClock(LEFT),
        on_progress=ignore,
    ).run(concurrency=1, newest_first=False)
    assert result.resumed
    assert min(window.start for window in vendor.asked) == history.BROKEN_OFF
    wanted = events("voice", *history.BACKFILL, LEFT)
    assert (result.events, result.new) == (len(wanted), len(wanted))
    rest = events("voice", history.BROKEN_OFF, START, LEFT)
    found = [row[2] for row in await waiting(store, "elastic") if row[0] >= before]
    assert found == uids(rest)
    assert await count_new(store, "voice", wanted) == 0
    again = await store.begin_backfill("voice", Interval(*history.BACKFILL), [], LEFT)
    assert again.done == (), "that one has ended, this is another"


# --- delivering


@pytest.mark.parametrize("sink", history.SINKS)
async def test_the_backlog_is_delivered_exactly_from_where_it_stood(
    store: SqlStore, folder: Path, event: Callable[..., AuditEvent], sink: str
) -> None:
    expected = EXPECTED["sinks"][sink]
    assert await waiting(store, sink) == expected["waiting"]
    assert len(await backlog(store, sink)) == expected["pages"]
    (state,) = [each for each in await store.sinks() if each.name == sink]
    assert (state.position, state.backlog_events) == (expected["position"], expected["backlog"])

    class Uids(Intake):
        def rendered(self, event: AuditEvent, now: int) -> Rendered:
            return Rendered(json.dumps({"id": event.uid}).encode())

    world = World(store, folder, Metrics(sinks=list(history.SINKS)), event, FakeClock())
    intake = Uids()
    await world.run(intake, name=sink)
    assert intake.taken == [uid for _, _, uid in expected["waiting"]]
    assert await world.backlog(sink) == 0
    (state,) = [each for each in await store.sinks() if each.name == sink]
    assert state.position == EXPECTED["end_of_spool"]


async def test_its_dead_letters_are_listed_and_replayed(store: SqlStore, folder: Path) -> None:
    letters = dead_letters(folder)
    assert [
        [each.id, each.sink, each.source, each.letter.event.uid, each.letter.reason]
        for each in letters
    ] == EXPECTED["dead_letters"]
    row, refused = letters
    assert (row.sink, row.letter.reason, refused.sink) == (None, "bad_row", "splunk")
    assert await store.delivery_status("exports", [row.letter.event, refused.letter.event]) == [
        {"splunk": "dead_letter", "elastic": "dead_letter"},
        {"splunk": "dead_letter", "elastic": "waiting"},
    ]
    sent = await store.replay([each.id for each in letters])
    assert sent == letters
    end = EXPECTED["end_of_spool"]
    new = {
        sink: [each for each in await waiting(store, sink) if each[0] >= end]
        for sink in history.SINKS
    }
    of_the_row, of_splunk = (
        [end + place, "exports", each.letter.event.uid] for place, each in enumerate(letters)
    )
    assert new == {"splunk": [of_the_row, of_splunk], "elastic": [of_the_row]}
    await store.settle("splunk", [(0, end + 2)])
    assert dead_letters(folder) == []


# --- health


async def test_the_health_of_its_sources_and_sinks_is_restored(
    store: SqlStore, folder: Path, event: Callable[..., AuditEvent]
) -> None:
    now = LEFT + HOUR
    sources = {state.name: state.condition for state in await store.sources()}
    assert sources == {
        name: SourceCondition(**each["condition"]) for name, each in EXPECTED["sources"].items()
    }
    access = collector("access", store, now)
    access.restore(sources["access"])
    assert sources["access"].held
    assert access.condition.since == LEFT.isoformat(), "it has been held since then"
    voice = collector("voice", store, now)
    voice.restore(sources["voice"])
    assert voice.condition.last_event_at == sources["voice"].last_event_at
    assert voice.condition.last_poll_at == LEFT.isoformat()

    sinks = {state.name: state.condition for state in await store.sinks()}
    saved = {name: dict(each["condition"]) for name, each in EXPECTED["sinks"].items()}
    assert sinks == {
        name: SinkCondition(**each, breaker_reason=reason)
        for name, each in saved.items()
        for reason in (each.pop("flood"),)
    }
    world = World(store, folder, Metrics(sinks=list(history.SINKS)), event, FakeClock())
    elastic = world.deliverer(Intake(), name="elastic")
    elastic.restore(sinks["elastic"])
    assert (elastic.condition.held, elastic.condition.breaker_reason) == (True, "mapping")
    assert elastic.condition.since == (START + HOUR).isoformat()
    assert elastic.condition.last_error == sinks["elastic"].last_error
    splunk = world.deliverer(Intake(), name="splunk")
    splunk.restore(sinks["splunk"])
    assert splunk.condition.last_delivered_at == LEFT.isoformat()


async def test_its_events_and_uids_are_pruned_and_forgotten_in_time(store: SqlStore) -> None:
    for sink in history.SINKS:
        await store.settle(sink, [(0, EXPECTED["end_of_spool"])])
    assert await store.prune(LEFT + timedelta(days=6)) == 0
    assert await store.prune(LEFT + timedelta(days=8)) == EXPECTED["end_of_spool"]
    assert store.spool_bytes == 0
    shown = events("voice", START, START + HOUR, LEFT)
    assert await count_new(store, "voice", shown) == 0
    await store.prune(LEFT + timedelta(days=401))
    assert await count_new(store, "voice", shown) == len(shown)
