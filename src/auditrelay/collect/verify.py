"""
Compare a past range with its source: every event that it shows, with its delivery status.

The range is read again at the source, in slices, and each event is looked up by its uid: was it
forwarded, and what is its status at each sink. Only a repair changes anything.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct, field

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.collect import long
from auditrelay.collect.backfill import IN_MEMORY
from auditrelay.collect.collector import Collector
from auditrelay.collect.evidence import Evidence
from auditrelay.collect.parts import Budget, PartLength, in_parts
from auditrelay.collect.reader import backfilled, rows_in, well_inside
from auditrelay.collect.unreadable import Failure, report
from auditrelay.collect.walk import walk
from auditrelay.events import AuditEvent
from auditrelay.events.exclude import Exclude
from auditrelay.events.notices import changed_uid
from auditrelay.events.page import Page
from auditrelay.sources import UNREADABLE
from auditrelay.sources import Page as SourcePage
from auditrelay.store import DeliveryStatus, Proof, Proved, Span
from auditrelay.store.keys import known_key, time_in_key, uid_bytes
from auditrelay.window import Interval, iso, micros, moment, slices

MISSING_AT_SINK: Final = "missing_at_sink"
"""The status of an event that was delivered, and that the sink itself does not find."""

UNPROVED: Final = "unproved"
"""The status of an event that is known, and that the evidence does not say to be accepted."""

NO_EXCLUDES: Final[Mapping[str, Exclude]] = MappingProxyType({})
"""That each sink is sent everything."""

_LISTED: Final = 1000
"""How many events are passed on at once."""

REFRESH_SECONDS: Final = 2.0
"""How long to wait for an index to refresh; Elasticsearch refreshes every second."""


class VerifyProgress(Struct, frozen=True, tag=True):
    """Progress of a comparison, in events."""

    checked: int
    missing: int


class Shown(Struct, frozen=True, tag=True):
    """
    Events that the source shows in the range from *start* to *end* (microseconds).

    Each is its time as it is in its key (``store.keys``), its uid, and the digest of its record.
    """

    start: int
    end: int
    events: tuple[tuple[int, str, str], ...]


class Missing(Struct, frozen=True):
    """
    An event that *sinks* lack: none, if it was never forwarded, and all of them exclude it.

    *gap* is the reason of the gap that it is in, if it is in one.
    """

    uid: str
    native_id: str | None
    occurred_at: str
    sinks: tuple[str, ...]
    gap: str | None


class Deleted(Struct, frozen=True):
    """A forwarded event that the source does not show any more."""

    uid: str
    occurred_at: str


class ChangedRecord(Struct, frozen=True):
    """
    A forwarded event whose record is shown with other content now.

    The digests (SHA-256, hexadecimal) are of the record as it was forwarded, shortened, and as it
    is. *fields* are those that differ; None if the former record is gone. *event* is the uid of the
    event that reports the new content; None if none was forwarded.
    """

    uid: str
    native_id: str | None
    occurred_at: str
    former_digest: str
    digest: str
    fields: tuple[str, ...] | None
    event: str | None


class NotShown(Struct, frozen=True):
    """A part of the range that the source did not show, and why."""

    start: str
    end: str
    reason: str


class VerifyReport(Struct, frozen=True, kw_only=True):
    """
    The outcome of a comparison, as ``verify --json`` prints it; times are ISO 8601 UTC.

    *sinks* has by sink how many events have which status there. The digests are SHA-256 over the
    keys (8 bytes of time, 20 of uid) in their order, and equal for equal sets of events: one that
    is shown with another time today has another key.
    """

    source: str
    start: str = field(name="from")
    end: str = field(name="to")
    checked: int
    digest_at_source: str
    forwarded: int
    digest_forwarded: str
    sinks: dict[str, dict[str, int]]
    asked_at_sink: tuple[str, ...]
    missing: tuple[Missing, ...]
    repaired: int
    deleted_at_source: tuple[Deleted, ...]
    changed: tuple[ChangedRecord, ...] = ()
    not_compared: int = 0
    """Records with other content that changed so often that they are not compared any more."""
    not_shown: tuple[NotShown, ...]
    began_at: str
    ended_at: str
    version: str
    axis: str = "event"
    """Which time the range is of at the source; what was forwarded is counted by the events' own,
    so that with ``recorded`` the two counts and digests may differ."""


@runtime_checkable
class Searchable(Protocol):
    """A sink that can be asked which events it has stored."""

    async def find_stored(self, events: Sequence[AuditEvent]) -> frozenset[str]:
        """Return the uids of those *events* that the sink has stored. Raises RelayError."""


class _Digest:
    """The digest of the keys in a range from *start* on, whose parts may come in any order."""

    def __init__(self, start: datetime) -> None:
        self._hash = sha256()
        self._until = start
        self._waiting: dict[datetime, tuple[datetime, bytes]] = {}

    def add(self, part: Interval, keys: Iterable[bytes]) -> None:
        """Add the *keys* in a *part*; they are kept only until the parts before it are there."""
        self._waiting[part.start] = part.end, b"".join(sorted(keys))
        while self._until in self._waiting:
            self._until, joined = self._waiting.pop(self._until)
            self._hash.update(joined)

    def hexdigest(self) -> str:
        """Return the digest, once all parts were added."""
        for _, (_, joined) in sorted(self._waiting.items()):
            self._hash.update(joined)
        return self._hash.hexdigest()


class Verifier:
    """
    One comparison of the source of *collector* over *span*.

    *searchable* are the sinks to ask themselves, by name. What *excludes* say that a sink is not
    sent is not missing there, whether it was sent before or not. With *repair* missing events are
    forwarded: to every sink if they were never forwarded, else to the sink that lacks them.
    *by* is the user id of the operator who asked for it. *on_progress* is called after each part;
    if it *lists*, first with what the source shows there.
    """

    def __init__(
        self,
        collector: Collector,
        store: Evidence,
        *,
        span: Interval,
        sinks: Sequence[str],
        searchable: Mapping[str, Searchable],
        excludes: Mapping[str, Exclude] = NO_EXCLUDES,
        repair: bool,
        lists: bool = False,
        clock: Clock,
        by: int | None = None,
        on_progress: Callable[[VerifyProgress | Shown], Awaitable[None]],
    ) -> None:
        self._collector = collector
        self._source = collector.source
        self._reader = collector.new_reader()
        self._writer = self._reader.writer
        self._store = store
        self._span = span
        self._sinks = sinks
        self._searchable = searchable
        self._excludes = excludes
        self._repairs = repair
        self._lists = lists
        self._clock = clock
        self._by = by
        self._on_progress = on_progress
        self._checked = 0
        self._digest = _Digest(span.start)
        self._missing: list[Missing] = []
        self._repaired = 0
        self._deleted: list[Deleted] = []
        self._changed: list[ChangedRecord] = []
        self._not_compared = 0
        self._statuses: dict[str, Counter[str]] = {sink: Counter() for sink in sinks}
        self._partial: list[NotShown] = []
        self._gaps: list[Span] = []
        self._proved: Proved | None = None

    async def run(self) -> VerifyReport:
        """Return the report. Raises RelayError."""
        began = self._clock.now()
        await self._collector.checkpoint.refresh()
        name, span = self._collector.name, self._span
        await self._list(())
        self._proved = await self._store.proved(name)
        self._gaps = [each for each in await self._store.ledger(name) if each.gap is not None]
        length = PartLength.of(self._collector.settings, IN_MEMORY)
        for part in slices(span, self._collector.settings.max_window):
            await in_parts(
                name,
                part,
                length,
                self._compare,
                answers=self._collector.probe.answers,
                give_up=self._pass_over,
            )
        forwarded, digest = await self._store.count_forwarded(name, span)
        return VerifyReport(
            source=name,
            start=iso(span.start),
            end=iso(span.end),
            checked=self._checked,
            digest_at_source=self._digest.hexdigest(),
            forwarded=forwarded,
            digest_forwarded=digest,
            sinks={sink: dict(statuses) for sink, statuses in self._statuses.items()},
            asked_at_sink=tuple(sorted(self._searchable)),
            missing=tuple(self._missing),
            repaired=self._repaired,
            deleted_at_source=tuple(self._deleted),
            changed=tuple(self._changed),
            not_compared=self._not_compared,
            not_shown=tuple(self._partial),
            began_at=iso(began),
            ended_at=iso(self._clock.now()),
            version=__version__,
            axis=self._collector.settings.axis,
        )

    async def _pass_over(self, span: Interval, error: Failure) -> None:
        """Report a *span* that the source cannot show, and go on behind it."""
        report(self._collector.name, span, error)
        self._digest.add(span, ())
        self._partial.append(NotShown(iso(span.start), iso(span.end), UNREADABLE))

    async def _compare(self, part: Interval, budget: Budget | None, *, finely: bool) -> int:
        """Compare one part; the report counts it only if the source showed all of it."""
        before = await self._store.end_of_spool(self._collector.name)
        shown = await self._read(part, budget, finely=finely)
        last = shown.last
        if last is not None and (last.partial or last.gaps):
            reasons = [(part, last.partial)] if last.partial else list(last.gaps)
            self._partial += [
                NotShown(iso(each.start), iso(each.end), reason) for each, reason in reasons
            ]
        found = list(shown.events.values())
        self._digest.add(part, map(known_key, found))
        await self._list(found)
        statuses = await self._store.delivery_status(
            self._collector.name, found, proved=self._proved
        )
        not_stored = await self._find_missing_at_sinks(found, statuses)
        to_resend: dict[str, list[AuditEvent]] = {}
        for event, by_sink in zip(found, statuses, strict=True):
            self._checked += 1
            if by_sink is None:
                self._record_missing(
                    event, [sink for sink in self._sinks if not self._is_excluded(event, sink)]
                )
                continue
            missing_at = []
            for sink, delivered in by_sink.items():
                unproved = delivered == UNPROVED
                missing = unproved or event.uid in not_stored.get(sink, ())
                # A sink may have been added since the comparison began.
                counts = self._statuses.setdefault(sink, Counter())
                counts[MISSING_AT_SINK if missing and not unproved else delivered] += 1
                if missing and not self._is_excluded(event, sink):
                    missing_at.append(sink)
                    to_resend.setdefault(sink, []).append(event)
            if missing_at:
                self._record_missing(event, missing_at)
        await self._compare_contents(shown.contents.values())
        await self._record_deleted(part, shown.seen, before)
        if self._repairs:
            whole = last is not None and not (last.partial or last.gaps)
            await self._repair(
                found, to_resend, Proof(covers=(part,) if whole else (), by=self._by)
            )
        await self._on_progress(VerifyProgress(self._checked, len(self._missing)))
        return len(found)

    async def _list(self, found: Sequence[AuditEvent]) -> None:
        """Pass on what was *found*, in pieces that fit into a line of the control socket."""
        start, end = micros(self._span.start), micros(self._span.end)
        for first in range(0, max(1, len(found)), _LISTED) if self._lists else ():
            events = tuple(
                (time_in_key(each), each.uid, each.raw_sha256)
                for each in found[first : first + _LISTED]
            )
            await self._on_progress(Shown(start, end, events))

    def _record_missing(self, event: AuditEvent, sinks: Sequence[str]) -> None:
        at = moment(event.at)
        gaps = (span.gap for span in self._gaps if span.interval.start <= at < span.interval.end)
        self._missing.append(
            Missing(event.uid, event.native_id, iso(at), tuple(sinks), next(gaps, None))
        )

    async def _read(self, part: Interval, budget: Budget | None, *, finely: bool) -> "_PartShown":
        shown = _PartShown()
        async with contextlib.aclosing(
            walk(
                self._source,
                part,
                self._writer.identify,
                background=True,
                finely=finely,
                budget=budget,
            )
        ) as pages:
            async for page, last, _ in pages:
                shown.last = last
                shown.seen.update(uid_bytes(page.uid))
                rows, content = rows_in(page, self._reader.bounds(part)), page.content
                events = await long.read(page.texts, page.page, rows)
                for row, event in zip(rows, events, strict=True):
                    shown.events[event.uid] = event
                    if content[row]:
                        shown.contents[event.uid, event.raw_sha256] = event
        return shown

    async def _compare_contents(self, shown: Collection[AuditEvent]) -> None:
        """Record which of *shown* have another content than was forwarded, and repair that."""
        walk = self._writer.compare()
        judged = await walk.judge(shown)
        walk.known += len(shown)
        reported = await walk.enter(judged) if self._repairs else []
        now_reported = {(each.uid, each.digest.hex()) for each in reported}
        for each in judged:
            if not each.is_changed:
                continue
            event = each.event
            known = each.reported or (event.uid, event.raw_sha256) in now_reported
            if each.left <= 0 and not known:
                self._not_compared += 1
                continue
            self._changed.append(
                ChangedRecord(
                    event.uid,
                    event.native_id,
                    iso(moment(event.at)),
                    each.former,
                    event.raw_sha256,
                    None if each.fields is None else tuple(field.field for field in each.fields),
                    changed_uid(event) if known else None,
                )
            )

    async def _find_missing_at_sinks(
        self, found: Sequence[AuditEvent], statuses: Sequence[Mapping[str, DeliveryStatus] | None]
    ) -> dict[str, set[str]]:
        """Return by searchable sink the uids of delivered events that the sink does not find."""
        missing: dict[str, set[str]] = {}
        for name, sink in self._searchable.items():
            wanted = [
                event
                for event, by_sink in zip(found, statuses, strict=True)
                if by_sink is not None
                and by_sink.get(name) == "delivered"
                and not self._is_excluded(event, name)
            ]
            for wait in (REFRESH_SECONDS, None):
                stored = await sink.find_stored(wanted) if wanted else frozenset()
                wanted = [event for event in wanted if event.uid not in stored]
                if not wanted or wait is None:
                    break
                await self._clock.sleep(wait)
            missing[name] = {event.uid for event in wanted}
        return missing

    def _is_excluded(self, event: AuditEvent, sink: str) -> bool:
        exclude = self._excludes.get(sink)
        return exclude is not None and exclude.glob_of(event) is not None

    async def _record_deleted(self, part: Interval, seen: set[bytes], before: int) -> None:
        inside = well_inside(self._reader.bounds(part))
        if inside is None:
            return
        self._deleted += [
            Deleted(uid, iso(at))
            for uid, at in await self._store.find_deleted(
                self._collector.name, inside, seen, before
            )
        ]

    async def _repair(
        self,
        found: Sequence[AuditEvent],
        to_resend: Mapping[str, Sequence[AuditEvent]],
        proof: Proof,
    ) -> None:
        """Forward the new ones of *found* to all sinks, and *to_resend* to its sink alone."""
        added = await self._writer.add(backfilled(Page.of(found)), "repair", proof)
        self._repaired += len(added.new)
        for sink, events in to_resend.items():
            again = backfilled(Page.of(events))
            await self._store.resend(self._collector.name, [sink], [again], Proof(by=self._by))
            self._writer.announce()
            self._repaired += len(again)


@dataclass(slots=True)
class _PartShown:
    """What the source shows of one part."""

    events: dict[str, AuditEvent] = dataclasses.field(default_factory=dict)
    """Of the part, by uid."""
    contents: dict[tuple[str, str], AuditEvent] = dataclasses.field(default_factory=dict)
    """Those that have an id, by uid and digest: two contents may be shown under one."""
    seen: set[bytes] = dataclasses.field(default_factory=set)
    """All uids, also beyond the part: a time may have been edited."""
    last: SourcePage | None = None
    """The last page."""
