"""
What a sink is: a product that takes batches of events and says what became of each.

A sink is one file here: its settings, how an event is written for it, how a batch is sent, and
what each of its answers means. It has no retry, sleep, clock, log or store; those belong to
``http`` and ``deliver``. The name of the module is the ``type`` in the configuration.

Below the contract stands what sinks do alike: write JSON, compress a body, keep back what is too
large, and read a refusal.
"""

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from isal import igzip

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.marks import NO_MARKS
from auditrelay.http.peer import Reply, check
from auditrelay.telemetry.logs import scrub

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
    and asks for less. *alone* are the
    indices of events that must be offered again at once, each in a batch of its own: the answer
    points at them, but too vaguely to judge them by it. *doubtful* counts those of both that the
    sink may hold all the same. *duplicates* counts events that the sink recognised as already
    stored, *diverted* those that it took and put elsewhere.

    With a *receipt*, what would have been delivered was only taken: it is delivered once the sink
    acknowledges it.
    """

    rejected: tuple[Rejection, ...] = ()
    retry: tuple[int, ...] = ()
    because: Retryable | None = None
    alone: tuple[int, ...] = ()
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


def available() -> list[str]:
    """Return the types of sink that exist: the names of the modules in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def dump(document: dict[str, Any]) -> bytes:
    """
    Return *document* as JSON on one line. Total: what JSON cannot hold becomes text.

    A record that is spliced in verbatim may hold line ends between its tokens, where they mean
    nothing; in a format of lines they would cut the document in two.
    """
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError:
        text = orjson.dumps(_writable(document))
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text


def _writable(value: Any) -> Any:
    """Return *value* in a form that orjson writes: valid Unicode, 64-bit numbers, plain kinds."""
    if isinstance(value, bool | float | orjson.Fragment) or value is None:
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, dict):
        return {_writable(str(key)): _writable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(each) for each in value]
    return str(value).encode("utf-8", "replace").decode("utf-8")


_OFF_LOOP = 64 * 1024
"""Bytes above which compressing takes longer (0.1 ms) than handing it to a thread costs."""


async def packed(body: bytes, compression: Literal["gzip", "none"]) -> tuple[bytes, dict[str, str]]:
    """Return *body* as it is to be sent, and the headers that say how."""
    if compression == "none":
        return body, {}
    if len(body) > _OFF_LOOP:
        content = await asyncio.to_thread(igzip.compress, body, 1)
    else:
        content = igzip.compress(body, 1)
    return content, {"Content-Encoding": "gzip"}


async def without_oversized(
    batch: Sequence[Item], most: int, send: Callable[[Sequence[Item]], Awaitable[Verdict]]
) -> Verdict:
    """
    *send* what of *batch* has at most *most* bytes an event; reject the others without sending.

    For products that truncate in silence, or drop the rest of a batch, when an event is too large.
    """
    return await without(
        batch,
        [
            Rejection(index, "too_large", f"{len(item.text)} bytes; the most is {most}")
            for index, item in enumerate(batch)
            if len(item.text) > most
        ],
        send,
    )


async def without(
    batch: Sequence[Item],
    unfit: Sequence[Rejection],
    send: Callable[[Sequence[Item]], Awaitable[Verdict]],
) -> Verdict:
    """*send* what of *batch* is not *unfit*, and add those rejections to the verdict."""
    if not unfit:
        return await send(batch)
    refused = {rejection.index for rejection in unfit}
    verdict = await only([i for i in range(len(batch)) if i not in refused], batch, send)
    return replace(verdict, rejected=(*unfit, *verdict.rejected))


async def only(
    fit: Sequence[int],
    batch: Sequence[Item],
    send: Callable[[Sequence[Item]], Awaitable[Verdict]],
) -> Verdict:
    """*send* the events of *batch* at the indices *fit*; the verdict is about *batch*."""
    verdict = await send([batch[index] for index in fit]) if fit else Verdict()
    return replace(
        verdict,
        rejected=tuple(replace(each, index=fit[each.index]) for each in verdict.rejected),
        retry=tuple(fit[index] for index in verdict.retry),
        alone=tuple(fit[index] for index in verdict.alone),
    )


def fault(reply: Reply, *, said: str = "", wait: float | None = None) -> RelayError:
    """
    Return what a *reply* that is no success means for the batch.

    Only 400 and 422 can be about an event. Any other refusal would meet every event alike, so
    it holds the sink instead of filling the dead letters. *said* are the product's own words,
    *wait* the seconds that it asks for in a way of its own.
    """
    try:
        check(reply, words=words(said), wait=wait)
    except Rejected as error:
        if isinstance(error, TooLarge) or error.status in (400, 422):
            return error
        return Refused(
            f"{error}; no event is the cause, check the address and what stands in between",
            status=error.status,
        )
    except RelayError as error:
        return error
    return unproven(reply, "the product's")


def unproven(reply: Reply, whose: str) -> Retryable:
    """Return the error for a success that proves nothing: its body is not *whose* it should be."""
    return Retryable(
        f"{reply.status} from {reply.where}, but the body is not {whose} answer "
        f"({len(reply.body)} bytes): something in between may have given it",
        reason="bad_reply",
        sent=True,
    )


def words(text: str) -> str:
    """Return what a product said in a form that can be shown: without secrets, bounded."""
    return scrub(text, 300)


def in_words(length: timedelta) -> str:
    """Return *length* as days, hours and minutes, the largest two that there are: ``3 d 7 h``."""
    minutes = length // timedelta(minutes=1)
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    said = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(said[:2]) or "less than a minute"
