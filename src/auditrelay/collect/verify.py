"""
Compare a past range with its source: every event that it shows, with what became of it.

The range is read again at the source, in slices, and each event is looked up by its uid: was it
forwarded, and what did each sink make of it. Nothing is changed unless a repair is asked for.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, runtime_checkable

from auditrelay import __version__
from auditrelay.collect.backfill import MOST_AT_ONCE
from auditrelay.collect.collector import Collector
from auditrelay.collect.progress import OnProgress
from auditrelay.collect.reader import backfilled, belongs, well_inside
from auditrelay.collect.walk import in_halves, walk
from auditrelay.errors import ConfigError
from auditrelay.events import AuditEvent
from auditrelay.http.rate import in_background
from auditrelay.http.retry import pause
from auditrelay.sources import FileSource
from auditrelay.store import DeliveryStatus, Proof, Span, Store
from auditrelay.store.keys import known_key
from auditrelay.window import Interval, iso, moment, slices

LACKING: Final = "lacking"
"""What became of an event that was forwarded and that the sink itself does not hold."""

REFRESH_SECONDS: Final = 2.0
"""How long what a sink does not find may take to show up; Elasticsearch refreshes every second."""


@runtime_checkable
class Holder(Protocol):
    """A sink that can be asked which events it holds."""

    async def holds(self, events: Sequence[AuditEvent]) -> frozenset[str]:
        """Return the uids of those *events* that the sink holds. Raises RelayError."""


class Verifier:
    """
    One comparison of the source of *collector* over *span*.

    *holders* are sinks that are asked themselves, by name. With *repair* what is missing is
    forwarded: to every sink if it was never forwarded, else to the one that lacks it.
    """

    def __init__(
        self,
        collector: Collector,
        store: Store,
        *,
        span: Interval,
        sinks: Sequence[str],
        holders: Mapping[str, Holder],
        repair: bool,
        clock: Callable[[], datetime],
        tell: OnProgress,
    ) -> None:
        if isinstance(collector.source, FileSource):
            raise ConfigError(
                f"{collector.name} reads files and cannot be asked for a range: there is nothing "
                "to compare with"
            )
        self._collector = collector
        self._source = collector.source
        self._reader = collector.new_reader()
        self._store = store
        self._span = span
        self._sinks = sinks
        self._holders = holders
        self._repair = repair
        self._clock = clock
        self._tell = tell
        self._checked = 0
        self._digest = 0
        self._missing: list[dict[str, Any]] = []
        self._repaired = 0
        self._deleted: list[dict[str, Any]] = []
        self._fates: dict[str, Counter[str]] = {sink: Counter() for sink in sinks}
        self._partial: list[dict[str, str]] = []
        self._gaps: list[Span] = []

    async def run(self) -> dict[str, Any]:
        """Return the report, as ``verify --json`` prints it. Raises RelayError."""
        in_background()
        began = self._clock()
        await self._collector.checkpoint.refresh()
        name, span = self._collector.name, self._span
        self._gaps = [each for each in await self._store.ledger(name) if each.gap is not None]
        longest = self._collector.settings.max_window
        for part in slices(span, longest):
            await in_halves(name, part, self._compare, most=MOST_AT_ONCE)
        forwarded, digest = await self._store.count_forwarded(name, span)
        return {
            "source": name,
            "from": iso(span.start),
            "to": iso(span.end),
            "checked": self._checked,
            "digest_at_source": self._digest.to_bytes(20).hex(),
            "forwarded": forwarded,
            "digest_forwarded": digest,
            "sinks": {sink: dict(fates) for sink, fates in self._fates.items()},
            "asked_at_sink": sorted(self._holders),
            "missing": self._missing,
            "repaired": self._repaired,
            "deleted_at_source": self._deleted,
            "not_shown": self._partial,
            "began_at": iso(began),
            "ended_at": iso(self._clock()),
            "version": __version__,
        }

    async def _compare(self, part: Interval, most: int | None) -> None:
        """Compare one part; what it adds to the report counts only if all of it was shown."""
        before = await self._store.end_of_spool()
        shown: dict[str, AuditEvent] = {}
        last = None
        async with contextlib.aclosing(
            walk(self._source, part, self._reader.normalize, most=most)
        ) as pages:
            async for events, last in pages:  # noqa: B007  # the last of them is wanted
                shown.update((event.uid, event) for event in events if belongs(event, part))
        if last is not None and (last.partial or last.gaps):
            reasons = [(part, last.partial)] if last.partial else list(last.gaps)
            self._partial += [
                {"start": iso(each.start), "end": iso(each.end), "reason": reason}
                for each, reason in reasons
            ]
        found = list(shown.values())
        fates = await self._store.delivery_status(self._collector.name, found)
        lacking = await self._lacking(found, fates)
        wanted_by: dict[str, list[AuditEvent]] = {}
        for event, fate in zip(found, fates, strict=True):
            self._checked += 1
            self._digest ^= int(event.uid, 16)
            if fate is None:
                self._lack(event, self._sinks)
                continue
            without = []
            for sink, what in fate.items():
                here = LACKING if event.uid in lacking.get(sink, ()) else what
                # A sink may have been added since this began.
                self._fates.setdefault(sink, Counter())[here] += 1
                if here == LACKING:
                    without.append(sink)
                    wanted_by.setdefault(sink, []).append(event)
            if without:
                self._lack(event, without)
        await self._note_deleted(part, found, before)
        if self._repair:
            whole = last is not None and not (last.partial or last.gaps)
            await self._mend(found, wanted_by, Proof(covers=(part,) if whole else ()))
        await self._tell({"checked": self._checked, "missing": len(self._missing)})

    def _lack(self, event: AuditEvent, sinks: Sequence[str]) -> None:
        at = moment(event.at)
        self._missing.append(
            {
                "uid": event.uid,
                "native_id": event.native_id,
                "occurred_at": iso(at),
                "sinks": list(sinks),
                "gap": next(
                    (
                        span.gap
                        for span in self._gaps
                        if span.interval.start <= at < span.interval.end
                    ),
                    None,
                ),
            }
        )

    async def _lacking(
        self, found: Sequence[AuditEvent], fates: Sequence[Mapping[str, DeliveryStatus] | None]
    ) -> dict[str, set[str]]:
        """Ask the sinks that can be asked which of what they were given they do not hold."""
        lacking: dict[str, set[str]] = {}
        for sink, holder in self._holders.items():
            given = [
                event
                for event, fate in zip(found, fates, strict=True)
                if fate is not None and fate.get(sink) == "delivered"
            ]
            for wait in (REFRESH_SECONDS, None):
                holds = await holder.holds(given) if given else frozenset()
                given = [event for event in given if event.uid not in holds]
                if not given or wait is None:
                    break
                await pause(wait)
            lacking[sink] = {event.uid for event in given}
        return lacking

    async def _note_deleted(self, part: Interval, found: Sequence[AuditEvent], before: int) -> None:
        inside = well_inside(part)
        if inside is None:
            return
        seen = set(map(known_key, found))
        self._deleted += [
            {"uid": uid, "occurred_at": iso(at)}
            for uid, at in await self._store.find_deleted(
                self._collector.name, inside, seen, before
            )
        ]

    async def _mend(
        self,
        found: Sequence[AuditEvent],
        wanted_by: Mapping[str, Sequence[AuditEvent]],
        proof: Proof,
    ) -> None:
        marked = [backfilled(event) for event in found]
        added = await self._reader.add(marked, "repair", proof)
        self._repaired += len(added.new)
        for sink, events in wanted_by.items():
            again = [backfilled(event) for event in events]
            await self._store.resend(self._collector.name, [sink], again, Proof())
            self._reader.announce()
            self._repaired += len(again)
