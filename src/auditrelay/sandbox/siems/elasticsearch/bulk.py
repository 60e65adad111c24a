"""The bulk endpoint: the result of each document, and faults of single items."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster, Flavour, Index
from auditrelay.sandbox.siems.elasticsearch.mapping import Conflict
from auditrelay.sandbox.siems.elasticsearch.messages import (
    COMMON,
    Refused,
    answer,
    check_parameters,
)
from auditrelay.sandbox.siems.elasticsearch.operations import (
    Operation,
    check_media_type,
    operations_in,
    unpacked,
)
from auditrelay.sandbox.stored import Stored, first_at, scan

_PARAMETERS = frozenset(
    {
        "_source",
        "_source_excludes",
        "_source_includes",
        "pipeline",
        "refresh",
        "require_alias",
        "routing",
        "timeout",
        "wait_for_active_shards",
    }
)
_PARAMETERS_ELASTICSEARCH = frozenset(
    {"include_source_on_error", "list_executed_pipelines", "require_data_stream"}
)
_LONGEST_NUMBER = 1000
_LONGEST_KEY = 50_000
_NATIVE_ID_PATHS = ("event.id", "metadata.original_event_uid")
_BAD_NAME = re.compile(r'[A-Z\\/*?"<>| ,#:]|^[-_+]|^\.{1,2}$')
_ONLY_CREATE = "only write ops with an op_type of create are allowed in data streams"
_KINDS = {
    403: "security_exception",
    404: "index_not_found_exception",
    409: "version_conflict_engine_exception",
    429: "es_rejected_execution_exception",
    500: "exception",
    503: "unavailable_shards_exception",
}
DROPPED = {
    "_version": -3,
    "result": "noop",
    "_shards": {"total": 0, "successful": 0, "failed": 0},
    "status": 200,
}
"""The result of a document that a pipeline has dropped."""
_LEAN_CONFLICT = (
    b'{"create":{"status":409,"error":{"type":"version_conflict_engine_exception",'
    b'"reason":"document already exists"}}}'
)


@dataclass(slots=True)
class ScriptedItem:
    """A fault of single items: which ones, how often, and their error."""

    where: Callable[[int, str], bool]
    times: int | None
    status: int
    kind: str
    reason: str


def usual_kind(status: int, flavour: Flavour) -> str:
    """Return the error type of an item that is refused with *status*."""
    if status == 429 and flavour == "opensearch":
        return "rejected_execution_exception"
    return _KINDS.get(status, "exception")


class Bulk:
    """
    The bulk endpoint of *cluster*, which stores documents in *stored*, or in *failures*.

    *scripted* are faults of future items; *fewer* is, for each of the next requests, the number of
    items left out of its answer.
    """

    def __init__(self, cluster: Cluster, stored: Stored, failures: Stored) -> None:
        self._cluster = cluster
        self._flavour = cluster.flavour
        self._switches = cluster.switches
        self._stored = stored
        self._failures = failures
        self.scripted: list[ScriptedItem] = []
        self.fewer: list[int] = []
        self._sequence = 0

    def respond(self, request: Request, default: str | None) -> Response:
        """Process *request*; *default* is the index in its path."""
        elasticsearch = self._flavour == "elasticsearch"
        allowed = COMMON | _PARAMETERS
        if elasticsearch:
            allowed |= _PARAMETERS_ELASTICSEARCH
        check_parameters(request, allowed)
        check_media_type(request, self._flavour)
        if len(request.body) > self._switches.max_content_length:
            return Response(413, b"", {"Content-Type": "text/plain"})
        body = unpacked(request)
        if len(body) > self._switches.max_content_length:
            return Response(413, b"", {"Content-Type": "text/plain"})
        if not body:
            raise Refused(400, "parse_exception", "request body is required")
        if not body.endswith(b"\n"):
            reason = "The bulk request must be terminated by a newline [\\n]"
            raise Refused(400, "illegal_argument_exception", reason)
        if self._stored.lean:
            return self._respond_lean(body)
        operations = operations_in(body, default, request.query, self._flavour)
        pipeline = request.query.get("pipeline", self._switches.default_pipeline)
        with_source = request.query.get("include_source_on_error") != "false" and elasticsearch
        items = [
            {operation.verb: self._apply(position, operation, pipeline, with_source=with_source)}
            for position, operation in enumerate(operations)
        ]
        if self.fewer:
            items = items[: max(0, len(items) - self.fewer.pop(0))]
        errors = any("error" in result for item in items for result in item.values())
        return answer(request, {"took": 1, "errors": errors, "items": items})

    def _apply(
        self, position: int, operation: Operation, pipeline: str, *, with_source: bool
    ) -> dict[str, Any]:
        """Execute one operation and return its item."""
        doc_id = operation.id if operation.id is not None else self._new_id()
        result: dict[str, Any] = {"_index": operation.index, "_id": doc_id}
        try:
            self._apply_script(position, doc_id)
            self._check_operation(doc_id, pipeline)
            if pipeline in self._switches.dropping:
                return result | DROPPED
            if pipeline in self._switches.rerouting:
                operation = replace(operation, index=self._switches.rerouting[pipeline])
            index = self._index(operation)
            result["_index"] = index.write_index
            return {**result, **self._write(index, operation, doc_id, with_source=with_source)}
        except Refused as refused:
            return {
                **result,
                "status": refused.status,
                "error": {"type": refused.kind, "reason": refused.reason},
            }

    def _apply_script(self, position: int, doc_id: str) -> None:
        for item in self.scripted:
            if item.times != 0 and item.where(position, doc_id):
                if item.times is not None:
                    item.times -= 1
                raise Refused(item.status, item.kind, item.reason)

    def _check_operation(self, doc_id: str, pipeline: str) -> None:
        if pipeline != "_none" and pipeline not in self._switches.pipelines:
            reason = f"pipeline with id [{pipeline}] does not exist"
            raise Refused(400, "illegal_argument_exception", reason)
        if not doc_id:
            reason = "if _id is specified it must not be empty"
            raise Refused(400, "illegal_argument_exception", reason)

    def _index(self, operation: Operation) -> Index:
        """Return the index or stream to write to; create it if allowed."""
        name = operation.index
        privilege = "create_doc" if operation.verb == "create" else operation.verb
        if privilege in self._switches.missing_privileges:
            user = self._cluster.username
            reason = (
                f"action [indices:data/write/bulk[s]] is unauthorized for user [{user}] "
                f"on indices [{name}], this action is granted by the index privileges [{privilege}]"
            )
            raise Refused(403, "security_exception", reason)
        index = self._cluster.indices.get(name)
        if index is None:
            if _BAD_NAME.search(name) or len(name.encode()) > 255:
                raise Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}]")
            stream = any(fnmatchcase(name, pattern) for pattern in self._switches.streams)
            if not self._switches.auto_create or (operation.stream_required and not stream):
                raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
            if stream and operation.verb != "create":
                raise Refused(400, "illegal_argument_exception", _ONLY_CREATE)
            index = self._cluster.make(name, stream=stream)
        elif operation.stream_required and not index.stream:
            reason = f"[require_data_stream] request flag is [true] and [{name}] is no data stream"
            raise Refused(404, "index_not_found_exception", reason)
        if index.stream and operation.verb != "create":
            raise Refused(400, "illegal_argument_exception", _ONLY_CREATE)
        return index

    def _write(
        self, index: Index, operation: Operation, doc_id: str, *, with_source: bool
    ) -> dict[str, Any]:
        if operation.verb == "delete":
            return _deleted(index, doc_id)
        if operation.verb == "update":
            raise Refused(400, "illegal_argument_exception", "this double does not update")
        if operation.verb == "create" and doc_id in index.ids:
            reason = f"[{doc_id}]: version conflict, document already exists (current version [1])"
            raise Refused(409, "version_conflict_engine_exception", reason)
        kind = "document_parsing_exception"
        if self._flavour == "opensearch":
            kind = "mapper_parsing_exception"
        try:
            document = _document(operation.source)
            if index.stream:
                _check_timestamp(document)
            index.mapping.check(document)
        except Conflict as conflict:
            if self._switches.failure_store and index.stream and self._flavour == "elasticsearch":
                self._failures.add(operation.source, doc_id, None)
                self._sequence += 1
                return {"_version": 1, "result": "created", "status": 201, "failure_store": "used"}
            reason = str(conflict)
            if with_source:
                reason += f"; source: {operation.source[:256].decode(errors='replace')}"
            raise Refused(400, conflict.kind or kind, reason) from conflict
        index.ids.add(doc_id)
        index.documents.append((index.write_index, doc_id, document))
        self._stored.add(document, doc_id, first_at(document, _NATIVE_ID_PATHS))
        self._sequence += 1
        return {
            "_version": 1,
            "result": "created",
            "_shards": {"total": 2, "successful": 1, "failed": 0},
            "_seq_no": self._sequence,
            "_primary_term": 1,
            "status": 201,
        }

    def _respond_lean(self, body: bytes) -> Response:
        ids = scan(body, b'{"create":{', b'"_id":')
        known = self._stored.by_uid
        items = []
        for doc_id in ids:
            if doc_id in known:
                items.append(_LEAN_CONFLICT)
            else:
                known[doc_id] = 1
                self._stored.total += 1
                items.append(b'{"create":{"status":201}}')
        self._stored.by_native_id.update(scan(body, b'"event":{', b'"id":'))
        self._stored.note_heads(body)
        errors = b"true" if _LEAN_CONFLICT in items else b"false"
        text = b'{"took":1,"errors":%b,"items":[%b]}' % (errors, b",".join(items))
        return Response(200, text, {"Content-Type": "application/json"})

    def _new_id(self) -> str:
        self._sequence += 1
        return f"auto-{self._sequence:015d}"


def _document(source: bytes) -> dict[str, Any]:
    """
    Return the document, or raise Conflict if the parser refuses it.

    It refuses keys that stand twice, those of more than 50,000 characters and numbers of more than
    1,000 (``StreamReadConstraints`` of Jackson), and, to be strict, half of a surrogate pair.
    """
    try:
        document = json.loads(
            source,
            parse_constant=_no_constant,
            parse_int=lambda digits: int(_number(digits)),
            parse_float=lambda digits: float(_number(digits)),
            object_pairs_hook=_object,
        )
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Conflict(f"failed to parse: {error}") from error
    if not isinstance(document, dict):
        raise Conflict("failed to parse: a document must be an object")
    return document


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _number(digits: str) -> str:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(
            f"Number value length ({len(digits)}) exceeds the maximum allowed ({_LONGEST_NUMBER})"
        )
    return digits


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if len(key) > _LONGEST_KEY:
            raise ValueError(
                f"Name length ({len(key)}) exceeds the maximum allowed ({_LONGEST_KEY})"
            )
        if key in found:
            raise ValueError(f"Duplicate field '{key}'")
        found[key] = value
    return found


def _check_timestamp(document: dict[str, Any]) -> None:
    stamp = document.get("@timestamp")
    if stamp is None:
        raise Conflict("data stream timestamp field [@timestamp] is missing")
    if isinstance(stamp, list):
        raise Conflict("data stream timestamp field [@timestamp] encountered multiple values")


def _deleted(index: Index, doc_id: str) -> dict[str, Any]:
    if doc_id not in index.ids:
        return {"result": "not_found", "status": 404}
    index.ids.discard(doc_id)
    index.documents = [row for row in index.documents if row[1] != doc_id]
    return {"result": "deleted", "status": 200}
