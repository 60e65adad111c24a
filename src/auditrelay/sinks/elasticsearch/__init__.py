"""
Send events to Elasticsearch or OpenSearch, by the bulk API.

Every event is a ``create`` with its uid as ``_id``, so an event that is sent twice is deduplicated:
it is stored once, and the second response is 409. The cluster guarantees that within one index
only. Where a name has several backing indices (a data stream, or an alias, that has rolled over),
the cluster is searched first for the events that happened before the newest index was created;
later ones cannot be in an older index (docs/decisions/0015). With a date pattern in ``index``,
which is filled in by event time, an event always goes to the same index, and no search is needed.
What each answer proves is in docs/sinks/elasticsearch.md and docs/decisions/0030.
The form is ``ecs`` by default.

Protocol: www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk and
docs.opensearch.org/latest/api-reference/document-apis/bulk/.
"""

import asyncio
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, cast
from urllib.parse import quote

import msgspec

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.decode import NOT_DECODED
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.normalize import available as vendors
from auditrelay.events.notices import test_event
from auditrelay.events.page import Page
from auditrelay.events.timestamps import iso_us
from auditrelay.http.replies import Reply
from auditrelay.sinks import Counts, Item, Limits, Rejection, Rendered, Verdict
from auditrelay.sinks._requests import body_of, clean, dump, unproven
from auditrelay.sinks.elasticsearch.check import Sample, check_cluster
from auditrelay.sinks.elasticsearch.cluster import ADVICE, Cluster, cluster_error
from auditrelay.sinks.elasticsearch.content import ContentCheck
from auditrelay.sinks.elasticsearch.duplicates import DuplicateFinder
from auditrelay.sinks.elasticsearch.fields import with_accepted_fields
from auditrelay.sinks.elasticsearch.names import IndexName, Target, Targets, wildcard
from auditrelay.sinks.elasticsearch.outage import Outage
from auditrelay.sinks.elasticsearch.refusals import Refusal
from auditrelay.sinks.elasticsearch.settings import EXAMPLE, Settings
from auditrelay.telemetry.metrics import Metrics

_RESPONSE_FILTER = (
    "errors,items.*.status,items.*.error.type,items.*.error.reason,"
    "items.*.result,items.*._index,items.*.failure_store"
)

_CREATED = frozenset(((201, "created"), (201, None)))
"""Status and result of an event that was stored; an older server may leave out the result."""

_HIDE_SOURCE = "include_source_on_error"
"""Without it, the error of a refused document quotes the document."""

_HIDES_SOURCE_SINCE = (8, 18)
"""github.com/elastic/elasticsearch/pull/121010; OpenSearch does not know it."""

_STORED_ELSEWHERE = (
    "events that do not fit the mapping went to the failure store, which no detection searches: "
    "see GET STREAM::failures/_search"
)

_DROPPED = (
    "an ingest pipeline drops events: they are nowhere in the cluster, and count as delivered; "
    "look for a drop processor in the pipeline of the sink, and in index.default_pipeline and "
    "index.final_pipeline of the index"
)

_CHANGED = (
    "events are stored already, with other content: the vendor, or something in between, shows "
    "other records under known ids; what was stored first stays. Compare event.hash with what "
    "auditrelay verify reads"
)

_MOVED = (
    "an ingest pipeline moves events to another index (reroute), where neither the search for "
    "duplicates nor the template of auditrelay applies: {}"
)

__all__ = ["EXAMPLE", "Settings", "Sink", "build"]


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One cluster."""

    deduplicates = True

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._form = FORMS[settings.format]
        self._actions = Derived(self._action, SPLICED[settings.format])
        self._targets = Targets(settings.index)
        self._cluster = Cluster(name, settings, metrics, clock)
        self._duplicates = DuplicateFinder(self._cluster, clock)
        self._content = ContentCheck(self._cluster, clock) if settings.format == "ecs" else None
        self._version_outage = Outage(clock)
        self._parameters: dict[str, str] | None = None
        self._parameters_lock = asyncio.Lock()

    @property
    def limits(self) -> Limits:
        """As configured: a document may be as large as a request."""
        settings = self._settings
        return Limits(settings.batch_events, settings.batch_bytes)

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """
        Return each event of *page* as an action and a document, a line each.

        Its key is the name of its target.
        """
        targets = self._targets.of_page(page)
        page = with_accepted_fields(page, self._settings.format)
        texts = self._actions.texts(page, RenderContext(now, marks), targets)
        names = [target.name for target in targets]
        return list(map(Rendered, texts, names))

    def _action(self, event: AuditEvent, context: RenderContext) -> bytes:
        """Return the action for *event*, whose target is the choice, and its document."""
        target = cast("Target", context.choice)
        document = self._form(event, marks=context.marks)
        if self._settings.format == "ecs":
            if target.stream is not None:
                document["data_stream"] = target.stream
        else:
            document.setdefault("@timestamp", iso_us(event.at))
        return b'%b%b"}}\n%b' % (target.action, event.uid.encode(), dump(document))

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*, except for what is already stored; sending it again is harmless."""
        targets = _by_target(batch)
        try:
            found = await self._duplicates.find(batch, targets)
            if not found.stored:
                verdict = await self._bulk(batch)
            else:
                new = [index for index in range(len(batch)) if index not in found.stored]
                verdict = Verdict()
                if new:
                    verdict = (await self._bulk([batch[index] for index in new])).within(new)
        except BaseException:
            # The outcome is unknown, and the target may roll over before it is resent.
            self._duplicates.invalidate(targets)
            raise
        finally:
            if self._content is not None:
                self._content.sent(batch)
        if verdict.retry:
            self._duplicates.invalidate(targets)
        if not (found.stored or found.unsearched or found.warnings):
            return verdict
        counts = verdict.counts
        refused = {each.index for each in verdict.rejected}
        return replace(
            verdict,
            counts=replace(
                counts,
                duplicates=counts.duplicates + len(found.stored),
                unsearched=len(found.unsearched - refused - {*verdict.retry}),
            ),
            warnings=(*verdict.warnings, *sorted(found.warnings)),
        )

    async def _bulk(self, batch: Sequence[Item]) -> Verdict:
        content, headers = await body_of(  # whose last line has to end, too
            [item.text for item in batch], self._settings.compression, between=b"\n", end=b"\n"
        )
        headers["Content-Type"] = "application/x-ndjson"
        parameters = await self._bulk_parameters()
        reply = await self._cluster.bulk(parameters, headers, content)
        if reply.status == 400 and _HIDE_SOURCE in parameters:
            # An older node refuses the unknown parameter, whatever the events are.
            parameters = {key: parameters[key] for key in parameters if key != _HIDE_SOURCE}
            reply = await self._cluster.bulk(parameters, headers, content)
            if reply.status != 400:
                self._parameters = parameters
        if reply.status != 200:
            raise cluster_error(reply)
        already: list[tuple[str | None, Item]] = []
        verdict = self._verdict(reply, batch, already)
        changed = await self._content.count_changed(already) if already and self._content else 0
        if not changed:
            return verdict
        return replace(
            verdict,
            counts=replace(verdict.counts, changed=changed),
            warnings=(*verdict.warnings, _CHANGED),
        )

    async def _bulk_parameters(self) -> dict[str, str]:
        """Return the parameters of a bulk request, which depend on the cluster's version."""
        async with self._parameters_lock:
            if self._parameters is None:
                parameters = {"filter_path": _RESPONSE_FILTER}
                if self._settings.pipeline is not None:
                    parameters["pipeline"] = self._settings.pipeline
                version = await self._version()
                if version is None:
                    return parameters  # and ask again
                if _hides_source(version):
                    parameters[_HIDE_SOURCE] = "false"
                self._parameters = parameters
            return self._parameters

    async def _version(self) -> Mapping[str, Any] | None:
        """Return the cluster's version, or None if it cannot be read for long."""
        if self._version_outage.is_due:
            try:
                return await self._version_outage.attempt(self._cluster.version())
            except Retryable:
                if not self._version_outage.is_long:
                    raise
        return None

    def _verdict(
        self, reply: Reply, batch: Sequence[Item], already: list[tuple[str | None, Item]]
    ) -> Verdict:
        """
        Return the verdict in a bulk *reply* on *batch*, whose events it lists in order.

        Those that were stored *already* are added to that list, each with its index.
        """
        stored = _all_stored(reply, len(batch))
        if stored is not None and len(stored) == len(batch):
            return self._of_stored(
                [each.create.index for each in stored],
                [each.create.failure_store == "used" for each in stored],
            )
        results = _results(reply)
        if results is None or len(results) != len(batch):
            raise unproven(reply, "Elasticsearch")
        rejected: list[Rejection] = []
        retry: list[int] = []
        retry_reason: Retryable | None = None
        dropped = 0
        for index, result in enumerate(results):
            if _is_success(result):
                dropped += _is_dropped(result)
                continue
            refusal = Refusal.of(result)
            match refusal.cause:
                case "duplicate":
                    already.append((result.get("_index"), batch[index]))
                case "pressure":
                    retry.append(index)
                    retry_reason = retry_reason or Retryable(
                        f"{reply.where}: {refusal.message}", reason=f"status_{refusal.status}"
                    )
                case "target":
                    raise Refused(
                        f"{reply.where}: {refusal.message}; {ADVICE}", status=refusal.status
                    )
                case "document":
                    rejected.append(
                        Rejection(
                            index,
                            refusal.code,
                            refusal.message,
                            refusal.status,
                            str(batch[index].key),
                        )
                    )
        verdict = self._of_stored(
            [result.get("_index") for result in results],
            [result.get("failure_store") == "used" for result in results],
        )
        return replace(
            verdict,
            rejected=tuple(rejected),
            retry=tuple(retry),
            retry_reason=retry_reason,
            counts=replace(verdict.counts, duplicates=len(already), dropped=dropped),
            warnings=(*verdict.warnings, *([_DROPPED] if dropped else [])),
        )

    def _of_stored(
        self, indices: Sequence[str | None], in_failure_store: Sequence[bool]
    ) -> Verdict:
        """Return the verdict on events that were written to *indices*, as far as they show it."""
        if True in in_failure_store:
            elsewhere, warnings = sum(in_failure_store), [_STORED_ELSEWHERE]
            indices = [
                None if failed else name
                for name, failed in zip(indices, in_failure_store, strict=True)
            ]
        else:
            elsewhere, warnings = 0, []
        moved = self._duplicates.confirm(set(indices))
        if moved:
            elsewhere += sum([name in moved for name in indices])
            warnings.append(_MOVED.format(clean(", ".join(sorted(moved)))))
        return Verdict(counts=Counts(stored_elsewhere=elsewhere), warnings=tuple(warnings))

    async def check(self) -> str:
        """Identify every node, and check that events can be stored in the configured index."""
        now = self._clock.now()
        vendor = next(iter(vendors()))
        event = test_event(
            source="check", vendor=vendor, product=None, nonce="check", now=now, tags={}
        )
        [rendered] = self.render(Page.of([event]), event.at)
        document = rendered.text.partition(b"\n")[2]
        return await check_cluster(
            self._cluster, self._duplicates, self._settings, Sample(str(rendered.key), document)
        )

    async def find_stored(self, events: Sequence[AuditEvent]) -> frozenset[str]:
        """
        Return the uids of those *events* that a search finds, in any index.

        New documents are found only after the index's next refresh. Raises Refused if the search is
        not permitted, and Retryable if a shard has not answered.
        """
        targets: dict[str, list[str]] = {}
        for event in events:
            target = self._targets.of(event.vendor, event.source, event.at, event.fetched)
            targets.setdefault(target.name.searched, []).append(event.uid)
        return await self._duplicates.stored(targets)

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Give no notice: an event of any age is stored."""
        return None

    def query(self, uid: str) -> Sequence[str]:
        """Return a search for the event *uid* in Kibana or Dashboards, and one for a shell."""
        settings = self._settings
        index = quote(wildcard(settings.index), safe="*")
        login = ""
        if settings.api_key is not None:
            login = '-H "Authorization: ApiKey $API_KEY" '
        elif settings.username is not None:
            login = f"-u {shlex.quote(settings.username)} "
        address = shlex.quote(f"{self._cluster.url}/{index}/_search?q=_id:{uid}")
        return (f'KQL: _id : "{uid}"', f"curl -sS {login}{address}")

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.aclose()


def _by_target(batch: Sequence[Item]) -> dict[str, list[int]]:
    """Return the places in *batch* by the index or stream where each event may be already."""
    targets: dict[str, list[int]] = {}
    name: object = None
    places: list[int] = []
    for place, item in enumerate(batch):
        if item.key is not name:  # most batches have one target
            name = item.key
            places = targets.setdefault(cast("IndexName", name).searched, [])
        places.append(place)
    return targets


class _Stored(msgspec.Struct, gc=False):
    """The result of an event that is stored, as far as it matters; others are no such."""

    status: Literal[201]
    index: str | None = msgspec.field(name="_index", default=None)
    result: Literal["created"] | None = None
    failure_store: str | None = None


class _Created(msgspec.Struct, gc=False):
    create: _Stored


class _Results(msgspec.Struct):
    errors: bool
    items: list[_Created]


_decode_results = msgspec.json.Decoder(_Results).decode


def _all_stored(reply: Reply, count: int) -> list[_Created] | None:
    """Return what a bulk *reply* lists if it stored all *count* events, as most do, else None."""
    if reply.body.count(b"{") > 2 * count + 1:
        return None  # it lists more, or other things
    try:
        results = _decode_results(reply.body)
    except NOT_DECODED:
        return None
    return None if results.errors else results.items


def _is_success(result: Mapping[str, Any]) -> bool:
    """Return whether the cluster has taken an event, be it to store it or not."""
    return result["status"] in range(200, 300)


def _is_dropped(result: Mapping[str, Any]) -> bool:
    """
    Return whether a pipeline has dropped an event that was taken.

    A create that has stored a document says 201, ``created``; an event that a ``drop`` processor
    took away has 200, ``noop`` (github.com/elastic/elasticsearch/pull/32278).
    """
    return (result["status"], result.get("result")) not in _CREATED


def _results(reply: Reply) -> list[dict[str, Any]] | None:
    """Return the results that a bulk *reply* lists, or None if it lists none."""
    items = (reply.object() or {}).get("items")
    if not isinstance(items, list):
        return None
    try:
        results = [item["create"] for item in items]
        sound = all(map(_is_sound, results))
    except (AttributeError, KeyError, TypeError):
        return None
    return results if sound else None


def _is_sound(result: dict[str, Any]) -> bool:
    """Return whether what is looked at of *result* has the documented types."""
    return type(result["status"]) is int and all(
        isinstance(result.get(key), str | None) for key in ("_index", "result", "failure_store")
    )


def _hides_source(version: Mapping[str, Any]) -> bool:
    """Return whether the cluster has include_source_on_error: Elasticsearch since 8.18."""
    if version.get("distribution") is not None:
        return False
    number = re.match(r"(\d+)\.(\d+)\.", str(version.get("number")), re.ASCII)
    return number is not None and (int(number[1]), int(number[2])) >= _HIDES_SOURCE_SINCE
