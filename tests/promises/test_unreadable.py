"""Nothing stops a source for good: not a record, not a window, not a page, whatever it is."""

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.collecting import HOUR, NOON, SECOND, World, open_world
from tests.support.extent import extent

from auditrelay.collect.walk import MAX_RECORDS
from auditrelay.errors import PeerBug, Refused, RequestRefused, Retryable, WalkBroken
from auditrelay.events.normalize import Normalizer, available, vendor_named
from auditrelay.http.replies import MOST_RECORDS, Reply
from auditrelay.sources import UNREADABLE, Page, cekura
from auditrelay.window import Interval

# --- records: whatever they are, each is an event

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None), max_size=20),
)
FIELDS = ["id", "_id", "timestamp", "created_at", "metadata", "organization", "event_type", "a"]
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)
ODD = [
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"[" * 3000,
    b'{"id":"1","n":' + b"9" * 5000 + b',"s":"\\ud800"}',
    b'{"id":"1","a":"\xff","b":NaN}',
    b'{"id":"1","id":"2","created_at":"2026-01-10T12:00:00Z"}',
    b'{"id": undefined}',
    b"",
    b"\x00",
    b"\xef\xbb\xbf{}",
]
near_json = st.binary(max_size=60) | st.sampled_from(ODD)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw a record: JSON as a vendor may write it, or damaged."""

    text = json.dumps(draw(values)).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(near_json) + text[at:]
    return text if draw(st.integers(0, 5)) else draw(near_json)


@pytest.mark.parametrize("vendor", available())
@given(page=st.lists(records(), min_size=1, max_size=4))
@settings(
    max_examples=extent(30, 120),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_every_record_of_every_page_becomes_an_event(vendor: str, page: list[bytes]) -> None:
    normalize = Normalizer(
        vendor=vendor_named(vendor), source="it", api_host="h", scope="o", redact="default", tags={}
    )
    events = normalize(page, 1_700_000_000_000_000)
    assert len(list(events)) == len(page)


async def test_records_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        good = world.vendor.add(NOON - HOUR)
        real = world.vendor.walk_records

        async def walk(window: Interval) -> AsyncGenerator[Page]:
            async for page in real(window):
                yield Page([*page.records, b"<html>", b"[" * 3000], page.last)

        world.vendor.walk_instead = walk
        collector = world.collector()
        await collector.poll()
        assert {name for name in await world.names() if name != "None"} == {good}
        assert len(await world.spooled()) == 3
        assert world.counted("events_not_normalized_total") == 2
        assert collector.condition.not_normalized == 2


# --- pages: whatever their length, they are read in slices


async def test_a_page_of_any_length_is_read_in_slices(tmp_path: Path) -> None:
    count = 3 * MAX_RECORDS + 7
    async with open_world(tmp_path) as world:

        async def walk(_: Interval) -> AsyncGenerator[Page]:
            yield Page([b"{}"] * count, last=True)

        world.vendor.walk_instead = walk
        await world.collector().poll()
        events = await world.spooled()
        assert len({event.uid for event in events}) == len(events) == count, "twins stay apart"


# --- spans: all sorts of failures, polls, backfills, verify and resweeps alike

FAILURES = [
    Retryable("500", reason="status_500"),
    Retryable("no reply", reason="timeout"),
    Retryable("not JSON", reason="bad_reply"),
    Retryable("it hangs up", reason="reset"),
    RequestRefused("400", reason="status_400", status=400),
    RequestRefused("403", reason="status_403", status=403),
    RequestRefused("200 with an error inside", reason="refused"),
    WalkBroken("too large", reason="reply_too_large"),
    WalkBroken("again", reason="repeated_page"),
]
BUG = PeerBug("a bug", peer="calls", crossing="read")


def fail_at(world: World, at: datetime, error: Exception) -> None:
    """Make every walk fail whose window has the time *at*."""
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        if window.start <= at < window.end:
            raise error
        async for page in real(window):
            yield page

    world.vendor.walk_instead = walk


@pytest.mark.parametrize("error", FAILURES, ids=str)
async def test_a_span_that_fails_in_any_way_holds_nothing_up(
    tmp_path: Path, error: Exception
) -> None:
    async with open_world(tmp_path) as world:
        made = [world.vendor.add(NOON - number * HOUR / 20) for number in range(2, 39)]
        bad = NOON - 9 * HOUR / 20
        fail_at(world, bad, error)
        collector = world.collector()
        with pytest.raises(WalkBroken, match="everything else was read"):
            await collector.poll()
        assert {*await world.names()} == {*made} - {made[7]}
        assert len(world.vendor.asked) < 100
        for _ in range(6):
            world.clock.advance(HOUR / 4)
            late = world.vendor.add(world.clock.now() - 90 * SECOND)
            try:
                await collector.poll()
            except WalkBroken:
                assert await _gaps(world) == []
            assert late in await world.names()
        [gap] = await _gaps(world)
        assert gap.start <= bad < gap.end
        assert gap.length <= SECOND


async def test_a_bug_at_a_span_holds_the_source_and_nothing_else_up(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        made = [world.vendor.add(NOON - number * HOUR / 20) for number in range(2, 39)]
        fail_at(world, NOON - 9 * HOUR / 20, BUG)
        collector = world.collector()
        for _ in range(10):
            late = world.vendor.add(world.clock.now() - 90 * SECOND)
            with pytest.raises(WalkBroken, match="everything else was read"):
                await collector.poll()
            assert late in await world.names()
            assert (collector.condition.held, collector.condition.error_code) == (True, "bug")
            world.clock.advance(HOUR / 4)
        assert {*made} - {*await world.names()} == {made[7]}
        assert await _gaps(world) == [], "nothing is dropped for a bug of ours"
        world.vendor.walk_instead = None
        world.clock.advance(HOUR)  # after so many failures it is tried once an hour
        await collector.poll()
        assert {*made} <= {*await world.names()}
        assert collector.condition.up


@pytest.mark.parametrize("error", [*FAILURES, BUG], ids=str)
async def test_a_source_that_fails_altogether_is_neither_cut_nor_given_up(
    tmp_path: Path, error: Exception
) -> None:
    async with open_world(tmp_path) as world:
        made = world.vendor.add(NOON - HOUR)
        asked = 0

        async def walk(_: Interval) -> AsyncGenerator[Page]:
            nonlocal asked
            asked += 1
            if asked:
                raise error
            yield Page([], last=True)

        world.vendor.walk_instead = walk
        collector = world.collector()
        for _ in range(10):
            before = asked
            with pytest.raises(type(error)):
                await collector.poll()
            assert asked - before < 20
            assert collector.condition.held == isinstance(error, (Refused, PeerBug))
            world.clock.advance(HOUR)
        assert await world.covered() == []
        world.vendor.walk_instead = None
        await collector.poll()
        assert await world.names() == [made]


async def test_a_long_block_that_fails_takes_few_requests_and_what_is_behind_is_read(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world:
        made = [world.vendor.add(NOON - number * HOUR / 20) for number in range(2, 39)]
        bad = Interval(NOON - 1.5 * HOUR, NOON - HOUR)
        real = world.vendor.walk_records

        async def walk(window: Interval) -> AsyncGenerator[Page]:
            if window.overlaps(bad):
                raise Retryable("500", reason="status_500")
            async for page in real(window):
                yield page

        world.vendor.walk_instead = walk
        collector = world.collector()
        for _ in range(8):
            with pytest.raises(WalkBroken):
                await collector.poll()
            world.clock.advance(HOUR / 8)
        lost = {name for name, at, _ in world.vendor.records if bad.start <= at < bad.end}
        assert lost <= {*made} - {*await world.names()} <= {*lost, "r18"}, "but what touches it"
        assert len(world.vendor.asked) < 600
        world.vendor.walk_instead = None
        world.clock.advance(HOUR)
        await collector.poll()
        assert {*await world.names()} == {*made}


REFUSAL = RequestRefused("403", reason="status_403", status=403)


@pytest.mark.parametrize("error", [REFUSAL, FAILURES[0]], ids=str)
async def test_many_records_that_fail_one_by_one_neither_end_nor_hold_the_source(
    tmp_path: Path, error: Exception
) -> None:
    async with open_world(tmp_path) as world:
        made = [world.vendor.add(NOON - number * HOUR / 40) for number in range(4, 76)]
        bad = set(made[::2])
        real = world.vendor.walk_records

        async def walk(window: Interval) -> AsyncGenerator[Page]:
            records = world.vendor.records
            inside = [name for name, at, _ in records if window.start <= at < window.end]
            if bad.intersection(inside):
                raise error
            async for page in real(window):
                yield page

        world.vendor.walk_instead = walk
        collector = world.collector()
        for _ in range(12):
            with contextlib.suppress(WalkBroken, Retryable):
                await collector.poll()
            assert not collector.condition.held, "it answers other requests"
            world.clock.advance(HOUR / 5)
        assert {*await world.names()} - {"None"} == {*made} - bad
        assert len(await _gaps(world)) == len(bad)


@pytest.mark.parametrize(
    "met", [Retryable("503", reason="status_503"), Retryable("429", reason="status_429")], ids=str
)
async def test_a_source_that_is_down_by_the_time_it_is_asked_again_is_not_held(
    tmp_path: Path, met: Retryable
) -> None:
    async with open_world(tmp_path) as world:
        errors: list[Exception] = [met, REFUSAL]

        async def walk(_: Interval) -> AsyncGenerator[Page]:
            if errors:
                raise errors.pop()
            yield Page([], last=True)

        world.vendor.walk_instead = walk
        collector = world.collector()
        with pytest.raises(Retryable) as caught:
            await collector.poll()
        assert caught.value is met
        assert not collector.condition.held


async def test_unreadable_spans_outlive_the_process(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.vendor.add(NOON - HOUR)
        fail_at(world, NOON - HOUR, Retryable("500", reason="status_500"))
        for _ in range(6):  # as "run --once" does it
            collector = world.collector()
            rows = await world.store.sources()
            if rows:
                collector.restore(rows[0].condition)
            try:
                await collector.poll()
            except WalkBroken:
                world.clock.advance(timedelta(minutes=15))
        [gap] = await _gaps(world)
        assert gap.length <= SECOND


async def _gaps(world: World) -> list[Interval]:
    return [span for span, reason in await world.covered() if reason == UNREADABLE]


# --- memory: a page of a million records

MILLION = """
import re
from pathlib import Path
from datetime import UTC, datetime
import httpx
from auditrelay.http.fields import texts
from auditrelay.http.replies import Reply
from auditrelay.sources.cekura import _read_first

body = b'{"results":[' + b",".join([b"{}"] * 1_000_000) + b'],"next":null}'
reply = Reply(200, httpx.Headers(), body, "GET x", datetime.now(UTC))
assert len(texts(_read_first(reply).results)) == 1_000_000
# Not of getrusage: that begins with the memory of the process that started this one.
(peak,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak) // 1024)
"""


@pytest.mark.process
def test_a_page_of_a_million_tiny_records_fits_into_256_mib() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(ran.stdout) < 256


def test_a_page_of_more_records_than_fit_into_memory_is_asked_for_in_smaller_parts() -> None:
    body = b'{"results":[' + b",".join([b"1"] * (MOST_RECORDS + 2)) + b'],"next":null}'
    reply = Reply(200, httpx.Headers(), body, "GET x", NOON)
    with pytest.raises(Retryable) as caught:
        cekura._read_first(reply)
    assert caught.value.reason == "reply_too_large", "which breaks the walk"
