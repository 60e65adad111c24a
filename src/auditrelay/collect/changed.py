"""
Find records that a source shows with other content under the uid of a known event.

A look-up says which digests differ (``Intake.look_up``). What differs is held until the walk has
ended, then compared with the record that was forwarded, if the spool still has it. A record that
says the same, spelt in another way, is accepted; another one is reported by an event of its own.
Where many records of a walk differ the vendor has changed what its records look like: that is one
finding, which names the fields, instead of an event for each.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import structlog

from auditrelay.clock import Clock
from auditrelay.collect import long
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import Intake
from auditrelay.events import AuditEvent, Change
from auditrelay.events.changes import changed_fields
from auditrelay.events.normalize import IdentifiedPage, Normalizer
from auditrelay.events.notices import changed_event
from auditrelay.store import Changed, Contents
from auditrelay.store.keys import known_times, time_in_key
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import micros

MANY: Final = 10
"""So many changed records of a walk at least are a new form of the records..."""

SHARE: Final = 20
"""...if they are more than one in so many of those that were known."""

MAX_HELD: Final = 2_500
"""How many records are held until the end of a walk, at most."""

MAX_HELD_BYTES: Final = 4 << 20
"""How many bytes they have, at most."""

MAX_NAMED: Final = 10
"""How many fields a finding names."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """
    A known record with another content than was forwarded: *event* is what it is now.

    *former* is the digest of what was forwarded, empty if none was kept. *fields* differ: none if
    it is only spelt in another way; None if the former record is gone. *reported*: by an event,
    before. So many further contents as are *left* can be.
    """

    event: AuditEvent
    at: int
    former: str
    fields: Sequence[Change] | None
    reported: bool
    left: int

    @classmethod
    def of(cls, event: AuditEvent, at: int, known: Contents, former: AuditEvent | None) -> Self:
        """Compare *event* with the *former* one, if that is still there."""
        return cls(
            event,
            at,
            known.digests[-1] if known.digests else "",
            None if former is None else changed_fields(bytes(former.raw), bytes(event.raw)),
            known.has(bytes.fromhex(event.raw_sha256)),
            known.left,
        )

    @property
    def is_changed(self) -> bool:
        """Whether it says something else; without a digest nothing tells."""
        return bool(self.former) and self.fields != ()


class ChangedRecords:
    """
    The changed records of one walk of the source *name*.

    Give it each page (:meth:`look_up`), and call :meth:`report` once the pages are stored.
    """

    def __init__(
        self,
        name: str,
        *,
        normalizer: Normalizer,
        store: Intake,
        metrics: Metrics,
        clock: Clock,
        health: SourceHealth,
        write_when_room: Callable[
            [Callable[[], Awaitable[list[Changed]]]], Awaitable[list[Changed]]
        ],
        announce: Callable[[], None],
    ) -> None:
        self._name = name
        self._normalizer = normalizer
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._health = health
        self._write_when_room = write_when_room
        self._announce = announce
        self._held: dict[tuple[str, bytes], bytes] = {}
        """The texts of the records, by uid and digest: a page that moved is shown twice."""
        self._bytes = 0
        self.known = 0
        """How many known records the walk has shown so far."""
        self._changed = 0

    @property
    def any_held(self) -> bool:
        """Whether :meth:`report` has something to do."""
        return bool(self._held)

    @property
    def is_full(self) -> bool:
        """Whether no more should be held."""
        return len(self._held) > MAX_HELD or self._bytes > MAX_HELD_BYTES

    async def look_up(self, shown: IdentifiedPage) -> list[int]:
        """Return which rows of *shown* are new, and hold those that are known and differ."""
        if not len(shown):
            return []
        found = await self._store.look_up(
            self._name, shown.uid, known_times(shown.at, shown.time_quality), shown.content
        )
        self.known += len(shown) - len(found.new)
        for row in found.changed:
            text = shown.texts[row]
            self._held[shown.uid[row], shown.sha256[row]] = text
            self._bytes += len(text)
        return found.new

    async def report(self) -> None:
        """Report what is held. Raises StoreFull if there is no room for the events."""
        if not self._held:
            return
        texts = list(self._held.values())
        self._held.clear()
        self._bytes = 0
        fetched = micros(self._clock.confirmed.now(self._name))
        events = await long.read(texts, self._normalizer, texts, fetched)
        await self.enter(await self.judge(events))

    async def judge(self, events: Iterable[AuditEvent]) -> list[Judged]:
        """Return those of *events* that are known and have another content than was forwarded."""
        shown = list(events)
        times = [time_in_key(event) for event in shown]
        contents = await self._store.contents.contents_of(
            self._name, [event.uid for event in shown], times
        )
        others = [
            (event, at, content)
            for event, at, content in zip(shown, times, contents, strict=True)
            if content is not None and not event.raw_sha256.startswith(content.digests[-1:])
        ]
        former = await self._store.contents.spooled({content.place for _, _, content in others})
        return [
            Judged.of(event, at, content, former.get(content.place))
            for event, at, content in others
        ]

    async def enter(self, judged: Sequence[Judged]) -> list[Changed]:
        """Enter what was *judged*, with the events that report it; return the reported ones."""
        judged = [each for each in judged if each.left > 0 and not each.reported]
        changed = [each for each in judged if each.is_changed]
        self._changed += len(changed)
        many = self._changed >= MANY and self._changed * SHARE > self.known
        now = self._clock.now()
        changes = [
            Changed(
                each.event.uid,
                each.at,
                bytes.fromhex(each.event.raw_sha256),
                None
                if many or not each.is_changed
                else changed_event(
                    each.event, former=each.former, fields=each.fields, last=each.left == 1, now=now
                ),
            )
            for each in judged
        ]
        reported = await self._write_when_room(
            lambda: self._store.contents.report_changed(self._name, changes)
        )
        self._metrics.events_changed_at_source.labels(self._name).inc(
            len(changed) if many else len(reported)
        )
        if reported:
            self._announce()
            _log.warning("records_changed", source=self._name, count=len(reported))
        if many and changed:
            fields = _named(changed)
            _log.error("record_form_changed", source=self._name, count=len(changed), fields=fields)
            self._health.record_form_changed(fields)
        return reported


def _named(changed: Sequence[Judged]) -> list[str]:
    """Return the fields that differ in the most records; none if the former ones are gone."""
    counted = Counter(field.field for each in changed for field in each.fields or ())
    return [name for name, _ in counted.most_common(MAX_NAMED)]
