"""
What survives a crash: the coverage ledger, the spool, the known uids, positions, dead letters.

The store is the only connection between collecting and delivering. What a caller needs of it is a
contract beside that caller: ``collect.ledger``, ``collect.evidence``, ``deliver.spool``,
``service.store``. Here are the types that they share, and what holds for all of them.

Each method that writes is one transaction, unless it says otherwise: when it returns, the write is
durable; when it raises, nothing was written. Cancelling the caller does not undo a write, so every
write must be correct even if its caller is gone.

Every method raises StateError if the state cannot be read or written, and every one that writes
raises StoreFull if the disk has no room. A source or sink must have been started before another
method is called for it, else that method raises KeyError. Each method names its further errors.
"""

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.window import Interval

REOPENED: Final = "reopened"
"""The reason of a gap that an operator has taken back: it is still to be read."""

DAMAGED: Final = "damaged"
"""The reason of a gap whose events were covered, and lost with a damaged page of the spool."""


NOTHING_EXCLUDED: Final[Mapping[str, Sequence[tuple[int, int]]]] = MappingProxyType({})
"""That no place is excluded by any glob."""


@dataclass(frozen=True, slots=True)
class Span:
    """
    One entry of a source's ledger: covered if *gap* is None, else a gap with that reason.

    *events* is the number of distinct events in the span.
    """

    interval: Interval
    gap: str | None = None
    events: int = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """
    A gap that was declared, or a declared gap that was read after all.

    *new* is false if the gap only extends an earlier entry of the same day.
    """

    interval: Interval
    reason: str
    new: bool


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Something that was read as a whole: its *key* is a digest of its content."""

    key: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Proof:
    """
    What the last page of a walk proves; entered in the same transaction as that page.

    *covers* are spans that were read to their end, *gaps* spans that cannot be read, with a reason
    each. *reopens* are spans whose gaps are to be read again, *retracts* spans whose gaps are as if
    they had never been declared. *file* has been read whole. *backfill* is the number of the
    backfill whose part this was. *by* is the user id of the operator who asked for it, if one has.
    """

    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()
    reopens: tuple[Interval, ...] = ()
    retracts: tuple[Interval, ...] = ()
    file: KnownFile | None = None
    backfill: int | None = None
    part: Interval | None = None
    """The part of the backfill that is done once this is entered."""
    read: int = 0
    """How many events the source showed of that part."""
    new: int = 0
    """How many of them were new, on the pages before this one."""
    by: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """
    The result of storing a page: *new* are the indices of the events that were spooled.

    *known* is how many were deduplicated. *late* are the indices of the new events in a span that
    was covered before. *declared* and *filled* are the gaps that the proof declared and closed.
    """

    new: tuple[int, ...]
    known: int
    late: tuple[int, ...] = ()
    declared: tuple[Declared, ...] = ()
    filled: tuple[Declared, ...] = ()


@dataclass(frozen=True, slots=True)
class LookedUp:
    """
    What a look-up of a page has found, as rows of it.

    *new* are those whose uid is not known, each distinct uid once. *changed* are those that have
    another content than was forwarded or accepted under their uid.
    """

    new: list[int]
    changed: list[int]


@dataclass(frozen=True, slots=True)
class Contents:
    """
    The contents of one known record: how their *digests* begin (hexadecimal, the newest first).

    The last one is that of the event itself, at *place* in the spool, or what was accepted in its
    place. There is none if it was forwarded before digests were kept. So many further contents as
    are *left* are reported or accepted; then the record is not compared any more.
    """

    digests: tuple[str, ...]
    place: int
    left: int

    def is_other(self, digest: bytes) -> bool:
        """Return whether a content with this *digest* is another one, and is to be compared."""
        return self.left > 0 and not self.has(digest)

    def has(self, digest: bytes) -> bool:
        """Return whether the content with this *digest* was forwarded or accepted."""
        return any(map(digest.hex().startswith, self.digests))


@dataclass(frozen=True, slots=True)
class Changed:
    """
    Another content of the record with this *uid* and this *digest* (of its text, SHA-256).

    *event* reports it; None if the content is accepted in place of the first one. *at* is the time
    that the record tells (see ``known_times``).
    """

    uid: str
    at: int
    digest: bytes
    event: AuditEvent | None


Notice = Callable[[Declared, bool], AuditEvent]
"""Makes the event that reports a gap: that it was declared, or (true) that it was filled."""


@dataclass(frozen=True, slots=True)
class SpoolPage:
    """
    Events from the spool, of one source, at the places [*first*, *first* + len(*events*)).

    *size* is about how many bytes of memory they take.
    """

    first: int
    source: str
    events: Page
    size: int


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a sink has read the spool; only the store that made it looks inside."""

    ends: tuple[int, ...]
    """In each log that was read, the place behind what was read."""
    at_end: bool = False
    """Whether nothing more waited then; if not, another read shows whether it does."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that *sink* will never accept, and why."""

    event: AuditEvent
    reason: str
    message: str
    status: int | None
    attempts: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """
    The *place* in the spool of an event that a sink will never accept, and why.

    If it is to be *reduced*, the sink is sent a reduced copy of it (``events.reduced``).
    """

    place: int
    reason: str
    message: str
    status: int | None
    attempts: int
    first_at: datetime
    last_at: datetime
    reduced: bool = False


class LetterOf(NamedTuple):
    """Which dead letter is meant, besides its id: that of the event *uid* for *sink*."""

    uid: str
    sink: str | None


NO_LETTERS: Final[Mapping[int, LetterOf]] = {}
"""What ids are the letters of, where nothing but the ids is known."""


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """
    A dead letter in the store; *sink* is None for a record that was rejected before any sink.

    *replayed* is true while it is being replayed.
    """

    id: int
    sink: str | None
    source: str
    letter: DeadLetter
    replayed: bool = False

    @property
    def of(self) -> LetterOf:
        """Which letter it is, should its id be given to another one."""
        return LetterOf(self.letter.event.uid, self.sink)


OfLetter = Callable[[StoredDeadLetter], bool]
"""Says whether something is so of a dead letter. It may be called on another thread, and again."""


def never(_: StoredDeadLetter) -> bool:
    """Return that it is so of no dead letter."""
    return False


DeliveryStatus = Literal[
    "delivered", "waiting", "dead_letter", "dropped", "excluded", "before_sink", "unproved"
]
"""
The status of a forwarded event at one sink.

``dropped``: a dead letter that an operator discarded. ``excluded``: when it came, the sink's
``exclude`` said not to send it. ``before_sink``: the event was forwarded
before the sink received that source. ``unproved``: it is known, and the evidence does not say that
it was accepted (:class:`Proved`).
"""


@dataclass(frozen=True, slots=True)
class Proved:
    """
    Which known uids the evidence tells of, by their places: where others are known, one was edited.

    *ranges* of places below *end* are sorted, and disjoint; what came later was not looked at, but
    for *strays*. *aside*: those that were put aside, which have no place, are as many as facts say.
    """

    ranges: Sequence[tuple[int, int]]
    end: int
    strays: frozenset[int]
    aside: bool

    def has(self, place: int) -> bool:
        """Return whether the uid that is known at *place* was accepted, as far as facts tell."""
        if place < 0:
            return self.aside
        if place >= self.end:
            return place not in self.strays
        number = bisect(self.ranges, (place, self.end)) - 1
        return number >= 0 and place < self.ranges[number][1]


@dataclass(frozen=True, slots=True)
class Backfill:
    """A started backfill: its number, its range, and which parts of it are done."""

    id: int
    interval: Interval
    done: tuple[Interval, ...]
    events: int = 0
    new: int = 0


@dataclass(frozen=True, slots=True)
class Lateness:
    """
    How many late events were found *via* one kind of read, in one bucket of age.

    They were at most *seconds* old when found, and older than half of that.
    """

    via: str
    seconds: int
    events: int


@dataclass(frozen=True, slots=True)
class FoundLate:
    """
    Late events that were found *via* one kind of read in a ledger entry: *start* to *end*.

    They were found within one day, the last of them when *recorded*. Times are microseconds.
    """

    start: int
    end: int
    events: int
    via: str
    recorded: int


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of the evidence: its *body*, and when and in which *entry* it was sealed."""

    body: dict[str, Any]
    at: int
    """Microseconds; of an open fact when it was written."""
    entry: int | None
    """None while it waits for the next seal."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was read of a source, and the *facts* that tell of it; *head* is the newest head."""

    spans: tuple[Span, ...]
    facts: tuple[Fact, ...]
    head: str | None
    lateness: tuple[Lateness, ...]
    deleted_at_source: int


@dataclass(frozen=True, slots=True)
class SourceState:
    """
    The state of a source: where it *started*, its ledger, its *condition*.

    *late* are the newest finds of events in time that was covered before.
    *waiting* is at most how many of its events some sink has yet to acknowledge. *dead_letters*
    counts its records that were rejected before any sink.
    """

    name: str
    started: datetime
    ledger: tuple[Span, ...]
    lateness: tuple[Lateness, ...]
    late: tuple[FoundLate, ...]
    waiting: int
    dead_letters: int
    condition: SourceCondition


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert that was raised: its *code*, what it is *about*, and its two sentences."""

    code: str
    about: str
    """The kind and the name."""
    what: str
    todo: str


@dataclass(frozen=True, slots=True)
class SinkState:
    """The state of a sink: its *position*, its backlog, its *condition*."""

    name: str
    position: int
    backlog_events: int
    oldest_undelivered: datetime | None
    dead_letters: int
    condition: SinkCondition
