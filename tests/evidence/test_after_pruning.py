"""What an auditor compares with a SIEM once nothing is left in the spool."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_event
from tests.support.histories import HOUR, SINKS, SOURCES, History, export, run
from tests.support.states import InFolder
from tests.support.stores import NOON

from auditrelay.events.notices import FILLED, GAP, SEALED
from auditrelay.events.page import Page
from auditrelay.evidence.auditor import program
from auditrelay.store import Changed, DeadLetter
from auditrelay.window import Interval, micros


async def live(history: History) -> None:
    """Let our own events of every kind be sent, then let all of the spool be pruned."""
    await history.begin()
    await history.declare("okta", Interval(NOON, NOON + HOUR), "vendor_retention")
    now = history.clock.now()
    aside = make_event(90_000, source="voice", at=micros(NOON) + 30)
    letter = DeadLetter(aside, "bad_row", "no", None, 1, now, now)
    await history.store.add("voice", Page.of([]), bad=[letter])
    for _ in range(3):
        for source in SOURCES:
            history.happen(source)
        history.clock.advance(HOUR)
        for source in SOURCES:
            await history.poll(source)
        await history.seal()
        for sink in SINKS:
            await history.deliver(sink, refuse=1)
    event = history.vendors["okta"][-1].event
    other = make_event(91_000, source="okta", at=event.at)
    changed = Changed(event.uid, event.at, b"n" * 32, other)
    assert await history.store.contents.report_changed("okta", [changed])
    with history.view() as view:
        await history.store.replay([each.id for each in view.dead_letters()])
    await history.read("okta", Interval(NOON, NOON + HOUR), via="backfill")  # the gap is filled
    for _ in range(2):
        for sink in SINKS:
            await history.deliver(sink)
        await history.seal()
    history.clock.advance(timedelta(days=8))
    await history.store.prune(history.clock.now())
    await history.end()


def rows(history: History, query: str) -> list[Any]:
    with history.state.raw() as db:
        return db.execute(query).fetchall()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(InFolder(tmp_path_factory.mktemp("pruned") / "state"))
    run(live(made))
    return made


def audit(history: History, folder: Path) -> dict[str, Any]:
    files = {"splunk": history.siems["splunk"].splunk(folder / "splunk.csv")}
    files["elastic"] = history.siems["elastic"].elastic(folder / "elastic.ndjson")
    export(history.state, folder / "export")  # not what was exported earlier
    return program.check([folder / "export"], list(files.values()), [], files, [])


def test_a_check_against_the_siem_is_whole_after_pruning(history: History, tmp_path: Path) -> None:
    assert len(rows(history, "select 1 from spool")) <= 1, "but for the newest head"
    report = audit(history, tmp_path)
    assert report["findings"] == [], report["findings"]
    events = {event.native_action for event, _ in history.siems["splunk"].rows}
    assert {SEALED, GAP, FILLED} <= events
    assert any(line.startswith("siem       splunk") for line in report["lines"])
    assert history.check().whole


def test_one_of_our_own_events_that_the_siem_lacks_is_missed(
    history: History, tmp_path: Path
) -> None:
    twin = history.twin()
    kept = [row for row in twin.siems["splunk"].rows if row[0].native_action != GAP]
    assert len(kept) < len(twin.siems["splunk"].rows)
    twin.siems["splunk"].rows = kept
    report = audit(twin, tmp_path)
    assert [each["code"] for each in report["findings"]] == ["not_in_siem"]


@pytest.mark.parametrize(
    "statement",
    [
        "delete from own_page where first = (select min(first) from own_page)",
        "update own_page set keys = zeroblob(length(keys))",
    ],
)
def test_a_uid_of_our_own_that_was_edited_is_found(
    history: History, tmp_path: Path, statement: str
) -> None:
    twin = history.twin()
    rows(twin, statement)
    assert "known" in {each.code for each in twin.check().findings}


def test_uids_of_our_own_are_forgotten_with_the_others(history: History, tmp_path: Path) -> None:
    twin = history.twin()

    async def forget() -> None:
        await twin.begin()
        twin.clock.advance(timedelta(days=400))
        await twin.poll("okta")
        await twin.seal()
        await twin.store.prune(twin.clock.now())
        await twin.end()

    before = len(rows(twin, "select 1 from own_page"))
    run(forget())
    assert len(rows(twin, "select 1 from own_page")) < before
    assert rows(twin, "select 1 from own_page"), "the newest head is remembered"
    assert [each.code for each in twin.check().findings if each.level == "bad"] == []
