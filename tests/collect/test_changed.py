"""A record that is shown with other content under the uid of an event that was forwarded."""

import json
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.support.collecting import HOUR, Vendor, World
from tests.support.stores import counted

from auditrelay.collect import changed
from auditrelay.collect.collector import Collector
from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.notices import CHANGED
from auditrelay.sources import Page
from auditrelay.window import Interval

MINUTE = timedelta(minutes=1)
AT = "2026-01-10T11:30:00.125Z"


def record(name: object, **fields: Any) -> dict[str, Any]:
    return {"id": str(name), "event_type": "auth.logout", "created_at": AT, **fields}


class Shown:
    """What the vendor shows of any window: pages of records, as values or as texts."""

    def __init__(self, vendor: Vendor) -> None:
        self.pages: list[list[dict[str, Any] | bytes]] = [[]]
        vendor.walk_instead = self.walk

    async def walk(self, _window: Interval) -> AsyncGenerator[Page]:
        for number, page in enumerate(self.pages, 1):
            texts = [
                each if isinstance(each, bytes) else json.dumps(each).encode() for each in page
            ]
            yield Page(texts, last=number == len(self.pages))

    def __call__(self, *records: dict[str, Any] | bytes, size: int = 1000) -> None:
        starts = range(0, max(len(records), 1), size)
        self.pages = [list(records[start : start + size]) for start in starts]


@pytest.fixture
def shown(world: World) -> Shown:
    return Shown(world.vendor)


@pytest.fixture
def collector(world: World) -> Collector:
    return world.collector(overlap="3h")


async def read(world: World, collector: Collector) -> None:
    """Poll after a while: the overlap shows the same again."""
    world.clock.advance(MINUTE)
    await collector.poll()


def inside(event: AuditEvent) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(event.raw))["record_changed"]
    return found


async def reports(world: World) -> list[AuditEvent]:
    return [event for event in await world.spooled() if event.notice]


def numbered(count: int, **fields: Any) -> Iterator[dict[str, Any]]:
    return (record(number, **fields) for number in range(count))


async def test_another_content_is_an_event_with_the_record_and_both_digests_inside(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(record("same", actor_id="dana", metadata={"role": "viewer"}))
    await read(world, collector)
    (first,) = await world.spooled()
    shown(record("same", actor_id="eve", event_type="auth.login", metadata={"role": "viewer"}))
    await read(world, collector)
    (event,) = await reports(world)
    assert (event.native_action, event.kind, event.verb) == (CHANGED, "audit_log", "other")
    assert (event.actor.id, event.native_id) == ("eve", "same")
    assert event.uid != first.uid
    about = inside(event)
    assert about["record"]["event_type"] == "auth.login"
    assert about["uid"] == first.uid
    assert about["former_digest"] == first.raw_sha256[:16]
    assert about["digest"] == about["raw_sha256"][:16] != about["former_digest"]
    assert about["fields"] == "event_type, actor_id"
    assert [(each.field, each.before, each.after) for each in event.changes] == [
        ("event_type", '"auth.logout"', '"auth.login"'),
        ("actor_id", '"dana"', '"eve"'),
    ]
    assert world.counted("events_changed_at_source_total") == 1
    for _ in range(2):  # nor is it reported again after a restart
        await read(world, world.collector(overlap="3h"))
    assert len(await reports(world)) == 1


@pytest.mark.parametrize(
    "again",
    [
        b'{"created_at":"%b","m":{"n":1,"t":"\xc3\xa9/"},"event_type":"auth.logout","id":"x"}',
        b'{"id":"x","event_type":"auth.logout","created_at":"%b","m":{"n":1.0,"t":"\xc3\xa9/"}}',
        b'{"id" : "x","event_type":"auth.logout","created_at":"%b","m":{"n":1,"t":"\\u00e9\\/"}}',
        b'{"id":"x","event_type":"auth.logout","created_at":"%c","m":{"n":1,"t":"\xc3\xa9/"}}',
        b'{"id":"x","event_type":"auth.logout","created_at":"%d","m":{"n":1,"t":"\xc3\xa9/"}}',
    ],
    ids=["order of keys", "number", "blanks and escapes", "finer time", "zone"],
)  # fmt: skip
async def test_a_record_that_is_only_spelt_in_another_way_has_not_changed(
    world: World, shown: Shown, collector: Collector, again: bytes
) -> None:
    shown(record("x", m={"n": 1, "t": "é/"}))
    await read(world, collector)
    times = {b"%b": AT, b"%c": AT.replace("125Z", "125052Z"), b"%d": AT.replace("Z", "+00:00")}
    for mark, time in times.items():
        again = again.replace(mark, time.encode())
    shown(again)
    await read(world, collector)
    assert await reports(world) == []
    with counted(world.store) as calls:
        await read(world, collector)
    assert "read contents_of" not in calls, "the new spelling is accepted, and not compared again"


async def test_where_the_former_record_is_gone_the_digest_decides(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(record("x"))
    await read(world, collector)
    await world.store.settle("sink", [(0, 1)])
    world.clock.advance(timedelta(days=30))
    assert await world.store.prune(world.clock.now()) == 1
    shown(record("x", a=1))
    await read(world, collector)
    (event,) = await reports(world)
    assert "fields" not in inside(event)
    assert event.changes == ()


async def test_of_one_record_three_contents_are_reported_and_it_costs_nothing_more(
    world: World, shown: Shown, collector: Collector
) -> None:
    for number in range(6):
        shown(record("x", nonce=number))
        await read(world, collector)
    events = await reports(world)
    assert [inside(event)["record"]["nonce"] for event in events] == [
        1,
        2,
        3,
    ]
    assert [b'"last"' in bytes(event.raw) for event in events] == [False, False, True]
    with counted(world.store) as calls:
        shown(record("x", nonce=7))
        await read(world, collector)
    assert "write report_changed" not in calls


async def test_contents_that_take_turns_are_reported_once_each(
    world: World, shown: Shown, collector: Collector
) -> None:
    for value in ("a", "b", "a", "b", "c", "a", "b", "c"):
        shown(record("x", value=value))
        await read(world, collector)
    assert len(await reports(world)) == 2


async def test_a_field_that_all_records_have_now_is_one_finding_that_names_it(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(*numbered(40), size=10)
    await read(world, collector)
    shown(*numbered(40, metadata={"region": "eu"}), size=10)
    await read(world, collector)
    assert await reports(world) == []
    assert collector.condition.form_changed_fields == ["metadata"]
    assert world.counted("events_changed_at_source_total") == 40
    with counted(world.store) as calls:
        await read(world, collector)
    assert "read contents_of" not in calls, "the new form is accepted"
    await read(world, collector)
    (state,) = await world.store.sources()
    restarted = world.collector()
    restarted.restore(state.condition)
    assert restarted.condition.form_changed_fields == ["metadata"]


async def test_one_in_twenty_of_a_whole_walk_are_events_wherever_they_stand(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(*numbered(200), size=10)
    await read(world, collector)
    altered = [record(number, metadata={"a": 1}) for number in range(10)]
    shown(*altered, *list(numbered(200))[10:], size=10)
    await read(world, collector)
    assert len(await reports(world)) == 10
    assert collector.condition.form_changed_at is None


async def test_a_walk_holds_only_so_many_changed_records(
    world: World, shown: Shown, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changed, "MAX_HELD", 5)
    shown(*numbered(40), size=4)
    await read(world, collector)
    shown(*numbered(40, metadata={"a": 1}), size=4)
    await read(world, collector)
    assert len(await reports(world)) == 8, "until they were many"
    assert collector.condition.form_changed_fields == ["metadata"]


@pytest.mark.parametrize("size", [2, 4], ids=["on two pages", "on one page"])
async def test_two_contents_under_one_id_in_one_walk_both_arrive(
    world: World, shown: Shown, collector: Collector, size: int
) -> None:
    shown(record("x", value=1), record("y"), record("x", value=2), record("z"), size=size)
    await read(world, collector)
    (event,) = await reports(world)
    assert inside(event)["record"]["value"] == 2
    assert sorted(await world.names()) == ["x", "x", "y", "z"]
    await read(world, collector)
    assert len(await reports(world)) == 1


async def test_a_record_without_an_id_cannot_change(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown({"event_type": "auth.logout", "created_at": AT})
    await read(world, collector)
    shown({"created_at": AT, "event_type": "auth.logout"}, b"[1]", b"no json")
    await read(world, collector)
    with counted(world.store) as calls:
        await read(world, collector)
    assert "read contents_of" not in calls
    assert await reports(world) == []


async def test_a_change_of_what_is_redacted_changes_no_record(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(record("x", metadata={"password": "hush", "region": "eu"}))
    await read(world, collector)
    shown(record("x", metadata={"password": "other", "region": "eu"}))
    await read(world, world.collector(overlap="3h"))
    assert await reports(world) == [], "what no sink may see is not compared"
    shown(record("x", metadata={"password": "other", "region": "us"}))
    await read(world, world.collector(overlap="3h"))
    assert len(await reports(world)) == 1


async def test_what_was_forwarded_before_digests_were_kept_is_accepted_as_it_is(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(record("x"))
    await read(world, collector)
    await world.store._engine.write(lambda db: db.execute("update known set digest = null"))
    shown(record("x", a=1))
    await read(world, collector)
    assert await reports(world) == []
    shown(record("x", a=2))
    await read(world, collector)
    assert len(await reports(world)) == 1


async def test_a_resweep_finds_what_changed_as_well(world: World, shown: Shown) -> None:
    collector = world.collector(resweep=["1h"], overlap="1s")
    shown(record("x"))
    await read(world, collector)
    shown(record("x", a=1))
    world.clock.advance(2 * HOUR)
    await collector.resweeper.run()
    assert len(await reports(world)) == 1
    assert world.counted("events_late_total") == 0


async def test_a_field_that_changes_with_every_reading_is_compared_three_times_at_most(
    world: World, shown: Shown, collector: Collector
) -> None:
    with counted(world.store) as calls:
        for number in range(8):
            shown(*numbered(40, metadata={"last_seen": number}), size=20)
            await read(world, collector)
    assert await reports(world) == []
    assert calls["write report_changed"] == 3
    assert collector.condition.form_changed_fields == ["metadata.last_seen"]


async def test_a_change_waits_for_room_like_any_page(
    world: World, shown: Shown, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(record("x"))
    await read(world, collector)
    shown(record("x", a=1))
    report, tries = world.store.contents.report_changed, []

    async def full(*args: Any) -> Any:
        tries.append(args)
        if len(tries) < 3:
            raise StoreFull("no room")
        return await report(*args)

    monkeypatch.setattr(world.store.contents, "report_changed", full)
    await read(world, collector)
    assert len(tries) == 3
    assert len(await reports(world)) == 1


async def test_a_few_among_many_of_the_same_time_are_compared_as_well(
    world: World, shown: Shown, collector: Collector
) -> None:
    shown(*numbered(200))
    await read(world, collector)
    shown(record(7), record(90), record(120, a=1), record(199), size=2)
    with counted(world.store) as calls:
        await read(world, collector)
    assert [event.native_id for event in await reports(world)] == ["120"]
    assert calls["read contents_of"] == 1
