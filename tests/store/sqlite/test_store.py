import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from auditrelay.errors import StateError, StoreFull
from auditrelay.events import AuditEvent
from auditrelay.store import DeadLetter, Declared, Proof
from auditrelay.store.sqlite import schema
from auditrelay.store.sqlite import state_dir as files
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.store.sqlite.view import StateView
from auditrelay.window import Interval

Make = Callable[..., AuditEvent]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * MINUTE, NOON + end * MINUTE)


async def opened(folder: Path, max_bytes: int = 1 << 30) -> SqliteStore:
    return await SqliteStore.open(
        folder, max_bytes=max_bytes, retention=timedelta(days=7), remember=timedelta(days=400)
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    files.prepare(tmp_path)
    store = await opened(tmp_path)
    await store.start_source("voice", NOON - timedelta(days=7))
    await store.start_sink("splunk", ["voice"])
    yield store
    await store.close()


async def uids(store: SqliteStore, sink: str = "splunk", after: int = 0) -> list[str]:
    return [event.uid for page in await store.read(sink, after, 10_000) for event in page.events]


async def test_a_start_is_stored_once_and_for_all(store: SqliteStore) -> None:
    assert await store.start_source("voice", NOON) == NOON - timedelta(days=7)


async def test_a_known_event_is_not_spooled_again(store: SqliteStore, event: Make) -> None:
    first = await store.add("voice", [event(1), event(2)])
    again = await store.add("voice", [event(2), event(3), event(1), event(3)])
    assert (first.new, first.known) == ((0, 1), 0)
    assert (again.new, again.known) == ((1,), 3)
    assert await uids(store) == [event(n).uid for n in (1, 2, 3)]


async def test_events_survive_a_restart_with_everything_in_them(
    tmp_path: Path, store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [event(1, tags=(("team", "blue"),), late_by_s=5)])
    await store.close()
    second = await opened(tmp_path)
    (page,) = await second.read("splunk", 0, 10)
    assert page.events == [event(1, tags=(("team", "blue"),), late_by_s=5)]
    assert (await second.add("voice", [event(1)])).new == ()
    await second.close()


@pytest.mark.parametrize("at", [-62135596800_000_000, 16725225600_000_000])
async def test_an_event_of_the_year_1_or_2500_is_known_again(
    store: SqliteStore, event: Make, at: int
) -> None:
    assert (await store.add("voice", [event(1, at=at)])).new == (0,)
    assert (await store.add("voice", [event(1, at=at)])).new == ()


async def test_an_event_without_a_time_of_its_own_is_known_again(
    store: SqliteStore, event: Make
) -> None:
    assert (await store.add("voice", [event(1, at=5, time_quality="fetched")])).new == (0,)
    assert (await store.add("voice", [event(1, at=9, time_quality="fetched")])).new == ()


async def test_two_sources_know_their_own_events(store: SqliteStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.add("voice", [event(1)])
    assert (await store.add("other", [event(1)])).new == (0,)


async def test_coverage_grows_with_its_events_and_one_digest(
    store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [event(1)], proof=Proof(covers=(span(0, 5),)))
    await store.add("voice", [event(1), event(400)], proof=Proof(covers=(span(4, 10),)))
    (entry,) = await store.ledger("voice")
    assert (entry.interval, entry.events, entry.gap) == (span(0, 10), 2, None)
    assert int(entry.digest, 16) == int(event(1).uid, 16) ^ int(event(400).uid, 16)


async def test_an_event_found_late_enters_the_count_of_its_own_span(
    store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [event(1)], proof=Proof(covers=(span(0, 5),)))
    await store.add("voice", [event(2), event(1)], proof=Proof(covers=(span(0, 5),)))
    (entry,) = await store.ledger("voice")
    assert entry.events == 2
    assert int(entry.digest, 16) == int(event(1).uid, 16) ^ int(event(2).uid, 16)


async def test_a_ledger_entry_ends_with_its_day(store: SqliteStore) -> None:
    for hour in range(36):
        await store.add("voice", [], proof=Proof(covers=(span(hour * 60, hour * 60 + 60),)))
    assert len(await store.ledger("voice")) == 2


async def test_a_gap_is_declared_once_and_gives_way_to_coverage(
    store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [], proof=Proof(covers=(span(0, 5),)))
    declares = Proof(gaps=((span(0, 20), "catch_up_limit"),))
    added = await store.add("voice", [], proof=declares, notice=lambda gap, filled: event(1))
    assert added.declared == (Declared(span(5, 20), "catch_up_limit", new=True),)
    added = await store.add("voice", [], proof=declares, notice=lambda gap, filled: event(2))
    assert added.declared == ()
    assert await uids(store) == [event(1).uid]
    await store.add("voice", [], proof=Proof(covers=(span(10, 15),)))
    assert [(entry.interval, entry.gap) for entry in await store.ledger("voice")] == [
        (span(0, 5), None),
        (span(5, 10), "catch_up_limit"),
        (span(10, 15), None),
        (span(15, 20), "catch_up_limit"),
    ]


async def test_a_new_sink_begins_at_the_end_and_an_old_one_where_it_was(
    store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [event(1)])
    await store.start_sink("later", ["voice"])
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", [event(2)])
    assert await uids(store, "later") == [event(2).uid]
    assert await uids(store, "splunk") == [event(1).uid, event(2).uid]


async def test_a_sink_reads_only_its_own_sources(store: SqliteStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.start_sink("both", ["other", "voice"])
    await store.add("other", [event(1)])
    await store.add("voice", [event(2)])
    assert await uids(store, "splunk") == [event(2).uid]
    assert await uids(store, "both") == [event(1).uid, event(2).uid]


async def test_the_position_is_the_end_of_the_contiguous_part(
    store: SqliteStore, event: Make
) -> None:
    await store.add("voice", [event(n) for n in range(10)])
    await store.settle("splunk", [(4, 6), (8, 9)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (0, 7)
    assert await uids(store) == [event(n).uid for n in (0, 1, 2, 3, 6, 7, 9)]
    await store.settle("splunk", [(0, 4)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (6, 3)
    assert await uids(store) == [event(n).uid for n in (6, 7, 9)]


async def test_reading_goes_on_after_a_position_and_stops_at_enough(
    store: SqliteStore, event: Make
) -> None:
    for page in range(5):
        await store.add("voice", [event(page * 10 + n) for n in range(10)])
    pages = await store.read("splunk", 15, 12)
    assert [(page.first, len(page.events)) for page in pages] == [(15, 5), (20, 10)]


async def test_dead_letters_and_the_position_are_one_write(
    store: SqliteStore, event: Make, tmp_path: Path
) -> None:
    await store.add("voice", [event(1)])
    letter = DeadLetter(event(1), "rejected", "field too long", 400, 3, NOON, NOON + MINUTE)
    await store.settle("splunk", [(0, 1)], [letter])
    with StateView(tmp_path) as view:
        (found,) = view.dead_letters()
        assert (found.sink, found.source, found.letter) == ("splunk", "voice", letter)
        assert view.dead_letters(reasons=["other"]) == []
        assert view.dead_letters(sinks=["splunk"], ids=[found.id]) == [found]
        (sink,) = view.sinks()
    assert (sink.backlog_events, sink.dead_letters) == (0, 1)


async def test_only_what_every_sink_has_and_retention_has_passed_is_pruned(
    store: SqliteStore, event: Make
) -> None:
    await store.start_sink("slow", ["voice"])
    await store.add("voice", [event(1)])
    await store.add("voice", [event(2)])
    later = datetime.now(UTC) + timedelta(days=8)
    await store.settle("splunk", [(0, 2)])
    assert await store.prune(later) == 0
    await store.settle("slow", [(0, 1)])
    assert await store.prune(datetime.now(UTC)) == 0
    assert await store.prune(later) == 1
    assert await uids(store, "slow") == [event(2).uid]
    await store.settle("slow", [(1, 2)])
    await store.prune(later)
    assert store.spool_bytes == 0
    assert (await store.add("voice", [event(3)])).new == (0,)
    assert await uids(store) == [event(3).uid]


async def test_pruning_forgets_no_uid_before_its_time(store: SqliteStore, event: Make) -> None:
    timeless = event(2, time_quality="fetched")
    await store.add("voice", [event(1), timeless])
    await store.prune(NOON + timedelta(days=399))
    assert (await store.add("voice", [event(1)])).new == ()
    await store.prune(NOON + timedelta(days=401))
    assert (await store.add("voice", [event(1), timeless])).new == (0,)


async def test_a_sink_that_is_gone_keeps_its_backlog_and_gets_nothing_more(
    store: SqliteStore, event: Make
) -> None:
    await store.start_sink("gone", ["voice"])
    await store.add("voice", [event(1)])
    assert await store.retire_sinks(["splunk"]) == ("gone",)
    await store.add("voice", [event(2)])
    later = datetime.now(UTC) + timedelta(days=8)
    await store.settle("splunk", [(0, 2)])
    assert await store.prune(later) == 0
    assert {sink.name: sink.backlog_events for sink in await store.sinks()} == {
        "gone": 1,
        "splunk": 0,
    }
    await store.start_sink("gone", ["voice"])
    assert await uids(store, "gone") == [event(1).uid, event(2).uid]


async def test_a_full_spool_takes_nothing_and_gives_up_delivered_events_first(
    tmp_path: Path, event: Make
) -> None:
    store = await opened(tmp_path, max_bytes=700)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", [event(1)])
    await store.add("voice", [event(2)])
    with pytest.raises(StoreFull):
        await store.add("voice", [event(3)])
    assert not await store.make_room()
    assert await uids(store) == [event(1).uid, event(2).uid]
    with pytest.raises(StoreFull):
        await store.add("voice", [event(3)])
    assert store.spool_bytes < 700
    await store.settle("splunk", [(0, 2)])
    assert await store.make_room()
    assert (await store.add("voice", [event(3)])).new == (0,)
    assert await uids(store) == [event(3).uid]
    await store.close()


async def test_a_full_disk_stops_collecting_and_still_takes_positions(
    store: SqliteStore, event: Make, tmp_path: Path
) -> None:
    await store.add("voice", [event(n) for n in range(100)])
    (pages,) = await store._writer.write(lambda db: db.execute("pragma page_count").fetchone())
    await store._writer.write(
        lambda db: db.execute(f"pragma max_page_count = {pages + 2}").fetchall()
    )
    with pytest.raises(StoreFull):
        await store.add("voice", [event(n, message="x" * 9 * n) for n in range(100, 4000)])
    assert not (tmp_path / "ballast").exists()
    await store.settle("splunk", [(0, 100)])
    assert await uids(store) == []
    await store._writer.write(lambda db: db.execute("pragma max_page_count = 1000000").fetchall())
    assert await store.make_room()
    assert (await store.add("voice", [event(100)])).new == (0,)
    assert store.spool_bytes == sum(
        row[0]
        for row in await store._read(lambda db: db.execute("select bytes from spool").fetchall())
    )


async def test_one_failing_write_leaves_its_neighbours_alone(
    store: SqliteStore, event: Make
) -> None:
    results = await asyncio.gather(
        store.add("voice", [event(1)]),
        store.add("never-started", [event(2)]),
        store.add("voice", [event(3)]),
        return_exceptions=True,
    )
    assert isinstance(results[1], KeyError)
    assert await uids(store) == [event(1).uid, event(3).uid]


# -- the file -------------------------------------------------------------------------------------


async def test_the_state_directory_is_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    files.prepare(folder)
    await (await opened(folder)).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_overwriting(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)


def damage_by_replacing(path: Path) -> None:
    path.write_bytes(b"this is not a database\n" * 1000)


@pytest.mark.parametrize(
    "damage",
    [damage_by_emptying, damage_by_cutting, damage_by_overwriting, damage_by_replacing],
)
async def test_a_damaged_file_is_refused_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    await (await opened(tmp_path)).close()
    path = tmp_path / files.DATABASE
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StateError, match="damaged"):
        await opened(tmp_path)
    assert path.read_bytes() == before


async def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / files.DATABASE)) as db:
        db.execute(f"pragma user_version = {schema.SCHEMA_VERSION + 1}")
    with pytest.raises(StateError, match="newer"):
        await opened(tmp_path)


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / files.DATABASE)) as db:
        db.execute("create table theirs (a)")
    with pytest.raises(StateError, match="not one of auditrelay"):
        await opened(tmp_path)


async def test_a_lost_file_beside_its_log_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / f"{files.DATABASE}-wal").write_bytes(b"x")
    with pytest.raises(StateError, match="missing"):
        await opened(tmp_path)


async def test_a_creation_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / f"{files.DATABASE}.new").write_bytes(b"half")
    await (await opened(tmp_path)).close()


def test_a_second_instance_is_told_who_holds_the_state(tmp_path: Path) -> None:
    child = (
        "import sys; from pathlib import Path; from auditrelay.store.sqlite import state_dir as files\n"
        "with files.locked(Path(sys.argv[1]), '9.9'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        words = f"auditrelay 9.9, process {holder.pid} on .* since"
        with pytest.raises(StateError, match=words), files.locked(tmp_path, "1.0"):
            pass
        holder.stdin.close()
    with files.locked(tmp_path, "1.0"):
        pass
