"""Export files: each is read once, and a rejected one is reported."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import HOUR, NOON, SECOND, World
from tests.support.daemon import eventually
from tests.support.stores import counted, dead_letters

from auditrelay.collect.file_collector import FileCollector
from auditrelay.errors import Rejected
from auditrelay.sources import BadRow, ExportFile, ExportPage, cencori
from auditrelay.store.sqlite.store import open_view
from auditrelay.window import Interval

COVERED = Interval(NOON - HOUR, NOON)


@dataclass
class Folder:
    """A source of files, which are lists of pages by name; a file without pages is rejected."""

    scope: str = ""
    contents: dict[str, list[ExportPage]] = field(default_factory=dict)

    async def files(
        self, known: Callable[[bytes], Awaitable[bool]], _: datetime
    ) -> AsyncGenerator[ExportFile, None]:
        for name in self.contents:
            if not await known(name.encode()):
                yield ExportFile(name.encode(), name, 0, self._pages(name))

    async def _pages(self, name: str) -> AsyncGenerator[ExportPage, None]:
        for page in self.contents[name]:
            yield page
        if not self.contents[name]:
            raise Rejected(f"{name} is no export", reason="no_export")

    async def check(self) -> str:
        return ""

    async def close(self) -> None: ...


def record(number: int) -> bytes:
    at = NOON - HOUR + number * SECOND
    return b'{"id":"r%d","event_type":"auth.logout","created_at":"%b"}' % (
        number,
        at.isoformat().encode(),
    )


@dataclass
class Rig:
    """A folder, and the collector that reads it."""

    world: World
    folder: Folder
    collector: FileCollector

    async def poll(self) -> None:
        await self.collector.poll()


@pytest.fixture
async def rig(world: World) -> Rig:
    settings = cencori.Settings.model_validate(
        {"type": "cencori", "mode": "files", "directory": world.folder}
    )
    folder = Folder()
    collector = FileCollector(
        "calls",
        settings,
        folder,
        normalizer=world.normalizer("calls"),
        store=world.store,
        metrics=world.metrics,
        clock=world.clock,
        announce=lambda: None,
    )
    return Rig(world, folder, collector)


async def test_a_file_is_read_once_and_covers_what_it_claims(rig: Rig) -> None:
    rig.folder.contents["a.csv"] = [
        ExportPage([record(1), record(2)], last=False),
        ExportPage([record(3)], last=True, covers=(COVERED,)),
    ]
    with capture_logs() as logs:
        await rig.poll()
        await rig.poll()
    assert await rig.world.names() == ["r1", "r2", "r3"]
    assert await rig.world.covered() == [(COVERED, None)]
    [line] = [line for line in logs if line["event"] == "file_collected"]
    assert (line["file"], line["events"], line["new"]) == ("a.csv", 3, 3)


async def test_a_file_that_breaks_off_claims_nothing_and_is_read_again(rig: Rig) -> None:
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=False)]
    await rig.poll()
    assert await rig.world.covered() == []
    rig.folder.contents["a.csv"].append(ExportPage([record(2)], last=True, covers=(COVERED,)))
    await rig.poll()
    assert await rig.world.names() == ["r1", "r2"]
    assert await rig.world.covered() == [(COVERED, None)]


async def test_a_rejected_file_is_logged_once_shown_until_removed_and_blocks_no_other(
    rig: Rig,
) -> None:
    rig.folder.contents = {"bad.csv": [], "good.csv": [ExportPage([record(1)], last=True)]}
    with capture_logs() as logs:
        await rig.poll()
        await rig.poll()
    assert [line["file"] for line in logs if line["event"] == "file_rejected"] == ["bad.csv"]
    assert await rig.world.names() == ["r1"]
    condition = rig.collector.condition
    assert (condition.up, condition.held) == (True, False)
    shown = (condition.last_error, condition.error_code)
    assert shown == ("bad.csv is no export", "file_rejected")
    del rig.folder.contents["bad.csv"]
    await rig.poll()
    shown = (condition.last_error, condition.error_code)
    assert shown == (None, None)


async def test_a_row_that_is_no_record_is_a_dead_letter(rig: Rig) -> None:
    bad = BadRow(b'"half a row', 7, "a quote is left open")
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=True, bad=(bad,))]
    with capture_logs() as logs:
        await rig.poll()
    [line] = [line for line in logs if line["event"] == "row_dead_lettered"]
    assert (line["file"], line["line"]) == ("a.csv", 7)
    [letter] = dead_letters(rig.world.folder)
    assert letter.letter.reason == "bad_row"
    assert letter.letter.message == "a.csv, line 7: a quote is left open"


async def test_new_events_of_time_that_was_read_before_are_counted_as_ambiguous(rig: Rig) -> None:
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=True, covers=(COVERED,))]
    await rig.poll()
    assert rig.world.counted("events_ambiguous_total") == 0
    rig.folder.contents["b.csv"] = [
        ExportPage([record(1), record(2)], last=True, covers=(COVERED,))
    ]
    await rig.poll()
    assert await rig.world.names() == ["r1", "r2"]
    assert rig.world.counted("events_ambiguous_total") == 1


async def test_a_poll_that_finds_no_file_costs_one_write_and_one_look_at_the_ledger(
    rig: Rig,
) -> None:
    await rig.poll()
    rig.world.clock.advance(HOUR)
    with counted(rig.world.store) as calls:
        await rig.poll()
    assert calls == {"read ledger": 1, "write save_condition": 1}
    assert rig.collector.worked_once
    assert rig.collector.worked_at is None


async def test_a_file_that_is_being_read_shows_progress_and_a_poll_that_is_due_begins(
    rig: Rig,
) -> None:
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=True)]
    (begin,) = rig.collector.loops()
    polling = asyncio.ensure_future(begin())
    rested = rig.collector.polls.rested_at
    rig.world.clock.advance(HOUR)
    rig.collector.polls.due.set()
    await eventually(lambda: rig.collector.polls.rested_at > rested)
    assert await rig.world.names() == ["r1"]
    polling.cancel()
    await asyncio.wait([polling])


async def test_a_file_without_rows_does_not_cover_time_of_which_events_are_known(rig: Rig) -> None:
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=True, covers=())]
    rig.folder.contents["empty.csv"] = [ExportPage([], last=True, covers=(COVERED,))]
    with capture_logs() as logs:
        await rig.poll()
    assert await rig.world.covered() == []
    [line] = [line for line in logs if line["event"] == "file_rejected"]
    assert line["file"] == "empty.csv"
    assert "1 events are known of the time that it covers" in line["reason"]
    rig.folder.contents["quiet.csv"] = [
        ExportPage([], last=True, covers=(Interval(NOON - 3 * HOUR, NOON - 2 * HOUR),))
    ]
    await rig.poll()
    assert await rig.world.covered() == [(Interval(NOON - 3 * HOUR, NOON - 2 * HOUR), None)]


async def test_facts_say_whose_file_it_was(rig: Rig) -> None:
    rig.folder.contents["a.csv"] = [ExportPage([record(1)], last=True, covers=(COVERED,))]
    await rig.poll()
    with open_view(rig.world.folder) as view:
        known = view.coverage("calls")
    assert known is not None
    kinds = {each.body["fact"]: each.body.get("via") for each in known.facts}
    assert kinds["covered"] == kinds["accepted"] == "export a.csv of user 0"
    assert "parcel" in kinds


async def test_an_export_with_another_content_of_a_known_record_is_reported(rig: Rig) -> None:
    rig.folder.contents["a.json"] = [ExportPage([record(1), record(2)], last=True)]
    await rig.poll()
    altered = record(1).replace(b"auth.logout", b"auth.login")
    rig.folder.contents["b.json"] = [
        ExportPage([altered], last=False),
        ExportPage([record(2)], last=True, covers=(COVERED,)),
    ]
    await rig.poll()
    *_, event = await rig.world.spooled()
    assert (event.notice, event.native_id) == (True, "r1")
    assert b"auth.login" in bytes(event.raw)
    assert await rig.world.covered() == [(COVERED, None)]
