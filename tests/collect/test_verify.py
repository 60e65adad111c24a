"""A past range compared with its source: missing events, deleted events, repairs."""

import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.collecting import DAY, HOUR, NOON, SECOND, World
from tests.support.stores import backlog, explained

from auditrelay.collect.collector import Collector
from auditrelay.collect.verify import NO_EXCLUDES, Deleted, Verifier, VerifyReport
from auditrelay.errors import Refused
from auditrelay.events import AuditEvent
from auditrelay.events.exclude import Exclude
from auditrelay.sources import Page
from auditrelay.store import RejectedEvent
from auditrelay.store.keys import known_key
from auditrelay.store.sqlite.state_dir import DATABASE
from auditrelay.store.sqlite.store import open_view
from auditrelay.window import Interval

MINUTE = timedelta(minutes=1)
LAST_HOUR = Interval(NOON - HOUR, NOON - MINUTE)


@pytest.fixture
def sinks() -> tuple[str, ...]:
    return ("sink", "other")


class Index:
    """A sink that can be asked, and that finds its events *after* so many questions."""

    def __init__(self, lacks: Sequence[str] = (), *, after: int = 0) -> None:
        self.lacks = list(lacks)
        self.after = after
        self.asked: list[list[str]] = []

    async def find_stored(self, events: Sequence[AuditEvent]) -> frozenset[str]:
        self.asked.append([event.native_id or "" for event in events])
        slow = len(self.asked) <= self.after
        return frozenset(
            event.uid for event in events if not slow and event.native_id not in self.lacks
        )


async def verify(
    world: World,
    collector: Collector | None = None,
    *,
    span: Interval = LAST_HOUR,
    repair: bool = False,
    excludes: Mapping[str, Exclude] = NO_EXCLUDES,
    **searchable: Index,
) -> VerifyReport:
    async def silent(_: object) -> None: ...

    return await Verifier(
        collector or world.collector(),
        world.store,
        span=span,
        sinks=["sink", "other"],
        searchable=searchable,
        excludes=excludes,
        repair=repair,
        clock=world.clock,
        on_progress=silent,
    ).run()


async def read_all(world: World, count: int) -> list[str]:
    """Add *count* events of the last hour, poll them, and settle them for both sinks."""
    made = [world.vendor.add(NOON - 50 * MINUTE + number * SECOND) for number in range(count)]
    await world.collector().poll()
    for sink in ("sink", "other"):
        await world.store.settle(sink, [(0, count)])
    return made


def missing(report: VerifyReport) -> list[tuple[str, list[str]]]:
    return [(str(row.native_id), list(row.sinks)) for row in report.missing]


async def test_where_nothing_is_missing_both_digests_are_equal(world: World) -> None:
    await read_all(world, 10)
    world.vendor.background.clear()
    report = await verify(world)
    assert set(world.vendor.background) == {True}, "the source itself is asked, behind the polls"
    assert (report.checked, report.forwarded) == (10, 10)
    assert report.digest_at_source == report.digest_forwarded != "0" * 40
    assert missing(report) == []
    assert report.sinks == {"sink": {"delivered": 10}, "other": {"delivered": 10}}
    assert (report.deleted_at_source, report.not_shown, report.asked_at_sink) == ((), (), ())


async def test_what_was_never_forwarded_is_missing_in_every_sink(world: World) -> None:
    await read_all(world, 10)
    lost = world.vendor.add(NOON - 30 * MINUTE)
    report = await verify(world)
    assert missing(report) == [(lost, ["sink", "other"])]
    assert report.missing[0].occurred_at == "2026-01-10T11:30:00Z"
    assert report.digest_at_source != report.digest_forwarded
    assert (report.checked, report.forwarded, report.repaired) == (11, 10, 0)
    assert lost not in await world.names()


async def test_the_status_of_each_event_is_reported_by_sink(world: World) -> None:
    for number in range(4):
        world.vendor.add(NOON - 50 * MINUTE + number * SECOND)
    await world.collector().poll()
    letters = [RejectedEvent(place, "invalid", "no", 400, 1, NOON, NOON) for place in (0, 1)]
    await world.store.settle("sink", [(0, 3)], letters)
    await world.store.drop([1], NOON)
    await world.store.settle("other", [(0, 1)])
    await world.store.start_sink("late", ["calls"])  # added while this goes on
    report = await verify(world)
    assert report.sinks["sink"] == {
        "dropped": 1,
        "dead_letter": 1,
        "delivered": 1,
        "waiting": 1,
    }
    assert report.sinks["other"] == {"delivered": 1, "waiting": 3}
    assert report.sinks["late"] == {"before_sink": 4}
    assert missing(report) == [], "all of it is accounted for"


LOGOUTS = Exclude(["auth.logout"])
"""What all events of this vendor fit."""


async def test_what_a_sink_excluded_is_not_missing(world: World) -> None:
    for number in range(4):
        world.vendor.add(NOON - 50 * MINUTE + number * SECOND)
    await world.collector().poll()
    await world.store.settle("sink", [(0, 2)], excluded={"auth.*": [(2, 4)]})
    await world.store.settle("other", [(0, 4)])
    index = Index()
    report = await verify(world, sink=index)
    assert report.sinks["sink"] == {"delivered": 2, "excluded": 2}
    assert index.asked == [["r0", "r1"]], "what it was not sent is not looked for"
    assert missing(report) == []


async def test_what_a_sink_excludes_now_is_not_missing_there(world: World) -> None:
    made = await read_all(world, 3)
    lost = world.vendor.add(NOON - 30 * MINUTE)
    sink, other = Index(made), Index(made[:1])
    excludes = {"sink": LOGOUTS}
    report = await verify(world, excludes=excludes, sink=sink, other=other)
    assert missing(report) == [(made[0], ["other"]), (lost, ["other"])]
    assert not sink.asked
    report = await verify(world, excludes=excludes | {"other": LOGOUTS}, sink=sink, other=other)
    assert missing(report) == [(lost, [])], "it was never read: that is not for a sink to say"


async def test_a_repair_forwards_what_is_missing_and_tells_of_it_in_facts(
    world: World,
) -> None:
    await read_all(world, 10)
    lost = [world.vendor.add(NOON - 30 * MINUTE + number * SECOND) for number in range(3)]
    report = await verify(world, repair=True)
    assert (len(missing(report)), report.repaired) == (3, 3)
    again = await world.spooled()
    assert [event.native_id for event in again] == lost, "and nothing else"
    assert all(event.backfill for event in again)
    after = await verify(world)
    assert missing(after) == []
    assert after.sinks["sink"] == {"delivered": 10, "waiting": 3}
    with open_view(world.folder) as view:
        known = view.coverage("calls")
    assert known is not None
    accepted = [each.body for each in known.facts if each.body["fact"] == "accepted"]
    assert [(each["via"], each["events"], each["late"]) for each in accepted] == [
        ("poll", 10, 0),
        ("repair", 3, 3),
    ]
    explained(world.folder)


async def test_a_repair_fills_a_gap_that_can_be_read_by_now(world: World) -> None:
    collector = world.collector(initial_lookback="10d", catch_up_limit="5h")
    await collector.poll()
    lost = world.vendor.add(NOON - 2 * DAY)
    report = await verify(
        world, collector, span=Interval(NOON - 10 * DAY, NOON - 4 * HOUR), repair=True
    )
    assert missing(report) == [(lost, ["sink", "other"])]
    assert [gap for _, gap in await world.covered() if gap] == []


async def test_without_a_repair_nothing_is_changed(world: World) -> None:
    collector = world.collector(initial_lookback="10d", catch_up_limit="5h")
    await collector.poll()
    world.vendor.add(NOON - 2 * DAY)
    before = (await world.covered(), await world.names(), evidence_of(world))
    await verify(world, collector, span=Interval(NOON - 10 * DAY, NOON - 4 * HOUR))
    assert (await world.covered(), await world.names(), evidence_of(world)) == before


def evidence_of(world: World) -> object:
    with open_view(world.folder) as view:
        return view.coverage("calls")


async def test_what_a_sink_itself_lacks_is_sent_to_it_alone(world: World) -> None:
    made = await read_all(world, 6)
    index = Index(lacks=[made[2], made[4]])
    report = await verify(world, other=index)
    assert missing(report) == [(made[2], ["other"]), (made[4], ["other"])]
    assert report.sinks == {
        "sink": {"delivered": 6},
        "other": {"delivered": 4, "missing_at_sink": 2},
    }
    assert report.asked_at_sink == ("other",)
    report = await verify(world, repair=True, other=index)
    assert report.repaired == 2
    assert await world.spooled() == []
    pages = await backlog(world.store, "other")
    assert [event.native_id for page in pages for event in page.events] == [made[2], made[4]]


async def test_a_sink_whose_index_is_not_refreshed_yet_is_asked_again(world: World) -> None:
    made = await read_all(world, 6)
    index = Index(after=1)
    report = await verify(world, other=index)
    assert missing(report) == []
    assert index.asked == [made, made]
    assert world.clock.waits == [2.0]


async def test_a_sink_is_asked_only_for_what_it_was_given(world: World) -> None:
    made = await read_all(world, 3)
    world.vendor.add(NOON - 30 * MINUTE)
    index = Index()
    await verify(world, other=index)
    assert index.asked == [made]


async def test_an_event_deleted_at_the_source_is_reported_and_not_missing(
    world: World,
) -> None:
    await read_all(world, 6)
    gone = world.vendor.records.pop(3)
    (uid,) = [event.uid for event in await _known(world) if event.native_id == gone[0]]
    for _ in range(2):  # it is evidence, and as true the second time
        report = await verify(world)
        assert report.deleted_at_source == (
            Deleted(uid, gone[1].isoformat().replace("+00:00", "Z")),
        )
        assert missing(report) == []
        assert (report.checked, report.forwarded) == (5, 6)


async def test_an_event_whose_time_was_edited_is_neither_missing_nor_deleted(
    world: World,
) -> None:
    await read_all(world, 6)
    name, at, seen_from = world.vendor.records[3]
    world.vendor.records[3] = (name, at + timedelta(microseconds=52), seen_from)
    for repair in (False, True):
        report = await verify(world, repair=repair)
        assert (report.deleted_at_source, missing(report), report.repaired) == ((), [], 0)
        assert report.digest_at_source != report.digest_forwarded, "its key is another one"


async def test_an_event_that_is_shown_with_a_time_beyond_the_part_is_not_deleted(
    world: World,
) -> None:
    await read_all(world, 6)
    real = world.vendor.walk_records
    at = LAST_HOUR.end.isoformat().encode()
    edited = b'{"id":"r0","event_type":"auth.logout","created_at":"%b"}' % at

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        async for page in real(window):
            records = [edited if b'"r0"' in record else record for record in page.records]
            yield Page(records, page.last, page.total)

    world.vendor.walk_instead = walk
    report = await verify(world)
    assert (report.checked, report.deleted_at_source) == (5, ())


async def _known(world: World) -> list[AuditEvent]:
    spooled = await world.store.spooled_events("calls", LAST_HOUR)
    assert spooled is not None
    return [event for page in spooled for event in page]


async def test_what_comes_while_it_compares_is_not_taken_for_deleted(world: World) -> None:
    await read_all(world, 6)
    collector = world.collector()
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        async for page in real(window):
            if page.last:  # a poll finds an event that this walk has passed
                at = NOON - 55 * MINUTE
                text = b'{"id":"rx","event_type":"auth.logout","created_at":"%b"}'
                writer = collector.new_reader().writer
                found = writer.identify([text % at.isoformat().encode()]).page()
                await world.store.add("calls", found)
            yield page

    world.vendor.walk_instead = walk
    report = await verify(world, collector)
    assert report.deleted_at_source == ()


async def test_what_the_source_leaves_out_is_reported_and_never_claimed(world: World) -> None:
    await read_all(world, 4)
    world.vendor.records.pop()
    real = world.vendor.walk_records
    out = Interval(NOON - 20 * MINUTE, NOON - 10 * MINUTE)
    for partly, reason in (
        ({"partial": "plan_limit"}, "plan_limit"),
        ({"gaps": ((out, "cut"),)}, "cut"),
    ):

        async def walk(window: Interval, partly: Any = partly) -> AsyncGenerator[Page]:
            async for page in real(window):
                yield Page(page.records, page.last, page.total, **partly)

        world.vendor.walk_instead = walk
        report = await verify(world, span=Interval(NOON - 3 * HOUR, NOON - MINUTE), repair=True)
        assert [row.reason for row in report.not_shown] == [reason]
        ledger = await world.covered()
        assert min(span.start for span, _ in ledger) == NOON - 2 * HOUR, "nothing new is covered"


async def test_a_range_that_cannot_be_compared_whole_is_compared_in_parts(world: World) -> None:
    await read_all(world, 40)
    world.vendor.too_many = 7
    report = await verify(world)
    assert (report.checked, missing(report)) == (40, [])
    assert report.digest_at_source == report.digest_forwarded


@pytest.mark.parametrize("error", [Refused("401: no", status=401)])
async def test_a_source_that_refuses_is_no_finding(world: World, error: Refused) -> None:
    await read_all(world, 4)
    world.vendor.errors = {world.vendor.pages + 1: error}
    with pytest.raises(Refused):
        await verify(world)


async def test_a_span_that_cannot_be_read_is_no_finding(world: World) -> None:
    await read_all(world, 4)
    for _ in range(9):
        world.vendor.add(NOON - 30 * MINUTE)
    world.vendor.too_many = 7
    report = await verify(world)
    assert missing(report) == []
    [part] = report.not_shown
    assert part.reason == "unreadable"
    assert datetime.fromisoformat(part.start) <= NOON - 30 * MINUTE
    assert datetime.fromisoformat(part.end) - datetime.fromisoformat(part.start) <= SECOND


async def test_times_are_written_as_everywhere(world: World) -> None:
    await read_all(world, 1)
    report = await verify(world)
    for time in (report.start, report.end, report.began_at, report.ended_at):
        assert time.endswith("Z")
        assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
    assert report.start == "2026-01-10T11:00:00Z"


@pytest.mark.parametrize(
    "statement",
    [
        "delete from known where key = (select min(key) from known)",
        (
            "update known set key = cast(substr(key, 1, 27) || x'00' as blob) "
            "where key = (select min(key) from known)"
        ),
        "update known set position = 99 where key = (select max(key) from known)",
        "update known set position = -1 where key = (select max(key) from known)",
    ],
    ids=["deleted", "exchanged", "of no page", "without a place"],
)
async def test_a_known_uid_that_the_evidence_does_not_tell_of_is_not_taken_as_forwarded(
    world: World, statement: str
) -> None:
    await read_all(world, 6)
    assert missing(await verify(world)) == []
    with closing(sqlite3.connect(world.folder / DATABASE)) as db:
        assert db.execute(statement).rowcount == 1
        db.commit()
    report = await verify(world)
    assert report.missing, "one was edited, so nothing is known of those accepted with it"
    assert any("unproved" in counts for counts in report.sinks.values())
    before = len(await backlog(world.store, "sink"))
    report = await verify(world, repair=True)
    assert report.repaired >= 1
    assert len(await backlog(world.store, "sink")) > before


async def test_a_uid_put_in_before_its_event_does_not_hide_it(world: World) -> None:
    await read_all(world, 6)
    collector, at = world.collector(), NOON - 30 * MINUTE
    name = world.vendor.add(at)
    record = b'{"id":"%b","event_type":"auth.logout","created_at":"%b"}'
    text = record % (name.encode(), at.isoformat().encode())
    [event] = collector.new_reader().writer.identify([text]).page()
    with closing(sqlite3.connect(world.folder / DATABASE)) as db:
        row = "insert into known select id, ?, 2, null from source where name = 'calls'"
        assert db.execute(row, (known_key(event),)).rowcount == 1
        db.commit()
    assert name in dict(missing(await verify(world, collector)))


async def test_what_is_accepted_while_it_compares_is_proved(world: World) -> None:
    await read_all(world, 6)
    real = world.store.delivery_status
    collector = world.collector()
    statuses: list[Any] = []

    async def later(source: str, events: Any, *, proved: Any) -> Any:
        at = (NOON - 20 * MINUTE).isoformat().encode()
        text = b'{"id":"rx","event_type":"auth.logout","created_at":"%b"}' % at
        page = collector.new_reader().writer.identify([text]).page()
        await world.store.add("calls", page)
        statuses.extend(await real(source, list(page), proved=proved))
        return await real(source, events, proved=proved)

    world.store.delivery_status = later  # type: ignore[assignment, method-assign]  # a poll comes between
    assert missing(await verify(world, collector)) == []
    assert statuses == [{"sink": "waiting", "other": "waiting"}]
