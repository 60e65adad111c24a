"""
Send events to Microsoft Sentinel, by the Logs Ingestion API of Azure Monitor.

A request has the rows of one stream of a data collection rule, and is taken whole or not at all.
Its 204 says no more than that: what the rule makes of the rows, or drops, stands in the table
``DCRLogErrors`` alone. Azure does not deduplicate; every row has its uid in ``EventUid``.

The form is ``asim``, with a stream for each of its two schemas; any other form stands in
``AdditionalFields`` of a row with the columns that say which event it is.

Azure replaces a ``TimeGenerated`` of more than two days ago, or of more than a day ahead, by the
time of receipt. The event's own time stays in ``EventStartTime``; such rows are marked and counted.

Protocol: https://learn.microsoft.com/en-us/azure/azure-monitor/logs/logs-ingestion-api-overview.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import uuid4

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Rejected, Retryable, TooLarge
from auditrelay.events.forms import SPLICED
from auditrelay.events.forms.asim import Schema, schema_of
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.http.peer import Peer
from auditrelay.sinks import ANY_AGE, Counts, Item, Limits, Rendered, Unfit, Verdict
from auditrelay.sinks._entra import token_credentials
from auditrelay.sinks._requests import MAX_ANSWER_BYTES, body_of, unproven
from auditrelay.sinks.azure_logs.answers import PRODUCT, Answer
from auditrelay.sinks.azure_logs.rows import FIELD_BYTES, Rows
from auditrelay.sinks.azure_logs.settings import REQUEST_BYTES, Settings
from auditrelay.telemetry.humanize import span
from auditrelay.telemetry.metrics import Metrics

__all__ = ["EXAMPLE", "Settings", "Sink", "build"]

_VERSION: Final = {"api-version": "2023-01-01"}
_MAX_AGE: Final = timedelta(days=2)
_MAX_AHEAD: Final = timedelta(days=1)
_TRANSIT_TIME: Final = timedelta(minutes=1)
"""How long a row may take to reach Azure's clock."""
_MICROSECOND: Final = timedelta(microseconds=1)
_OWN_TIMES: Final = (
    -(_MAX_AHEAD - _TRANSIT_TIME) // _MICROSECOND,
    (_MAX_AGE - _TRANSIT_TIME) // _MICROSECOND,
)
"""The ages at which Azure leaves an event its time."""
_BRACKETS: Final = 1
"""A list of n rows has n - 1 commas and two brackets: this much above one byte a row."""
_LARGE: Final = 64 * 1024
"""Bytes of a body from which on Azure has been seen to answer 404 for its size (Vector)."""
_TIME_RANGE: Final = timedelta(minutes=30) // _MICROSECOND
"""How far apart the rows of a request may be, in a table of the auxiliary plan."""

EXAMPLE = """\
[sinks.sentinel]
type = "azure_logs"

# The logs ingestion endpoint of the data collection rule ("kind": "Direct"), or of a data
# collection endpoint.
endpoint = "https://auditrelay-abcd.westeurope-1.ingest.monitor.azure.com"
# The immutable id of the rule.
rule_id = "dcr-00000000000000000000000000000000"
# The streams of the rule: of all events, and of those who sign in, sign out or act as another.
# stream = "Custom-AuditRelay"
# stream_authentication = "Custom-AuditRelayAuthentication"
# An application of Entra ID with the role Monitoring Metrics Publisher on the rule.
tenant_id = "00000000-0000-0000-0000-000000000000"
client_id = "00000000-0000-0000-0000-000000000000"
client_secret = "${env:AZURE_CLIENT_SECRET}"
# Instead of client_secret, where the platform identifies what runs on it: "managed", for a managed
# identity (client_id for one of several), or "workload", for workload identity on AKS.
# identity = "managed"  # no default
# "government" or "china": the cloud that all of this is in.
# cloud = "public"
# Where Entra ID gives tokens, in a cloud that has an address of its own for that.
# authority = "https://login.example.com"  # no default
# format = "asim"
# batch_bytes = "1MB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class _Target(NamedTuple):
    """What the sink has to know of a row: the stream that it is for, and its time."""

    stream: str
    restamped: bool


class Sink:
    """One data collection rule, as one application or identity."""

    deduplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._rows = Rows(settings.format)
        self._texts = Derived(self._rows.write, SPLICED[settings.format])
        self._streams: Mapping[Schema, str] = {
            "AuditEvent": settings.stream,
            "Authentication": settings.stream_authentication,
        }
        self._by_time = False
        """Whether the rows of a request must be close in time."""
        self._peer = Peer(
            name,
            settings,
            base_url=settings.endpoint,
            credentials=token_credentials(name, settings, settings.resource, metrics, clock),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_ANSWER_BYTES,
        )

    @property
    def limits(self) -> Limits:
        """As configured, and no row that would not fit into a request."""
        settings = self._settings
        return Limits(
            settings.batch_events,
            settings.batch_bytes - _BRACKETS,
            event_bytes=REQUEST_BYTES - _BRACKETS - 1,
        )

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as a row, marked if Azure restamps it when it is sent now."""
        youngest, oldest = _OWN_TIMES
        restamped = [not youngest <= now - at <= oldest for at in page.at]
        context = RenderContext(now, marks)
        texts = self._texts.texts(page, context, restamped)
        targets = [
            [_Target(stream, restamped=False), _Target(stream, restamped=True)]
            for sort in page.sorts
            for stream in [self._streams[schema_of(sort.kind, sort.verb)]]
        ]
        rendered = []
        for row, text in enumerate(texts):
            is_restamped = restamped[row]
            target = targets[page.sort[row]][is_restamped]
            ages = _OWN_TIMES if not is_restamped else _outside(now - page.at[row])
            if len(text) <= FIELD_BYTES:
                rendered.append(Rendered(text, target, ages))
                continue
            parts = target.stream.startswith("Custom-")
            fitted = self._rows.long(page[row], context._replace(choice=is_restamped), parts=parts)
            if isinstance(fitted, Unfit):
                rendered.append(Rendered(b"", target, ANY_AGE, fitted))
            else:
                rendered.append(Rendered(fitted, target, ages))
        return rendered

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Send the rows of *batch* that are for the stream of the first; the others come next.

        Azure takes the rows of a request or not. What is not said about one part of *batch* counts
        for all of it: rather too many possible duplicates than too few.
        """
        stream, chosen = self._first_part(batch)
        texts = [batch[index].text for index in chosen]
        answer = await self._post(stream, texts)
        if not answer.is_taken:
            return await self._of_refusal(answer, stream, batch, sum(map(len, texts)))
        left = set(range(len(batch))).difference(chosen) if len(chosen) < len(batch) else ()
        restamped = sum([_target(batch[index]).restamped for index in chosen])
        return Verdict(retry=tuple(sorted(left)), counts=Counts(restamped=restamped))

    def _first_part(self, batch: Sequence[Item]) -> tuple[str, Sequence[int]]:
        """Return the stream of the first row, and the indices of all that may go with it."""
        stream, at = _target(batch[0]).stream, batch[0].at
        chosen = [index for index, item in enumerate(batch) if _target(item).stream == stream]
        if self._by_time:
            half_hour = at // _TIME_RANGE
            chosen = [index for index in chosen if batch[index].at // _TIME_RANGE == half_hour]
        return stream, chosen

    async def _post(self, stream: str, texts: Sequence[bytes]) -> Answer:
        content, headers = await body_of(
            texts, self._settings.compression, start=b"[", between=b",", end=b"]"
        )
        headers["Content-Type"] = "application/json"
        headers["x-ms-client-request-id"] = request_id = str(uuid4())
        reply = await self._peer.request(
            "POST",
            f"/dataCollectionRules/{self._settings.rule_id}/streams/{stream}",
            params=_VERSION,
            headers=headers,
            content=content,
            status_counts=True,
            has_events=bool(texts),
        )
        return Answer.of(reply, request_id)

    async def _of_refusal(
        self, answer: Answer, stream: str, batch: Sequence[Item], size: int
    ) -> Verdict:
        """
        Raise what *answer* means for *batch*, of which *size* bytes were sent to *stream*.

        Whether it is the rows that are refused, an empty list tells: it is refused only where
        everything is. Returns a verdict if the same rows can be sent otherwise.
        """
        if answer.is_of_times and not self._by_time:
            self._by_time = True
            return Verdict(retry=tuple(range(len(batch))))
        error = answer.error()
        if answer.is_of_times and isinstance(error, Rejected):
            raise Refused(
                f"{error}; no request has rows of more than 30 minutes: give the rule a "
                "transformation, or the table another plan",
                status=error.status,
            )
        is_of_rows = isinstance(error, Rejected) and not isinstance(error, TooLarge)
        is_of_size = answer.reply.status == 404 and size > _LARGE
        if not (is_of_rows or is_of_size):
            raise error
        await self._check_stream(stream)
        if is_of_size:
            raise TooLarge(str(error), reason="status_404", status=404)
        raise error

    async def _check_stream(self, stream: str) -> None:
        """Raise Retryable or Refused unless *stream* takes an empty list. No row is sent."""
        try:
            answer = await self._post(stream, [])
        except (Retryable, Refused) as error:
            error.sent = False
            raise
        if answer.reply.status == 204:
            return
        refusal = unproven(answer.reply, PRODUCT) if answer.is_taken else answer.error()
        if isinstance(refusal, Retryable | Refused):
            refusal.sent = False
            raise refusal
        raise Refused(
            f"{refusal}; not even an empty list is taken, check rule_id and stream",
            status=answer.reply.status,
        )

    async def check(self) -> str:
        """Send an empty list to each stream: address, rule, stream and rights must be right."""
        streams = list(dict.fromkeys(self._streams.values()))
        for stream in streams:
            await self._check_stream(stream)
        return f"{self._settings.endpoint} takes rows for {' and '.join(streams)}"

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """Say which part of the range Azure restamps."""
        limit = now - _MAX_AGE + _TRANSIT_TIME
        if start >= limit:
            return None
        outside, share = min(end, limit), span(end - start)
        share = (
            f"all {share}" if outside == end else f"the first {span(outside - start)} of {share}"
        )
        return (
            f"{share} are more than {span(_MAX_AGE)} ago: Azure replaces TimeGenerated of their "
            "events by the time of receipt; their own time stays in EventStartTime"
        )

    def query(self, uid: str) -> Sequence[str]:
        """Return the searches that find the event *uid*, one for each table."""
        tables = dict.fromkeys(map(_table, self._streams.values()))
        return [f'Sentinel: {table} | where EventUid == "{uid}"' for table in tables]

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _target(item: Item) -> _Target:
    assert isinstance(item.key, _Target)  # noqa: S101  # as this sink has rendered it
    return item.key


def _outside(age: int) -> tuple[int, int]:
    """Return the ages at which an event that is restamped at *age* is restamped as well."""
    youngest, oldest = _OWN_TIMES
    return (oldest + 1, ANY_AGE[1]) if age > oldest else (ANY_AGE[0], youngest - 1)


def _table(stream: str) -> str:
    """Return the table of *stream*, as it is usually called: the rule may say otherwise."""
    origin, _, name = stream.partition("-")
    return name if origin == "Microsoft" or name.endswith("_CL") else f"{name}_CL"
