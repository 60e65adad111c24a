"""
The contract of a sink: a product that accepts batches of events and answers for each event.

A sink is one module here: its settings and an example of them, how events are rendered for it, how
a batch is sent, and what each of its responses means. It has no retry, sleep, log or store;
those belong to ``http`` and ``deliver``. The name of the module is the ``type`` in the
configuration; it has ``Settings``, ``EXAMPLE`` and ``build``. Receivers that are described in files
are all of ``described``.

What sinks over HTTP have in common (write JSON, compress a body, translate error responses) is in
``_requests``; its underscore marks it as no sink type.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from importlib import import_module
from pkgutil import iter_modules
from typing import Final, Literal, NamedTuple, Protocol, Self

import msgspec

from auditrelay.clock import Clock
from auditrelay.errors import Rejected, Retryable, TooLarge
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.events.reduced import ACTION as REDUCED
from auditrelay.settings import SinkSettings
from auditrelay.telemetry.metrics import Metrics

Form = Literal["asim", "cim", "datadog", "ecs", "ocsf", "raw"]
"""The forms that a sink can be configured for: the keys of ``events.forms.FORMS``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The most that one request to a sink may contain.

    *bytes* counts the uncompressed body; *overhead* is what each event adds to it beyond its own
    text (separators). An event of more than *event_bytes* is not sent: it becomes a dead letter.
    """

    events: int
    bytes: int
    overhead: int = 1
    event_bytes: int | None = None


class Unfit(NamedTuple):
    """Why an event is not sent but becomes a dead letter: a short code, and a message."""

    reason: str
    message: str


ANY_AGE: Final = (-(2**63), 2**63)
"""The ages for a text that does not depend on when it is sent."""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """An event as a sink expects it."""

    text: bytes
    key: object = None
    """What the sink needs to know about the text when it sends it; only the sink reads it."""
    ages: tuple[int, int] = ANY_AGE
    """
    The least and the most age of the event (microseconds; negative: it is in the future) at which
    it may be sent so. At any other it is rendered again.
    """
    unfit: Unfit | None = None
    """Why the sink must not be sent it; None: it may."""


class Item(msgspec.Struct, gc=False):
    """
    An event on its way to one sink: where it is in the spool, and how it was rendered.

    That is all that stays in memory of an event once it is rendered. It never changes; it is not
    frozen because one is made for each event, and a frozen one takes longer to make.
    """

    position: int
    uid: str
    source: str
    """The name of its source in the configuration."""
    at: int
    """When it happened: microseconds since 1970 UTC."""
    text: bytes
    key: object = None
    ages: tuple[int, int] = ANY_AGE
    unfit: Unfit | None = None
    reduced: bool = False
    """
    Whether it is a reduced copy, of contents that no product refuses: that it is accepted says
    nothing about other events.
    """
    live: bool = True
    """Whether it is meant to come soon: it is not of a backfill, a replay or auditrelay itself."""

    @classmethod
    def of_page(
        cls, positions: Iterable[int], page: Page, rendered: Sequence[Rendered], limits: Limits
    ) -> list[Self]:
        """Return the items for the events of *page*; texts that will not be sent are left out."""
        most = limits.event_bytes
        sorts = [
            (
                sort.source,
                sort.native_action == REDUCED,
                not (sort.backfill or sort.replayed or sort.notice),
            )
            for sort in page.sorts
        ]
        items = []
        for position, uid, sort, at, each in zip(
            positions, page.uid, page.sort, page.at, rendered, strict=True
        ):
            text, unfit = each.text, each.unfit
            if unfit is None and most is not None and len(text) > most:
                unfit = Unfit("too_large", f"{len(text)} bytes; the limit is {most}")
            if unfit is not None:
                text = b""
            source, reduced, live = sorts[sort]
            items.append(
                cls(position, uid, source, at, text, each.key, each.ages, unfit, reduced, live)
            )
        return items


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    An event that the sink will never accept: the *index* in the batch, and why.

    *reason* is a short code, *message* the error of the sink (bounded; scrubbed where it is shown
    or stored). *status* is None if auditrelay rejected the event without sending it. *target* is
    the part of the sink that the event was for, such as an index, as in the ``key`` of its item;
    None: the sink as a whole. What is refused for one target says nothing about another.
    """

    index: int
    reason: str
    message: str
    status: int | None = None
    target: str | None = None

    @classmethod
    def of(cls, error: Rejected, index: int = 0) -> Self:
        """Return the rejection for *error*, raised for an event that was sent alone."""
        reason = "too_large" if isinstance(error, TooLarge) else error.reason
        return cls(index, reason, str(error), error.status)


class Channel(Protocol):
    """
    Where a sink reports later which batches it has acknowledged.

    Channels are compared by identity.
    """

    ack_timeout: timedelta
    """How long an acknowledgement may take."""

    @property
    def lost(self) -> bool:
        """Whether what is outstanding can never be acknowledged any more."""

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        """
        Return which of *numbers* the sink has acknowledged. It may report each of them only once.

        Raises Retryable if the sink cannot be reached, Refused if it refuses to answer.
        """

    def retire(self) -> None:
        """Use the channel for no further batch."""


@dataclass(frozen=True, slots=True)
class AckId:
    """The sink will acknowledge a batch later, under *number* on *channel*."""

    channel: Channel
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many events of a batch, by what happened to them besides being delivered."""

    possibly_stored: int = 0
    """Resent, or to be resent, although the sink may have stored them."""
    duplicates: int = 0
    """Already stored, and deduplicated by the sink."""
    restamped: int = 0
    """Sent with another time than their own."""
    stored_elsewhere: int = 0
    """Stored elsewhere by the sink, for example in a failure store."""
    dropped: int = 0
    """Taken and not stored: the sink's own processing has dropped them."""
    unsearched: int = 0
    """
    Stored by a sink that deduplicates, while it could not be asked whether they were already: they
    count as possible duplicates.
    """
    changed: int = 0
    """Already stored, with other content."""


_NO_COUNTS: Final = Counts()


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The outcome of a batch: each event that is in neither *rejected* nor *retry* was delivered.

    With an *ack_id* such events were only accepted: they are delivered once the sink acknowledges
    that id.
    """

    rejected: tuple[Rejection, ...] = ()
    """The events that the sink will never accept."""
    retry: tuple[int, ...] = ()
    """The indices of the events that the sink did not accept and may accept later."""
    retry_reason: Retryable | None = None
    """Why, and how long to wait; None: they can be resent at once."""
    ack_id: AckId | None = None
    """Where the batch will be acknowledged, if the sink acknowledges later."""
    throttled: bool = False
    """Whether the sink accepted the batch and asks for less."""
    counts: Counts = _NO_COUNTS
    """How many events are to be counted for something else than their delivery."""
    warnings: tuple[str, ...] = ()
    """What an operator should know about the batch."""

    def within(self, indices: Sequence[int]) -> Self:
        """Return this verdict, on the events at *indices* of a batch, in terms of that batch."""
        return replace(
            self,
            rejected=tuple(replace(each, index=indices[each.index]) for each in self.rejected),
            retry=tuple(indices[index] for index in self.retry),
        )


class Part(NamedTuple):
    """Events of a batch that a sink stores together, as one thing with one *name*."""

    name: str
    indices: Sequence[int]
    """Which of the batch."""


class Sealing(ABC):
    """
    What a :class:`Sink` has as well that stores each part of a batch under a name, once.

    Such a part is sealed before it is sent: its name and its events are written down, and after a
    crash it is sent again exactly so (``deliver.sealing``). So whatever was stored already is
    found under its name, at any distance in time.
    """

    @abstractmethod
    def parts(self, batch: Sequence[Item], log: str, now: datetime) -> Sequence[Part]:
        """
        Return the parts of *batch*, which together are all of it, sealed *now*.

        No two batches may get the same name unless they have the same events; *log* is that of the
        state's evidence, which no other state has.
        """

    @abstractmethod
    async def put(self, batch: Sequence[Item], name: str, *, again: bool) -> Counts:
        """
        Store *batch*, which is one part, as *name*, unless there is something of that name.

        *again*: it may be there already, from an earlier time. Raises as :meth:`Sink.send` does.
        """

    @abstractmethod
    async def holds(self, name: str, digest: str) -> bool:
        """
        Return whether there is something of that *name*, whose events have the *digest*.

        Raises Retryable if that cannot be found out, Refused if it has another digest.
        """


def digest_of(batch: Iterable[Item]) -> str:
    """Return the digest of the uids of *batch*, in its order: SHA-256, in hexadecimal."""
    return sha256(b"\n".join(item.uid.encode() for item in batch)).hexdigest()


class Sink(Protocol):
    """One configured destination."""

    deduplicates: bool
    """Whether the product deduplicates: an event that is sent twice is stored once, by its uid."""

    @property
    def limits(self) -> Limits:
        """The most that one call of :meth:`send` may contain."""

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """
        Return each event of *page* as this sink expects it *now*. Total: every event renders.

        *now* is in microseconds since 1970 UTC. *marks* are added under ``auditrelay``: properties
        of this delivery, such as that it is a test.
        """

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Send *batch*, none of whose events is unfit, and return the outcome of each.

        Returning means that the sink has taken responsibility for every event that the verdict
        neither rejects nor retries, or that it will, once it acknowledges the verdict's *ack_id*.
        Raising means that it has taken none: Retryable or Refused (with *sent* true if it may have
        stored them all the same), Rejected, or TooLarge.
        """

    async def check(self) -> str:
        """
        Test address and credentials with a harmless request that stores nothing.

        Returns a plain sentence for the operator. Raises RelayError.
        """

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """
        Return a warning about a backfill of *start* to *end* that is sent *now*, or None.

        For the operator, before the backfill begins. Makes no request.
        """

    def query(self, uid: str) -> Sequence[str]:
        """Return searches that find the event *uid* in the product, a line each."""

    async def close(self) -> None:
        """Release connections and files."""


def make(name: str, settings: SinkSettings, metrics: Metrics, clock: Clock) -> Sink:
    """Return the sink that the configuration calls *name*, of the type of *settings*."""
    module = settings.type if settings.type in available() else "described"
    sink: Sink = import_module(f"{__name__}.{module}").build(name, settings, metrics, clock)
    return sink


def available() -> list[str]:
    """Return the types of sink that are modules of this package."""
    names = (module.name for module in iter_modules(__path__))
    return sorted(name for name in names if name != "described" and not name.startswith("_"))
