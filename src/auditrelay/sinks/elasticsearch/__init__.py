"""
Send events to Elasticsearch or OpenSearch, by the bulk API.

Every event is a ``create`` under its uid, so an event that is sent twice is stored once and the
second answer is 409. The cluster itself sees to that within one index only. So where several stand
behind a name (a data stream, or an alias, that has rolled over), the cluster is asked which of the
events it holds before any is sent that happened before the newest of them was made: those that
happened later cannot be in an older one (docs/decisions/0015). With a date pattern in ``index``,
which is filled in by event time, one event always meets the same index, and nobody needs to ask.
The form is ``ecs`` unless the configuration says otherwise.

Protocol: www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk and
docs.opensearch.org/latest/api-reference/document-apis/bulk/.
"""

import asyncio
import re
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import orjson

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.timestamps import iso_us
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sinks import Item, Known, Limits, Rejection, Verdict
from auditrelay.sinks._requests import dump, only, packed, unproven, words
from auditrelay.sinks.elasticsearch.check import BUILT_IN, GENERATION, RIGHTS, TEMPLATES
from auditrelay.sinks.elasticsearch.cluster import (
    ADVICE,
    NODE_TROUBLE,
    NOTHING,
    SILENT,
    base64_of,
    fault_of,
    object_of,
)
from auditrelay.sinks.elasticsearch.duplicates import (
    BLIND,
    HALF_READ,
    MOST_HITS,
    MOST_IDS,
    NO_HITS,
    TRUSTED,
    UNREADABLE,
    BehindRollover,
    FoundEvents,
)
from auditrelay.sinks.elasticsearch.names import (
    DIRECTIVE,
    PLACEHOLDER,
    Target,
    by_target,
    is_data_stream,
)
from auditrelay.sinks.elasticsearch.settings import REQUEST_BYTES, Settings
from auditrelay.sinks.elasticsearch.templates import COMPONENT, Match, misfits
from auditrelay.telemetry.metrics import Metrics

_MOST_PLACES = 10_000


_FILTER = (
    "errors,items.*.status,items.*.error.type,items.*.error.reason,"
    "items.*._index,items.*.failure_store"
)


_REASONS = {
    "document_parsing_exception": "mapping",
    "mapper_parsing_exception": "mapping",
    "strict_dynamic_mapping_exception": "mapping",
    "illegal_argument_exception": "illegal_argument",
    "max_bytes_length_exceeded_exception": "too_large",
}


_HIDE = "include_source_on_error"
"""Without it, a refused document stands in the reason why it was refused."""


_HIDES_SOURCE_SINCE = (8, 18)
"""github.com/elastic/elasticsearch/pull/121010; OpenSearch does not know it."""


_DIVERTED = (
    "events that do not fit the mapping went to the failure store, where no detection looks: see "
    "GET STREAM::failures/_search"
)


__all__ = ["Settings", "Sink", "build"]


def build(name: str, settings: Settings, metrics: Metrics) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics)


class Sink:
    """One cluster."""

    recognises_duplicates = True

    def __init__(self, name: str, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._form = FORMS[settings.format]
        self._places: dict[tuple[str, str, int], Target] = {}
        self._behind: dict[str, BehindRollover] = {}
        self._node = 0
        self._parameters: dict[str, str] | None = None
        self._asking = asyncio.Lock()
        self._peer = Peer(
            name,
            settings,
            base_url=settings.urls[0],
            headers=self._identity,
            secrets=[each for each in (settings.api_key, settings.password) if each is not None],
            metrics=metrics,
        )

    def _identity(self) -> dict[str, str]:
        settings = self._settings
        if settings.api_key is not None:
            key = settings.api_key.reveal()
            return {"Authorization": f"ApiKey {base64_of(key) if ':' in key else key}"}
        if settings.password is not None:
            pair = base64_of(f"{settings.username}:{settings.password.reveal()}")
            return {"Authorization": f"Basic {pair}"}
        return {}

    @property
    def limits(self) -> Limits:
        """As configured: a document may be as large as a request."""
        settings = self._settings
        return Limits(settings.batch_events, settings.batch_bytes, REQUEST_BYTES - 1)

    def render(self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> bytes:
        """Return *event* as an action and a document, a line each."""
        place = self._place(event)
        document = self._form(event, marks=marks)
        if self._settings.format == "ecs":
            if place.stream is not None:
                document["data_stream"] = place.stream
        else:
            document.setdefault("@timestamp", iso_us(event.at))
        return b'%b%b"}}\n%b' % (place.action, event.uid.encode(), dump(document))

    def _place(self, event: AuditEvent) -> "Target":
        """Return where *event* goes; the answers are kept, an hour's events have the same."""
        hour = event.at // 3_600_000_000 if self._settings.dated else 0
        key = (event.vendor, event.source, hour)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            place = self._places[key] = Target.of(self._settings.index, event)
        return place

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Offer *batch*, but for what the cluster holds already; to offer it again is harmless."""
        targets = by_target(batch)
        try:
            held, warnings = await self._held(batch, targets)
            if not held:
                verdict = await self._bulk(batch)
            else:
                new = [index for index in range(len(batch)) if index not in held]
                verdict = await only(new, batch, self._bulk)
        except BaseException:
            # The outcome is not known, and time passes until it is sent again.
            self._forget(targets)
            raise
        if verdict.retry:
            self._forget(targets)
        return replace(
            verdict,
            duplicates=verdict.duplicates + len(held),
            warnings=(*verdict.warnings, *sorted(warnings)),
        )

    async def _bulk(self, batch: Sequence[Item]) -> Verdict:
        # No name holds the body: once packed it goes, or it would lie beside its texts till the
        # reply. The last of its lines is to end, too.
        content, headers = await packed(
            b"\n".join([*[item.text for item in batch], b""]), self._settings.compression
        )
        headers["Content-Type"] = "application/x-ndjson"
        parameters = await self._bulk_parameters()
        reply = await self._request("POST", "/_bulk", parameters, headers, content)
        if reply.status == 400 and _HIDE in parameters:
            # An older node refuses a parameter that it does not know, whatever the events are.
            parameters = {key: parameters[key] for key in parameters if key != _HIDE}
            reply = await self._request("POST", "/_bulk", parameters, headers, content)
            if reply.status != 400:
                self._parameters = parameters
        if reply.status != 200:
            raise fault_of(reply)
        return self._judge(reply, len(batch))

    # -- what the cluster holds already --------------------------------------------------------

    async def _held(
        self, batch: Sequence[Item], targets: Mapping[str, Sequence[int]]
    ) -> tuple[set[int], set[str]]:
        """Return the indices of the events that are stored already, and what is to be warned of."""
        held: set[int] = set()
        warnings: set[str] = set()
        for target, places in targets.items():
            behind = await self._indices_behind(target)
            if behind.blind:
                warnings.add(UNREADABLE)
            old = [place for place in places if batch[place].event.at < behind.since]
            for first in range(0, len(old), MOST_IDS):
                part = {batch[place].event.uid: place for place in old[first : first + MOST_IDS]}
                found = await self._search(target, part)
                if found is None:
                    self._behind[target] = BehindRollover(time.monotonic(), blind=True)
                    warnings.add(UNREADABLE)
                    break
                held.update(part[uid] for uid in found.uids if uid in part)
                if not found.whole:
                    warnings.add(HALF_READ)
        return held, warnings

    async def holds(self, events: Sequence[AuditEvent]) -> frozenset[str]:
        """
        Return the uids of those *events* that the cluster finds, in whatever index they lie.

        What was stored a moment ago is found only after the index's next refresh. Raises Refused
        if the cluster will not say, and Retryable if a shard has not answered.
        """
        targets: dict[str, list[str]] = {}
        for event in events:
            targets.setdefault(self._place(event).target, []).append(event.uid)
        held: set[str] = set()
        for target, uids in targets.items():
            for first in range(0, len(uids), MOST_IDS):
                found = await self._search(target, uids[first : first + MOST_IDS])
                if found is None:
                    raise Refused(
                        f"the cluster does not let us search {target}: give the key the privilege "
                        "read on it"
                    )
                if not found.whole:
                    raise Retryable(f"a shard of {target} has not answered", reason="shard_failed")
                held.update(found.uids)
        return frozenset(held)

    async def _indices_behind(self, target: str) -> "BehindRollover":
        """Return what stands behind *target*, asked anew if that was long ago."""
        behind = self._behind.get(target)
        now = time.monotonic()
        if behind is None or now - behind.told > (BLIND if behind.blind else TRUSTED):
            if len(self._behind) >= _MOST_PLACES:
                self._behind.clear()
            listed = await self._creation_dates(target)
            behind = self._behind[target] = BehindRollover.of(listed, now)
        return behind

    async def _creation_dates(self, target: str) -> Mapping[str, Any] | None:
        """Return the settings by index of all that stand behind *target*; None: it will not say."""
        path = f"/{quote(target, safe='*')}/_settings/index.creation_date"
        return self._answer(await self._request("GET", path))

    async def _search(self, target: str, uids: Collection[str]) -> "FoundEvents | None":
        """Return which of *uids* stand in *target*, or None if the cluster will not say."""
        reply = await self._request(
            "POST",
            f"/{quote(target, safe='*')}/_search",
            {"filter_path": "timed_out,_shards.failed,hits.hits._id"},
            {"Content-Type": "application/json"},
            orjson.dumps(
                {
                    "query": {"ids": {"values": list(uids)}},
                    "size": MOST_HITS,
                    "_source": False,
                    "track_total_hits": False,
                }
            ),
        )
        answer = self._answer(reply, absent=NO_HITS)
        return None if answer is None else FoundEvents.of(answer, reply)

    def _answer(
        self, reply: Reply, absent: Mapping[str, Any] = NOTHING
    ) -> Mapping[str, Any] | None:
        """
        Return the object that *reply* holds, or None if the cluster will not say.

        *absent* is what it would be for an index that does not exist.
        """
        if reply.status == 404 and isinstance((object_of(reply) or {}).get("error"), dict):
            return absent
        if reply.status in SILENT:
            return None
        if reply.status != 200:
            raise fault_of(reply)
        answer = object_of(reply)
        if answer is None:
            raise unproven(reply, "a cluster's")
        return answer

    def _forget(self, targets: Iterable[str]) -> None:
        """Ask anew what stands behind *targets*, unless it may not be asked."""
        for target in targets:
            behind = self._behind.get(target)
            if behind is not None and not behind.blind:
                del self._behind[target]

    def _confirm(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Trust on, without asking, what is known of where *results* say that events went."""
        written = {result.get("_index") for result in results} - {None}
        for target, behind in self._behind.items():
            if not written:
                return
            if target in written or not behind.names.isdisjoint(written):
                written -= behind.names | {target}
                if not behind.blind:
                    behind.told = time.monotonic()
        if written:  # an index that is new: something has rolled over
            self._forget(list(self._behind))

    async def _bulk_parameters(self) -> dict[str, str]:
        """Return the parameters of a bulk request, which depend on what the cluster is."""
        async with self._asking:
            if self._parameters is None:
                parameters = {"filter_path": _FILTER}
                if self._settings.pipeline is not None:
                    parameters["pipeline"] = self._settings.pipeline
                reply = await self._request("GET", "/")
                if reply.status not in (200, *SILENT):
                    raise fault_of(reply)
                if _hides_source(reply):
                    parameters[_HIDE] = "false"
                self._parameters = parameters
            return self._parameters

    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Reply:
        """
        Ask the node that answered last; if it cannot be reached or is in trouble, the others.

        One that was reached and does not answer is not replaced at once: it may be at work. The
        next request goes to another.
        """
        urls, node = self._settings.urls, self._node
        for left in reversed(range(len(urls))):
            try:
                reply = await self._peer.request(
                    method,
                    path,
                    params=params,
                    headers=headers,
                    content=content,
                    base_url=urls[node],
                )
            except Retryable as error:
                self._node = node = (node + 1) % len(urls)
                if error.sent or not left:
                    raise
            else:
                if reply.status not in NODE_TROUBLE:
                    return reply
                self._node = node = (node + 1) % len(urls)
                if not left:
                    return reply
        # The settings refuse an empty list; this tells the type checker so.
        raise AssertionError("there is at least one address")  # pragma: no cover

    def _judge(self, reply: Reply, count: int) -> Verdict:
        """Return what a bulk *reply* says of each of *count* events, which it lists in order."""
        results = _results(reply)
        if results is None or len(results) != count:
            raise unproven(reply, "a bulk request's")
        rejected: list[Rejection] = []
        retry: list[int] = []
        because: Retryable | None = None
        missing = duplicates = diverted = 0
        for index, result in enumerate(results):
            status = result["status"]
            if status in (200, 201):
                diverted += result.get("failure_store") == "used"
                continue
            refusal = _Refusal.of(result)
            if status == 409 and refusal.kind.startswith("version_conflict"):
                duplicates += 1
            elif status in (408, 425, 429) or status >= 500:
                retry.append(index)
                because = because or Retryable(
                    f"{reply.where}: {refusal.words}", reason=f"status_{status}"
                )
            elif status in (401, 403) or self._is_configuration(refusal):
                raise Refused(f"{reply.where}: {refusal.words}; {ADVICE}", status=status)
            else:
                missing += status == 404
                reason = _REASONS.get(refusal.kind, f"status_{status}")
                rejected.append(Rejection(index, reason, refusal.words, status))
        self._confirm(results)
        if missing == count:
            raise Refused(f"{reply.where}: {rejected[0].message}; {ADVICE}", status=404)
        return Verdict(
            rejected=tuple(rejected),
            retry=tuple(retry),
            because=because,
            duplicates=duplicates,
            diverted=diverted,
            warnings=(_DIVERTED,) if diverted else (),
        )

    def _is_configuration(self, refusal: "_Refusal") -> bool:
        """Say whether a *refusal* would meet every event alike, and an operator can mend it."""
        if refusal.kind == "index_closed_exception":
            return True
        pipeline = self._settings.pipeline
        return pipeline is not None and refusal.reason.startswith(f"pipeline with id [{pipeline}]")

    # -- check -----------------------------------------------------------------------------------

    async def check(self) -> str:
        """
        Ask every node who it is, then what becomes of events that go where ours would.

        That is: may they be created there, will one that is sent again be recognised, and does a
        template or an index that is there fit. What a key may not ask is said, and no failure.
        """
        settings = self._settings
        who, notes = await self._nodes()
        target = DIRECTIVE.sub("*", PLACEHOLDER.sub("*", settings.index))
        rights = await self._rights(target)
        if rights is None:
            notes.append(f"it cannot be asked about the right to write to {target}")
        elif not rights["create_doc"]:
            raise Refused(
                f"{who}: no right to write to {target}; give the key or user the privilege "
                "create_doc on it",
                status=403,
            )
        elif not rights["auto_configure"]:
            notes.append(f"{target} can be written to, but must exist: no right to create it")
        else:
            notes.append(f"{target} can be written to")
        stream, said = await self._template(target)
        notes.append(await self._recognition(target, rights, stream=stream))
        notes += said
        notes += await self._mapping(target)
        return f"{who}: {'; '.join(notes)}"

    async def _nodes(self) -> tuple[str, list[str]]:
        """Return who the cluster is, and what its nodes give cause to say."""
        urls = self._settings.urls
        answers = await asyncio.gather(*(self._who(url) for url in urls))
        failed = [answer for answer in answers if isinstance(answer, RelayError)]
        there = {
            url: answer
            for url, answer in zip(urls, answers, strict=True)
            if not isinstance(answer, RelayError)
        }
        if not there:
            raise failed[0]
        clusters: dict[object, str] = {}
        for url, answer in there.items():
            clusters.setdefault(answer.get("cluster_uuid"), url)
        known = [url for uuid, url in clusters.items() if uuid not in (None, "_na_")]
        if len(known) > 1:
            raise Refused(f"urls: {' and '.join(known)} are nodes of different clusters")
        first, about = next(iter(there.items()))
        self._node = urls.index(first)
        version = about.get("version")
        number = version.get("number") if isinstance(version, dict) else None
        notes = [f"no use for now: {error}" for error in failed]
        return f"{first} (version {words(str(number or 'unknown'))})", notes

    async def _who(self, url: str) -> dict[str, Any] | RelayError:
        """Ask the node at *url* who it is; {} if the key may not know."""
        try:
            reply = await self._peer.request("GET", "/", base_url=url)
            if reply.status not in (200, 403):
                return fault_of(reply)
            about = object_of(reply) if reply.status == 200 else {}
            return unproven(reply, "a cluster's") if about is None else about
        except RelayError as error:
            return error

    async def _rights(self, target: str) -> dict[str, bool] | None:
        """Return which rights on *target* the key has; None: it cannot be asked (OpenSearch)."""
        wanted = {"index": [{"names": [target], "privileges": list(RIGHTS)}]}
        reply = await self._request(
            "POST",
            "/_security/user/_has_privileges",
            headers={"Content-Type": "application/json"},
            content=orjson.dumps(wanted),
        )
        if reply.status in (401, 403):
            raise fault_of(reply)
        answer = object_of(reply) if reply.status == 200 else None
        if answer is None:
            return None
        rights = answer.get("index")
        rights = rights.get(target) if isinstance(rights, dict) else None
        rights = rights if isinstance(rights, dict) else {}
        return {right: rights.get(right) is True for right in RIGHTS}

    async def _recognition(
        self, target: str, rights: Mapping[str, bool] | None, *, stream: bool
    ) -> str:
        """Say until when an event that is sent again is recognised; *stream*: it may roll over."""
        if self._settings.dated and not stream:
            return "an event that is sent again is recognised at any time: it meets the same index"
        if rights is None:
            # Asked as send would ask it.
            listed = await self._creation_dates(target)
            readable = listed is not None and await self._search(target, ()) is not None
        else:
            readable = rights["read"] and rights["view_index_metadata"]
        if readable:
            return (
                "an event that is sent again is recognised, after a rollover by a search in the "
                "older indices"
            )
        return (
            "an event that is sent again is recognised until the next rollover, after that it is "
            f"stored twice: grant read and view_index_metadata on {target}, or put a date into "
            'the name, such as index = "audit-{vendor}-%Y.%m"'
        )

    async def _template(self, target: str) -> tuple[bool, list[str]]:
        """Return whether a new index will be a data stream, and what is to be said of that."""
        index = self._settings.index
        reply = await self._request("GET", "/_index_template", {"filter_path": TEMPLATES})
        answer = self._answer(reply)
        if answer is None:
            used = await self._templates_of_streams(target)
            if used:
                return True, [f"data stream by the template {', '.join(used)}"]
            said = ["which template a new index would have cannot be asked with this key"]
            return BUILT_IN.match(index) is not None, said
        listed = answer.get("index_templates", [])
        example = DIRECTIVE.sub("0", PLACEHOLDER.sub("x", index))
        template = Match.of(example, listed) if isinstance(listed, list) else None
        said = []
        if template is None or (is_data_stream(index) and not template.makes_stream):
            if is_data_stream(index):
                said.append(
                    "no template makes it a data stream, so it would be one ever larger index"
                )
            else:
                said.append("no template fits it, so that field types are guessed")
        if template is not None:
            kind = "data stream" if template.makes_stream else "index"
            said.append(f"{kind} by the template {words(template.name)}")
        if self._settings.format == "ecs" and not (template and template.holds_ours):
            said.append(f"{COMPONENT} is not in it, see auditrelay setup elasticsearch")
        return template is not None and template.makes_stream, said

    async def _templates_of_streams(self, target: str) -> list[str]:
        """Return the templates of the data streams that are there: to see them takes less right."""
        path = f"/_data_stream/{quote(target, safe='*')}"
        reply = await self._request("GET", path, {"filter_path": "data_streams.template"})
        streams = (self._answer(reply) or {}).get("data_streams", [])
        return sorted({words(str(each.get("template"))) for each in streams})

    async def _mapping(self, target: str) -> list[str]:
        """Say which fields are mapped otherwise than they should be, in what is there already."""
        if self._settings.format != "ecs":
            return []
        path = f"/{quote(target, safe='*')}/_mapping"
        reply = await self._request("GET", path, {"filter_path": "*.mappings.properties"})
        newest: dict[str, Any] = {}
        for name, index in sorted((self._answer(reply) or {}).items()):
            newest[GENERATION.sub("", name)] = name, index
        said = []
        for name, index in newest.values():
            wrong = misfits(index.get("mappings", {}).get("properties", {}))
            if wrong:
                shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")
                said.append(f"mapped otherwise in {words(name)}: {words(shown)}")
        return said

    async def is_opensearch(self) -> bool:
        """Ask whether the cluster is OpenSearch; one that may not be asked is taken not to be."""
        reply = await self._request("GET", "/")
        if reply.status not in (200, *SILENT):
            raise fault_of(reply)
        version = (object_of(reply) or {}).get("version")
        return isinstance(version, dict) and version.get("distribution") == "opensearch"

    async def put(self, path: str, document: Mapping[str, Any]) -> None:
        """Put *document*, such as a template, to *path*, in the place of one that is there."""
        headers = {"Content-Type": "application/json"}
        content = orjson.dumps(document)
        reply = await self._request("PUT", path, headers=headers, content=content)
        if reply.status != 200:
            raise fault_of(reply)
        if (object_of(reply) or {}).get("acknowledged") is not True:
            raise unproven(reply, "a cluster's")

    def foresee(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Nothing: an event of any age is stored."""
        return None

    def query(self, event: Known) -> Sequence[str]:
        """Return the search that finds *event* in Kibana or Dashboards, and one for a shell."""
        settings = self._settings
        index = quote(DIRECTIVE.sub("*", PLACEHOLDER.sub("*", settings.index)), safe="*")
        login = ""
        if settings.api_key is not None:
            login = '-H "Authorization: ApiKey $API_KEY" '
        elif settings.username is not None:
            login = f"-u {shlex.quote(settings.username)} "
        address = shlex.quote(f"{settings.urls[self._node]}/{index}/_search?q=_id:{event.uid}")
        return (f'KQL: _id : "{event.uid}"', f"curl -sS {login}{address}")

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a bulk reply says that one event was not stored."""

    status: int
    kind: str
    reason: str

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """Read it out of the *result*."""
        error = result.get("error")
        error = error if isinstance(error, dict) else {}
        return cls(result["status"], str(error.get("type") or ""), str(error.get("reason") or ""))

    @property
    def words(self) -> str:
        """The server's words, such as ``400, mapper_parsing_exception: failed to parse``."""
        return words(f"{self.status}, {self.kind or 'no type'}: {self.reason}")


def _results(reply: Reply) -> list[dict[str, Any]] | None:
    """Return the results that a bulk *reply* lists, or None if it is not one."""
    items = (object_of(reply) or {}).get("items")
    if not isinstance(items, list):
        return None
    try:
        results = [item["create"] for item in items]
        sound = all(type(result["status"]) is int for result in results)
    except (KeyError, TypeError):
        return None
    return results if sound else None


def _hides_source(reply: Reply) -> bool:
    """Say whether the cluster knows include_source_on_error: Elasticsearch since 8.18."""
    version = (object_of(reply) or {}).get("version")
    if not isinstance(version, dict) or version.get("distribution") is not None:
        return False
    number = re.match(r"(\d+)\.(\d+)\.", str(version.get("number")), re.ASCII)
    return number is not None and (int(number[1]), int(number[2])) >= _HIDES_SOURCE_SINCE
