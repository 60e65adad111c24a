"""
Send events as log records by OTLP over HTTP, to an OpenTelemetry Collector or what speaks like it.

The body of a record is the event in its form, as JSON text; attributes say which event it is, and
who did it. OTLP does not deduplicate: every record has its uid in ``auditrelay.uid``.

A success says that the next hop has the records, in memory mostly. It may have refused some of
them, and says how many, never which: so each is sent again alone, once, if ``partial`` allows it.

Protocol: https://opentelemetry.io/docs/specs/otlp/ (1.10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from typing import Final

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.sinks import Counts, Item, Limits, Rejection, Rendered, Verdict
from auditrelay.sinks._requests import MAX_ANSWER_BYTES, body_of, clean, dump, unproven
from auditrelay.sinks.otlp.answers import PRODUCT, Accepted, Answer
from auditrelay.sinks.otlp.records import ENCODINGS, UID, grouped
from auditrelay.sinks.otlp.settings import PATH, REQUEST_BYTES, Settings
from auditrelay.telemetry.metrics import Metrics

__all__ = ["EXAMPLE", "Settings", "Sink", "build"]

_RESOURCES: Final = 4_000
"""Bytes of a request that are kept free for its resources: about one hundred for each source."""

EXAMPLE = """\
[sinks.collector]
type = "otlp"

# The receiver of OTLP over HTTP; /v1/logs is added.
endpoint = "https://collector.example.com:4318"
# Headers that identify us, or name a tenant, such as
# { Authorization = "Bearer ${env:OTLP_TOKEN}", X-Scope-OrgID = "audit" }.
# headers = {}
# "json": for a receiver that does not read protobuf, the other encoding of OTLP.
# encoding = "protobuf"
# A receiver may take a request and refuse some of its records, and never says which. So each is
# sent again alone ("isolate"), or those are counted as dropped ("count").
# partial = "isolate"
# format = "ocsf"
# batch_bytes = "1MB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One receiver of log records."""

    deduplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._encoding = ENCODINGS[settings.encoding]
        self._form = FORMS[settings.format]
        self._bodies = Derived(self._body, SPLICED[settings.format])
        self._alone: set[int] = set()
        """The positions of events of which some were refused: each is sent again alone."""
        self._peer = Peer(
            name,
            settings,
            base_url=settings.endpoint,
            credentials=KeyCredentials(
                lambda: {key: secret.reveal() for key, secret in settings.headers.items()},
                list(settings.headers.values()),
            ),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_ANSWER_BYTES,
        )

    @property
    def limits(self) -> Limits:
        """As configured, and no record that would not fit into a request."""
        settings = self._settings
        return Limits(
            settings.batch_events,
            settings.batch_bytes - _RESOURCES,
            self._encoding.overhead,
            event_bytes=REQUEST_BYTES - _RESOURCES,
        )

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as a log record; what it has as its key is its resource."""
        bodies = self._bodies.texts(page, RenderContext(now, marks))
        return [Rendered(*each) for each in self._encoding.records(page, bodies)]

    def _body(self, event: AuditEvent, context: RenderContext) -> bytes:
        return dump(self._form(event, marks=context.marks))

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*; of events that go alone only the first, the others come next."""
        if not self._alone:
            return await self._send(batch)
        together = list(takewhile(lambda item: item.position not in self._alone, batch))
        verdict = await (self._send(together) if together else self._send_alone(batch[0]))
        left = range(len(together) or 1, len(batch))
        return replace(verdict, retry=(*verdict.retry, *left))

    async def _send_alone(self, item: Item) -> Verdict:
        """Send *item*, one of those of which some were refused; now it is known whether it was."""
        try:
            verdict = await self._send([item])
        except Rejected as error:
            verdict = Verdict(rejected=(Rejection.of(error),))
        self._alone.discard(item.position)
        return verdict

    async def _send(self, batch: Sequence[Item]) -> Verdict:
        records = grouped([(_resource_of(item), item.text) for item in batch])
        answer = await self._post(self._encoding.pieces(records), has_events=True)
        if answer.accepted is not None:
            return self._verdict(answer, answer.accepted, batch)
        error = answer.error()
        if isinstance(error, Rejected) and not isinstance(error, TooLarge):
            await self._ask()  # if not even that is taken, no event is the cause
        raise error

    async def _post(self, pieces: Sequence[bytes], *, has_events: bool = False) -> Answer:
        content, headers = await body_of(pieces, self._settings.compression, between=b"")
        headers["Content-Type"] = headers["Accept"] = self._encoding.media_type
        reply = await self._peer.request(
            "POST",
            PATH,
            headers=headers,
            content=content,
            status_counts=True,
            has_events=has_events,
        )
        return Answer.of(reply, empty_is_success=self._settings.encoding == "protobuf")

    def _verdict(self, answer: Answer, accepted: Accepted, batch: Sequence[Item]) -> Verdict:
        """Return what a success says about *batch*; it may have refused some of it, or all."""
        refused, count, said = accepted.refused, len(batch), clean(accepted.message)
        if not refused:
            return Verdict(warnings=(said,) if said else ())
        if not 0 < refused <= count:
            raise unproven(answer.reply, PRODUCT)
        what = f"{answer.reply.where}: it took the request and refused {refused} of {count} records"
        if refused == count:
            raise Rejected(
                f"{what}: {said or 'it does not say why'}",
                reason="partial_success",
                status=answer.reply.status,
            )
        if self._settings.partial == "count":
            warning = f"{what}, which are counted as dropped: {said}"
            return Verdict(counts=Counts(dropped=refused), warnings=(warning,))
        self._alone.update(item.position for item in batch)
        warning = f"{what} without saying which: each is sent again alone: {said}"
        return Verdict(
            retry=tuple(range(count)),
            counts=Counts(possibly_stored=count - refused),
            warnings=(warning,),
        )

    async def check(self) -> str:
        """
        Send a request without records.

        Where nothing but a status comes back, which any server may send, something that is no
        request must be refused as well.
        """
        answer = await self._ask()
        address = f"{self._settings.endpoint}{PATH}"
        if answer.reply.body:
            return f"{address} takes log records"
        other = await self._post([self._encoding.broken])
        if not 400 <= other.reply.status < 500:
            raise _without_records(other)
        return f"{address} takes log records; its answers have no words"

    async def _ask(self) -> Answer:
        """Send a request without records; raise Retryable or Refused if that is not taken."""
        try:
            answer = await self._post([self._encoding.empty])
        except (Retryable, Refused) as error:
            error.sent = False
            raise
        if answer.accepted is None:
            raise _without_records(answer)
        return answer

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Give no notice: OTLP knows no age; what stores the records may."""
        return None

    def query(self, uid: str) -> Sequence[str]:
        """Return the attribute by which the event *uid* is found, wherever the records end up."""
        return (f'the log record with the attribute {UID} = "{uid}"',)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _without_records(answer: Answer) -> RelayError:
    """Return the error of an *answer* to a request without records."""
    error = answer.error()
    if isinstance(error, Retryable | Refused):
        error.sent = False
        return error
    return Refused(
        f"{error}; not even a request without records is taken, check endpoint and encoding",
        status=answer.reply.status,
    )


def _resource_of(item: Item) -> bytes:
    assert isinstance(item.key, bytes)  # noqa: S101  # as this sink has rendered it
    return item.key
