"""
What replies prove about a description: judgements without requests.

Each returns a sentence with what is wrong and which key to look at, or None.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median_low
from typing import Any, Final

from auditrelay.descriptions.model import Feed
from auditrelay.events import AuditEvent
from auditrelay.events.marks import IMPLAUSIBLE_TIME, NO_TIME, UNKNOWN_ACTION
from auditrelay.telemetry.humanize import count
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros

DAY: Final = timedelta(days=1)
_YEAR: Final = timedelta(days=365.25)

_MOST_ACTIONS: Final = 10
"""Unknown actions that are named."""

_MOST_KEYS: Final = 5
"""Keys of records that are named."""


def bounds(feed: Feed) -> str:
    """Return the slots of the time filter, for sentences."""
    time = feed.time
    slots = [time.at] if time.text is not None else [time.start, time.end]
    return " and ".join(str(slot) for slot in dict.fromkeys(slots) if slot is not None)


def is_timed(event: AuditEvent) -> bool:
    """Return whether the time of *event* is its own, and plausible."""
    return not {NO_TIME, IMPLAUSIBLE_TIME} & set(event.warnings)


# --- the time filter ---------------------------------------------------------


def not_empty(feed: Feed, span: Interval, what: str, events: Sequence[AuditEvent]) -> str | None:
    """
    Judge the *events* of a *span* that has none; *what* it is, for the sentence.

    One that came late lies within it by its own time.
    """
    others = [event for event in events if not _is_in(event, span)]
    if not others:
        return None
    ignored = bounds(feed)
    if feed.time.end is not None and feed.time.start != feed.time.end:
        early = sum(event.at < micros(span.start) for event in others)
        ignored = str(feed.time.start if early else feed.time.end)
    verb = "are" if " and " in ignored else "is"
    sentence = (
        f"asked for {what}, got {count(len(events), 'event')}: {ignored} {verb} ignored. Is the "
        "parameter spelt right, and in the right place?"
    )
    if feed.time.axis == "event":
        sentence += ' Or does it speak of when they were recorded (time.axis = "recorded")?'
    return sentence


def _is_in(event: AuditEvent, span: Interval) -> bool:
    return is_timed(event) and micros(span.start) <= event.at <= micros(span.end)


def halves(
    feed: Feed,
    granule: timedelta,
    middle: datetime,
    whole: Sequence[AuditEvent],
    parts: tuple[Sequence[AuditEvent], Sequence[AuditEvent]],
) -> str | None:
    """Judge the events of a *whole* window, and of its *parts* before and behind its *middle*."""
    lower, upper = parts
    start, end = feed.time.start or feed.time.at, feed.time.end or feed.time.at
    if feed.time.axis == "event":
        slack = granule // timedelta(microseconds=1)
        late = [each for each in lower if is_timed(each) and each.at > micros(middle) + slack]
        if late:
            return f"time.end is ignored ({end}): the first half holds events of the second"
        early = [each for each in upper if is_timed(each) and each.at < micros(middle) - slack]
        if early:
            return f"time.start is ignored ({start}): the second half holds events of the first"
    uids = {event.uid for event in whole}
    found = {event.uid for event in (*lower, *upper)}
    if missing := uids - found:
        return (
            f"of the {count(len(uids), 'event')} of a window its halves show {len(uids - missing)}:"
            f' is "{feed.time.format}" (time.format) how {bounds(feed)} must be written?'
        )
    if len(uids) > 1 and uids == {event.uid for event in lower} == {event.uid for event in upper}:
        return f"time.start and time.end are ignored ({bounds(feed)}): each half shows the whole"
    return None


def starts_early(
    feed: Feed, granule: timedelta, start: datetime, events: Sequence[AuditEvent]
) -> str | None:
    """Judge the *events* of a list that begins at *start*."""
    slack = granule // timedelta(microseconds=1)
    early = [each for each in events if is_timed(each) and each.at < micros(start) - slack]
    if not early or feed.time.axis != "event":
        return None
    return f"time.start is ignored ({bounds(feed)}): {len(early)} of {len(events)} events are older"


def times(
    feed: Feed, span: Interval | None, now: datetime, events: Sequence[AuditEvent]
) -> str | None:
    """Judge the times of *events* of *span*, which is None if the API has no filter."""
    unread = [event for event in events if NO_TIME in event.warnings]
    paths = " or ".join(map(str, feed.records.time))
    total = len(events)
    if unread:
        raw = unread[0].time_raw
        if raw is None:
            return f'records.time = "{paths}": {len(unread)} of {total} records have nothing there'
        return (
            f'records.time = "{paths}": {len(unread)} of {total} cannot be read, such as '
            f"{_shown(raw)}: {_format_hint(feed, raw)}"
        )
    is_iso = feed.records.time_format == "iso"
    texts = [event.time_raw or "" for event in events] if is_iso else []
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    if numbers:
        return (
            f'records.time = "{paths}": {len(numbers)} of {total} are numbers, such as '
            f"{_shown(numbers[0])}: {_format_hint(feed, numbers[0])}"
        )
    off = _off(feed, span, now, events)
    distance = _distance(off, now)
    if distance <= _YEAR:
        return None
    raw = off[0].time_raw or ""
    return (
        f'records.time = "{paths}": {len(off)} of {total} are {round(distance / _YEAR)} years '
        f"off, such as {_shown(raw)}: {_format_hint(feed, raw)}"
    )


def outside(
    feed: Feed, span: Interval | None, now: datetime, events: Sequence[AuditEvent]
) -> str | None:
    """Judge *events* that did not happen in the *span* that was asked for."""
    off, total = _off(feed, span, now, events), len(events)
    if len(off) * 2 <= total or _distance(off, now) > _YEAR or feed.time.axis != "event":
        return None
    paths = " or ".join(map(str, feed.records.time))
    return (
        f'records.time = "{paths}": {len(off)} of {total} events happened outside of the '
        'window that was asked for: is time.axis "recorded"?'
    )


def _off(
    feed: Feed, span: Interval | None, now: datetime, events: Sequence[AuditEvent]
) -> list[AuditEvent]:
    """Return the *events* that did not happen within a day of *span*."""
    if span is None:
        return [event for event in events if IMPLAUSIBLE_TIME in event.warnings]
    low, high = micros(span.start - DAY), micros(span.end + DAY)
    if feed.time.end is None and feed.time.text is None:  # what lies behind it belongs there
        high = max(high, micros(now + DAY))
    return [event for event in events if not low <= event.at <= high]


def _distance(events: Sequence[AuditEvent], now: datetime) -> timedelta:
    """Return how far off the median of *events* is; nothing, if there are none."""
    if not events:
        return timedelta(0)
    return timedelta(microseconds=abs(median_low(each.at for each in events) - micros(now)))


def _shown(text: str) -> str:
    return f'"{scrub(text, 40)}"'


_NUMBER: Final = re.compile(r"(\d{10,16})(\.\d+)?", re.ASCII)
_DIGITS: Final = {10: "epoch_s", 13: "epoch_ms", 16: "epoch_us"}


def _format_hint(feed: Feed, raw: str) -> str:
    """Return which format *raw* looks like."""
    number = _NUMBER.fullmatch(raw)
    likely = None
    if number:
        likely = "epoch_s_float" if number[2] else _DIGITS.get(len(number[1]))
    elif re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", raw):
        likely = "iso"
    if likely is None or likely == feed.records.time_format:
        return f'is "{feed.records.time_format}" (records.time_format) its format?'
    return f"is it {likely} (records.time_format)?"


# --- records -----------------------------------------------------------------


def ids(feed: Feed, pages: Sequence[Sequence[AuditEvent]]) -> str | None:
    """Judge what the events of *pages* are known by."""
    records = feed.records
    if records.no_id:
        return None
    key = "id_parts" if records.id_parts is not None else "id"
    paths = ", ".join(f'"{path}"' for path in records.id_parts or records.id or ())
    events = [event for page in pages for event in page]
    absent = sum(event.native_id is None for event in events)
    if absent:
        return f"records.{key} = {paths}: {absent} of {len(events)} records have nothing there"
    contents: dict[str, set[str]] = {}
    for event in events:
        contents.setdefault(event.uid, set()).add(event.raw_sha256)
    twice = sum(len(each) > 1 for each in contents.values())
    if twice:
        return (
            f"records.{key} = {paths}: {count(twice, 'id')} of {len(contents)} "
            f"stand{'s' if twice == 1 else ''} twice with different content"
        )
    return None


def differs(feed: Feed, first: Mapping[str, bytes], again: Mapping[str, bytes]) -> str | None:
    """Judge two readings of one page: the records of each by uid, in their order."""
    if feed.records.no_id:
        # Known by their content: a record that differs has another uid.
        gone = [text for uid, text in first.items() if uid not in again]
        new = [text for uid, text in again.items() if uid not in first]
        keys = _different_keys(zip(gone, new, strict=False), feed.records.without)
        if not keys:
            return None
        return (
            f"records without an id differ between two readings in {keys}: name it in "
            "records.without"
        )
    pairs = [(text, again[uid]) for uid, text in first.items() if uid in again]
    keys = _different_keys(pairs)
    if not keys:
        return None
    return (
        f"a record differs between two readings in {keys}: whenever it is read again it would "
        "arrive as auditrelay.record_changed"
    )


def _different_keys(pairs: Iterable[tuple[bytes, bytes]], without: Collection[str] = ()) -> str:
    """Return the keys in which *pairs* of texts of one record differ; empty if in none."""
    found: dict[str, None] = {}
    for one, other in pairs:
        old, new = _object(one), _object(other)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if len(keys) * 2 < len({**old, **new}):  # else they are two records
            found.update(dict.fromkeys(key for key in keys if key not in without))
    return ", ".join(f'"{scrub(key, 60)}"' for key in list(found)[:_MOST_KEYS])


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# --- pages -------------------------------------------------------------------


def turned(feed: Feed, first: Sequence[AuditEvent], second: Sequence[AuditEvent]) -> str | None:
    """Judge the second page with records, behind the *first*."""
    # With their content: what they are known by is judged elsewhere.
    before = {(event.uid, event.raw_sha256) for event in first}
    again = sum((event.uid, event.raw_sha256) in before for event in second)
    if not again:
        return None
    if again == len(second):
        return f"page 2 is page 1: {_way(feed)}"
    if feed.pages.kind in ("cursor", "url"):
        return None  # a cursor that is a time shows the last of them again
    return (
        f"{again} of {len(second)} records of page 2 were on page 1: is pages.kind "
        f'"{feed.pages.kind}" what {feed.pages.to} counts?'
    )


def _way(feed: Feed) -> str:
    pages = feed.pages
    if pages.kind == "url":
        return f"the address at {pages.from_} leads to it again"
    return f"{pages.to} is ignored"


def last_too_soon(feed: Feed, shown: int, known: int) -> str | None:
    """Judge a page of *shown* records that is said to be the last, where *known* are known."""
    if shown >= known:
        return None
    pages = feed.pages
    signs = [pages.more, pages.count, pages.total, pages.from_]
    sign = next((str(each) for each in signs if each is not None), "pages")
    return (
        f"a page of {count(shown, 'record')} is said to be the last one, and there are {known}: is "
        f"there another page at {sign}?"
    )


def counting_sign(feed: Feed) -> str | None:
    """Return the key that counts pages or records, if that is what says where they end."""
    pages = feed.pages
    if pages.kind not in ("number", "offset") or pages.more is not None or pages.until_empty:
        return None
    if pages.count is not None:
        return f"pages.count = {pages.count}"
    return None if pages.total is None else f"pages.total = {pages.total}"


def order(feed: Feed, events: Sequence[AuditEvent]) -> str | None:
    """Judge the order of *events*, as they came."""
    wanted = feed.time.order
    if wanted == "none":
        return None
    timed = [event.at for event in events if is_timed(event)]
    for number, (one, other) in enumerate(pairwise(timed), 2):
        if one < other if wanted == "newest_first" else one > other:
            than = "newer" if wanted == "newest_first" else "older"
            return f"time.order is {wanted}, but record {number} is {than} than record {number - 1}"
    return None


# --- notes -------------------------------------------------------------------


def unknown(feed: Feed, events: Sequence[AuditEvent]) -> Iterator[str]:
    """Yield how many of *events* have an action that is in no table, and lines to paste."""
    odd = [event for event in events if UNKNOWN_ACTION in event.warnings]
    if not odd:
        return
    where = "actions" if feed.name is None else f"feeds.{feed.name}.actions"
    known = len(events) - len(odd)
    names = list(dict.fromkeys(event.native_action for event in odd))
    yield f"{known} of {len(events)} events have an action that the tables know; into [{where}]:"
    for name in names[:_MOST_ACTIONS]:
        yield f'    {json.dumps(scrub(name, 100), ensure_ascii=False)} = "kind/verb"'
    if len(names) > _MOST_ACTIONS:
        yield f"    (and {len(names) - _MOST_ACTIONS} more)"


def parties(feed: Feed, events: Sequence[AuditEvent]) -> Iterator[str]:
    """Yield what none of *events* has, though there is a path for it."""
    event = feed.event
    if not events:
        return
    if event.actor and not any(_is_known(each.actor) for each in events):
        yield "no event has event.actor"
    if event.target and not any(_is_known(each.target) for each in events):
        yield "no event has event.target"
    if event.actor_ip is not None and not any(
        each.actor.ip or each.actor.address for each in events
    ):
        yield "no event has event.actor_ip"


def _is_known(party: Any) -> bool:
    return bool(party.id or party.name or party.email)


def size(asked: int, came: int, *, last: bool) -> str | None:
    """Judge how many records *came* on a page of *asked*."""
    return None if last or came == asked else f"asked for pages of {asked}, got {came}"
