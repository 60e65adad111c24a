"""
What a sink is: a product that takes batches of events and says what became of each.

A sink is one file here: its settings, how an event is written for it, how a batch is sent, and
what each of its answers means. It has no retry, sleep, clock, log or store; those belong to
``http`` and ``deliver``. The name of the module is the ``type`` in the configuration.

This file is the contract. What sinks over HTTP do alike (write JSON, compress a body, keep back
what is too large, read a refusal) is the toolbox ``_requests``, whose underscore says that it is no
type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, NamedTuple, Protocol, Self

from auditrelay.errors import Rejected, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.marks import NO_MARKS
from auditrelay.settings import SinkSettings
from auditrelay.telemetry.metrics import Metrics

Form = Literal["cim", "datadog", "ecs", "ocsf", "raw"]
"""The forms that a sink can be asked for: the keys of ``events.forms.FORMS``."""


class Known(Protocol):
    """What must be known of an event on its way; an AuditEvent is one, and so is an Origin."""

    @property
    def uid(self) -> str:
        """The event's identity for life."""

    @property
    def source(self) -> str:
        """The name of its source in the configuration."""

    @property
    def at(self) -> int:
        """When it happened: microseconds since 1970 UTC."""


class Origin(NamedTuple):
    """All that is kept of an event once its text is made: the rest lies in the spool."""

    uid: str
    source: str
    at: int


@dataclass(frozen=True, slots=True)
class Item:
    """An event on its way to one sink: its place in the spool, and its text for this sink."""

    position: int
    event: Known
    text: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    An event that the sink will never accept: the *index* in the batch, and why.

    *reason* is a short code, *message* the sink's own words (bounded, scrubbed by whoever shows
    or stores them). *status* is None if we have decided it ourselves, without asking the sink.
    """

    index: int
    reason: str
    message: str
    status: int | None = None

    @classmethod
    def of(cls, error: Rejected, index: int = 0) -> Self:
        """Return what *error*, raised for an event that was sent alone, says of it."""
        reason = "too_large" if isinstance(error, TooLarge) else error.reason
        return cls(index, reason, str(error), error.status)


class Channel(Protocol):
    """
    Where a sink tells later what it has acknowledged: the other half of a Verdict's receipt.

    A channel is compared by identity. *patience* is how long an acknowledgement may take.
    """

    patience: timedelta
    lost: bool
    """Whether nothing can be learnt any more about what is outstanding."""

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        """
        Return which of *numbers* the sink has acknowledged. It may tell each of them only once.

        Raises Retryable if it could not be asked, Refused if it will not answer.
        """

    def retire(self) -> None:
        """Use the channel for no further batch."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The sink has a batch, and will acknowledge it later under *number* of *channel*."""

    channel: Channel
    number: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What became of a batch: each event that is named nowhere here was delivered.

    *retry* are the indices of events that the sink did not take but may take later; *because*
    says why and how long to wait, or is None if they can be sent again at once. *restamped* counts
    events that went with another time than their own; *crowded* says that the sink took everything
    and asks for less. *doubtful* counts the events that were sent again, or are to be, although
    the sink may hold them. *duplicates* counts events that the sink recognised as already stored,
    *diverted* those that it took and put elsewhere.

    With a *receipt*, what would have been delivered was only taken: it is delivered once the sink
    acknowledges it.
    """

    rejected: tuple[Rejection, ...] = ()
    retry: tuple[int, ...] = ()
    because: Retryable | None = None
    doubtful: int = 0
    duplicates: int = 0
    restamped: int = 0
    diverted: int = 0
    crowded: bool = False
    warnings: tuple[str, ...] = field(default=())
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The most that one request of a sink may hold.

    *bytes* counts the uncompressed body; *overhead* is what each event adds to it beyond its own
    text (separators), *event_bytes* the largest single text that the product accepts.
    """

    events: int
    bytes: int
    event_bytes: int
    overhead: int = 1


class Sink(Protocol):
    """One configured destination."""

    recognises_duplicates: bool
    """Whether an event that is sent twice is stored once, by its uid."""

    @property
    def limits(self) -> Limits:
        """The most that one call of :meth:`send` may hold."""

    def render(self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> bytes:
        """
        Return *event* as this sink wants it. Total: every event renders.

        *marks* are added under ``auditrelay``: what is true of this delivery, such as that it is
        a replay.
        """

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Offer *batch*, and say what became of each event.

        Returning means that the sink has taken responsibility for every event that the verdict
        does not name, or with a receipt that it will. Raising means that it has taken none:
        Retryable or Refused (with *sent* true if it may hold them all the same), Rejected, or
        TooLarge.
        """

    async def check(self) -> str:
        """
        Prove address and credentials with a harmless request that stores nothing.

        Returns a plain sentence for the operator, raises RelayError.
        """

    def foresee(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """
        Say what will become of events of *start* to *end*, sent *now*, if it is not the usual.

        For whoever is about to fetch a past range (a backfill), before it begins. None: nothing
        out of the ordinary. Asks nobody.
        """

    def query(self, event: Known) -> Sequence[str]:
        """Return how to find *event* in the product: a line for each way, its name before it."""

    async def close(self) -> None:
        """Release connections and files."""


def make(name: str, settings: SinkSettings, metrics: Metrics) -> Sink:
    """Return the sink that the configuration calls *name*, of the type that *settings* are of."""
    sink: Sink = import_module(f"{__name__}.{settings.type}").build(name, settings, metrics)
    return sink


def available() -> list[str]:
    """Return the types of sink that exist: the modules of this folder without an underscore."""
    names = (module.name for module in iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))
