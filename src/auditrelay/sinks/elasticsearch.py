"""
Send events to Elasticsearch or OpenSearch, by the bulk API.

Every event is a ``create`` under its uid, so an event that is sent twice is stored once and the
second answer is 409. That holds within one index: a data stream that rolls over in between stores
it again, which an ``index`` with a date pattern avoids, since it is filled in by event time. The
form is ``ecs`` unless the configuration says otherwise.

Protocol: www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk and
docs.opensearch.org/latest/api-reference/document-apis/bulk/.
"""

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

import orjson
from pydantic import Field, field_validator, model_validator

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.timestamp import iso_us
from auditrelay.http import Peer, Reply
from auditrelay.settings import Address, Secret, SinkSettings, Size
from auditrelay.sinks import (
    Form,
    Item,
    Limits,
    Rejection,
    Verdict,
    dump,
    fault,
    packed,
    unproven,
    words,
)
from auditrelay.telemetry import Metrics

REQUEST_BYTES = 100 * 1024 * 1024
"""http.max_content_length, as both products ship it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_DIRECTIVE = re.compile(r"%(.?)")
_DATES = "YmdHjGV"
_FORBIDDEN = re.compile(r'[\\/*?"<>| ,#:\x00-\x1f\x7f]')
_FORBIDDEN_IN_STREAM = re.compile(r'[-\\/*?"<>| ,#:\x00-\x1f\x7f]')
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

_NO_SAY = (400, 403, 404, 405)
"""Answers to ``GET /`` that say: this key, or this proxy, may not show who the cluster is."""

_ADVICE = "check urls, index, pipeline, and the rights of the key or user"


class Settings(SinkSettings):
    """The keys of an ``elasticsearch`` sink."""

    type: Literal["elasticsearch"]
    urls: list[Address] = Field(min_length=1)
    """Nodes of one cluster; the next is tried when one cannot be reached."""
    api_key: Secret | None = None
    """``id:key``, or the "encoded" form of both."""
    username: str | None = Field(None, min_length=1)
    password: Secret | None = None
    index: str = "logs-auditrelay.{vendor}-default"
    """A data stream or an index; ``{vendor}``, ``{source}`` and %Y %m %d... are filled in."""
    pipeline: str | None = Field(None, min_length=1)
    """An ingest pipeline that every event goes through."""
    format: Form = "ecs"
    batch_bytes: Size = Field(5_000_000, le=REQUEST_BYTES)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The address of each node."""
        return {f"urls[{number}]": url for number, url in enumerate(self.urls)}

    @property
    def dated(self) -> bool:
        """Whether the index depends on the time of the event."""
        return "%" in self.index

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_more(cls, urls: object) -> object:
        return [url.strip() for url in urls.split(",")] if isinstance(urls, str) else urls

    @field_validator("index")
    @classmethod
    def _is_an_index(cls, index: str) -> str:
        for name in _PLACEHOLDER.findall(index):
            if name not in ("vendor", "source"):
                raise ValueError(f"{{{name}}} is unknown: only {{vendor}} and {{source}} exist")
        for letter in _DIRECTIVE.findall(index):
            if letter not in _DATES or not letter:
                raise ValueError(f"%{letter} is unknown: only %{', %'.join(_DATES)} exist")
        plain = _DIRECTIVE.sub("1", _PLACEHOLDER.sub("x", index))
        wrong = _FORBIDDEN.search(plain) or re.search(r"[{}]", plain)
        if wrong:
            raise ValueError(f"{index!r}: an index name must not hold {wrong[0]!r}")
        if plain != plain.lower():
            raise ValueError(f"{index!r}: an index name has no capital letters")
        if plain.startswith(("-", "_", "+", ".")) or not plain:
            raise ValueError(f"{index!r}: an index name starts with a letter or a digit")
        if len(plain.encode()) > 255:
            raise ValueError(f"{index!r}: an index name has at most 255 bytes")
        return index

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.api_key is not None and (self.username is not None or self.password is not None):
            raise ValueError("api_key excludes username and password")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.username is not None and (":" in self.username or not self.username.isprintable()):
            raise ValueError("username must not hold a colon or a control character")
        return self


def build(name: str, settings: Settings, metrics: Metrics) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics)


class Sink:
    """One cluster."""

    recognises_duplicates = True

    def __init__(self, name: str, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._form = FORMS[settings.format]
        self._places: dict[tuple[str, str, int], _Place] = {}
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
            return {"Authorization": f"ApiKey {_base64(key) if ':' in key else key}"}
        if settings.password is not None:
            pair = _base64(f"{settings.username}:{settings.password.reveal()}")
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

    def _place(self, event: AuditEvent) -> "_Place":
        """Return where *event* goes; the answers are kept, an hour's events have the same."""
        hour = event.at // 3_600_000_000 if self._settings.dated else 0
        key = (event.vendor, event.source, hour)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            place = self._places[key] = _Place.of(self._settings.index, event)
        return place

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Offer *batch*; offering it again is harmless within one index (see above)."""
        body = b"%b\n" % b"\n".join([item.text for item in batch])
        content, headers = await packed(body, self._settings.compression)
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
            raise _fault(reply)
        return self._judge(reply, len(batch))

    async def _bulk_parameters(self) -> dict[str, str]:
        """Return the parameters of a bulk request, which depend on what the cluster is."""
        async with self._asking:
            if self._parameters is None:
                parameters = {"filter_path": _FILTER}
                if self._settings.pipeline is not None:
                    parameters["pipeline"] = self._settings.pipeline
                reply = await self._request("GET", "/")
                if reply.status not in (200, *_NO_SAY):
                    raise _fault(reply)
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
        """Ask the node that answered last; if it cannot be reached, the others in turn."""
        urls, node = self._settings.urls, self._node
        for left in reversed(range(len(urls))):
            try:
                return await self._peer.request(
                    method,
                    path,
                    params=params,
                    headers=headers,
                    content=content,
                    base_url=urls[node],
                )
            except Retryable as error:
                if error.sent or not left:
                    raise
            self._node = node = (node + 1) % len(urls)
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
                raise Refused(f"{reply.where}: {refusal.words}; {_ADVICE}", status=status)
            else:
                missing += status == 404
                reason = _REASONS.get(refusal.kind, f"status_{status}")
                rejected.append(Rejection(index, reason, refusal.words, status))
        if missing == count:
            raise Refused(f"{reply.where}: {rejected[0].message}; {_ADVICE}", status=404)
        warnings = (
            (f"stored in the failure store, not in the stream: {diverted}",) if diverted else ()
        )
        return Verdict(
            rejected=tuple(rejected),
            retry=tuple(retry),
            because=because,
            duplicates=duplicates,
            warnings=warnings,
        )

    def _is_configuration(self, refusal: "_Refusal") -> bool:
        """Say whether a *refusal* would meet every event alike, and an operator can mend it."""
        if refusal.kind == "index_closed_exception":
            return True
        pipeline = self._settings.pipeline
        return pipeline is not None and refusal.reason.startswith(f"pipeline with id [{pipeline}]")

    async def check(self) -> str:
        """
        Ask who the cluster is, then whether we may create documents where we want to.

        OpenSearch, and Elasticsearch without security, cannot be asked the second question.
        """
        settings = self._settings
        reply = await self._request("GET", "/")
        if reply.status not in (200, 403):  # 403: known, without the right to ask this
            raise _fault(reply)
        about = _object(reply) if reply.status == 200 else {}
        if about is None:
            raise unproven(reply, "a cluster's")
        version = about.get("version")
        number = version.get("number") if isinstance(version, dict) else None
        who = f"{settings.urls[self._node]} (version {words(str(number or 'unknown'))})"
        target = _DIRECTIVE.sub("*", _PLACEHOLDER.sub("*", settings.index))
        wanted = {"index": [{"names": [target], "privileges": ["create_doc", "auto_configure"]}]}
        reply = await self._request(
            "POST",
            "/_security/user/_has_privileges",
            headers={"Content-Type": "application/json"},
            content=orjson.dumps(wanted),
        )
        if reply.status in (401, 403):
            raise _fault(reply)
        answer = _object(reply) if reply.status == 200 else None
        if answer is None:
            return f"{who} answers; it cannot be asked about the right to write to {target}"
        rights = answer.get("index")
        rights = rights.get(target) if isinstance(rights, dict) else None
        rights = rights if isinstance(rights, dict) else {}
        if rights.get("create_doc") is not True:
            raise Refused(
                f"{who}: no right to write to {target}; give the key or user the privilege "
                "create_doc on it",
                status=403,
            )
        if rights.get("auto_configure") is not True:
            return f"{who}: {target} can be written to, but must exist: no right to create it"
        return f"{who}: {target} can be written to"

    async def is_opensearch(self) -> bool:
        """Ask whether the cluster is OpenSearch; one that may not be asked is taken not to be."""
        reply = await self._request("GET", "/")
        if reply.status not in (200, *_NO_SAY):
            raise _fault(reply)
        version = (_object(reply) or {}).get("version")
        return isinstance(version, dict) and version.get("distribution") == "opensearch"

    async def put(self, path: str, document: Mapping[str, Any]) -> None:
        """Put *document*, such as a template, to *path*, in the place of one that is there."""
        headers = {"Content-Type": "application/json"}
        content = orjson.dumps(document)
        reply = await self._request("PUT", path, headers=headers, content=content)
        if reply.status != 200:
            raise _fault(reply)
        if (_object(reply) or {}).get("acknowledged") is not True:
            raise unproven(reply, "a cluster's")

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where events go: the *action* line up to the id, and the data stream's parts if it is one."""

    action: bytes
    stream: dict[str, str] | None

    @classmethod
    def of(cls, index: str, event: AuditEvent) -> Self:
        """Fill in *index* for *event*. What an index name cannot hold becomes an underscore."""
        # In a data stream's name hyphens stand between the parts, and nowhere else.
        wrong = _FORBIDDEN_IN_STREAM if _is_stream(index) else _FORBIDDEN
        known = {"vendor": event.vendor, "source": event.source}
        at = _EPOCH + timedelta(microseconds=event.at)
        name = _DIRECTIVE.sub(lambda found: at.strftime(found[0]), index)
        name = _PLACEHOLDER.sub(lambda found: wrong.sub("_", known[found[1]].lower()), name)
        name = name.lstrip("-_+.")
        parts = name.split("-")
        stream = None
        if name.startswith("logs-") and len(parts) == 3:
            # Constant within a stream: another value would have the document refused.
            stream = dict(zip(("type", "dataset", "namespace"), parts, strict=True))
        return cls(b'{"create":{"_index":%b,"_id":"' % orjson.dumps(name), stream)


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
    items = (_object(reply) or {}).get("items")
    if not isinstance(items, list):
        return None
    try:
        results = [item["create"] for item in items]
        sound = all(type(result["status"]) is int for result in results)
    except (KeyError, TypeError):
        return None
    return results if sound else None


def _object(reply: Reply) -> dict[str, Any] | None:
    try:
        answer = reply.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _fault(reply: Reply) -> RelayError:
    """Return what a refused request means, in the cluster's own words."""
    error = (_object(reply) or {}).get("error")
    said = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else ""
    if reply.status == 400 and not said:
        return Refused(f"{reply.where} did not answer as a cluster does; {_ADVICE}", status=400)
    return fault(reply, said=said)


def _hides_source(reply: Reply) -> bool:
    """Say whether the cluster knows include_source_on_error: Elasticsearch since 8.18."""
    version = (_object(reply) or {}).get("version")
    if not isinstance(version, dict) or version.get("distribution") is not None:
        return False
    number = re.match(r"(\d+)\.(\d+)\.", str(version.get("number")), re.ASCII)
    return number is not None and (int(number[1]), int(number[2])) >= _HIDES_SOURCE_SINCE


def _is_stream(index: str) -> bool:
    return index.startswith("logs-") and index.count("-") == 2


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
