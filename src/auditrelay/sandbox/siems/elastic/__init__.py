"""
Elasticsearch, or OpenSearch by a switch: the bulk endpoint and what a careful client looks at.

Strict where the real servers are: the final newline, the media type, unknown parameters,
create-only data streams that need ``@timestamp``, conflicting types, ``_id`` unique per backing
index. Source: elastic/elasticsearch-specification. It has no query language to speak of.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from auditrelay.sandbox.messages import BadRequest, Request, Response, json_response
from auditrelay.sandbox.server import Double
from auditrelay.sandbox.siems.elastic.filter_path import filtered
from auditrelay.sandbox.siems.elastic.mapping import Conflict, Mapping
from auditrelay.sandbox.siems.elastic.queries import UnknownQuery, matches
from auditrelay.sandbox.siems.stored import Stored, first_at, scan

USERNAME = "elastic"
PASSWORD = "sandbox-elastic-password-not-real"  # noqa: S105  # opens nothing but this double
KEY_ID = "sandboxElasticKeyId0"
KEY_SECRET = "sandboxElasticKeyNotReal"  # noqa: S105  # as above

_COMMON = frozenset({"pretty", "human", "error_trace", "filter_path", "format"})
_BULK = frozenset(
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
_BULK_ELASTICSEARCH = frozenset(
    {"include_source_on_error", "list_executed_pipelines", "require_data_stream"}
)
_READ = frozenset(
    {
        "allow_no_indices",
        "expand_wildcards",
        "ignore_unavailable",
        "master_timeout",
        "rest_total_hits_as_int",
        "size",
        "timeout",
        "track_total_hits",
        "typed_keys",
        "wait_for_status",
        "local",
        "q",
        "include_type_name",
    }
)
_META = frozenset(
    {
        "_index",
        "_id",
        "routing",
        "require_alias",
        "pipeline",
        "dynamic_templates",
        "if_seq_no",
        "if_primary_term",
        "version",
        "version_type",
    }
)
_META_ELASTICSEARCH = frozenset({"require_data_stream", "list_executed_pipelines"})
_BAD_NAME = re.compile(r'[A-Z\\/*?"<>| ,#:]|^[-_+]|^\.{1,2}$')


@dataclass(slots=True)
class Switches:
    """
    How this cluster is set up.

    *streams* are the name patterns that have a data stream template. Without *auto_create* an
    index must exist. With *failure_store* (Elasticsearch) a stream takes what does not map into
    its failure store, and answers 201. *missing_privileges* are refused: as a 403 item for
    ``create_doc`` and ``index``, as a 403 for ``read`` and ``view_index_metadata``, and in the
    answer of ``_has_privileges``. *flattened* fields take objects of any content. *pipelines* are
    those that may be named. *unsearchable* are backing indices whose shards fail in a search.
    """

    streams: tuple[str, ...] = ("logs-*-*",)
    auto_create: bool = True
    failure_store: bool = False
    max_content_length: int = 100 * 1024 * 1024
    total_fields: int = 1000
    missing_privileges: frozenset[str] = frozenset()
    flattened: tuple[str, ...] = ("*.audit.metadata", "auditrelay.changes", "auditrelay.unmapped")
    pipelines: frozenset[str] = frozenset()
    version: str = ""
    unsearchable: frozenset[str] = frozenset()


@dataclass(slots=True)
class Index:
    """
    An index or a data stream: its documents and, for the write index only, the ids in use.

    *documents* are ``(backing index, _id, source)`` in order of arrival, *backing* the name of
    each index behind it and when that was made (epoch seconds), the one that is written to last.
    """

    name: str
    stream: bool
    mapping: Mapping
    backing: dict[str, float]
    ids: set[str] = field(default_factory=set)
    documents: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def made(cls, name: str, mapping: Mapping, now: float, *, stream: bool) -> "Index":
        """Return a new one, empty."""
        made = cls(name, stream, mapping, {} if stream else {name: now})
        if stream:
            made.roll_over(now)
        return made

    @property
    def generation(self) -> int:
        """How many indices there have been behind it."""
        return len(self.backing)

    @property
    def written(self) -> str:
        """The name of the index that is written to."""
        return next(reversed(self.backing))

    def roll_over(self, now: float) -> None:
        """Begin a new index, which knows none of the ids of the others."""
        date = time.strftime("%Y.%m.%d", time.gmtime(now))
        self.backing[f".ds-{self.name}-{date}-{len(self.backing) + 1:06d}"] = now
        self.ids = set()


@dataclass(slots=True)
class ScriptedItem:
    """A fault of single items: which ones, how often, and the error that they get."""

    where: Callable[[int, str], bool]
    times: int | None
    status: int
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Operation:
    verb: str
    index: str
    id: str | None
    stream_required: bool
    source: bytes


class _Refused(Exception):  # an answer, not a fault of ours
    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason


class Elastic(Double):
    """
    A cluster of one *flavour*. :attr:`stored` is what it kept, whatever it answered.

    In lean mode (:attr:`lean`) only ``_id`` and ``event.id`` are taken out of a bulk body without
    parsing it; creates get 201 or 409 with nothing else in the item, and documents are not kept.
    """

    def __init__(
        self,
        *,
        flavour: Literal["elasticsearch", "opensearch"] = "elasticsearch",
        switches: Switches | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        self.flavour = flavour
        self.switches = switches or Switches()
        self.username = USERNAME
        self.password = PASSWORD
        self.api_key = base64.b64encode(f"{KEY_ID}:{KEY_SECRET}".encode()).decode()
        self.security = True
        self.uuid = "c2FuZGJveC1jbHVzdGVyLQ"
        self.stored = Stored()
        self.failures = Stored()
        self.indices: dict[str, Index] = {}
        self.templates: dict[str, Any] = {}
        self.native_id_paths = ("event.id", "metadata.original_event_uid")
        self._items: list[ScriptedItem] = []
        self._fewer: list[int] = []
        self._sequence = 0

    @property
    def lean(self) -> bool:
        """Whether documents are only counted; for load tests."""
        return self.stored.lean

    @lean.setter
    def lean(self, lean: bool) -> None:
        self.stored.lean = self.failures.lean = lean

    def rotate(self, secret: str) -> None:
        """Make *secret* the password, and the secret half of the API key."""
        self.password = secret
        self.api_key = base64.b64encode(f"{KEY_ID}:{secret}".encode()).decode()

    def fail_items(
        self,
        status: int,
        *,
        where: Callable[[int, str], bool] = lambda _position, _id: True,
        times: int | None = 1,
        kind: str = "",
        reason: str = "scripted",
    ) -> None:
        """
        Refuse items of bulk requests with *status*, storing nothing.

        *where* chooses by position and ``_id``, *times* is how many items (None: for ever).
        """
        if not kind and status == 429 and self.flavour == "opensearch":
            kind = "rejected_execution_exception"
        kind = kind or _KINDS.get(status, "exception")
        self._items.append(ScriptedItem(where, times, status, kind, reason))

    def heal_items(self) -> None:
        """Refuse no more items."""
        self._items.clear()

    def answer_fewer_items(self, missing: int = 1) -> None:
        """Leave the last *missing* items out of the next bulk answer; they are stored."""
        self._fewer.append(missing)

    def make_stream(self, name: str) -> str:
        """Make the data stream *name*, empty, and return its name."""
        return self._made(name, stream=True).name

    def rollover(self, name: str) -> None:
        """Give the data stream *name* a new write index, which knows none of the old ids."""
        index = self.indices[name]
        if not index.stream:
            raise ValueError(f"{name} is not a data stream")
        index.roll_over(self.clock())

    def respond(self, request: Request) -> Response:
        """Answer as a node of the cluster would."""
        try:
            response = self._route(request)
        except _Refused as refused:
            response = _error(refused.status, refused.kind, refused.reason)
        except UnknownQuery as error:
            response = _error(400, "parsing_exception", f"unknown query [{error}]")
        if self.flavour == "elasticsearch":
            response.headers["X-Elastic-Product"] = "Elasticsearch"
            wanted = request.headers.get("accept", "")
            if "vnd.elasticsearch+json" in wanted and "Content-Type" in response.headers:
                response.headers["Content-Type"] = wanted.partition(",")[0]
        return response

    def _route(self, request: Request) -> Response:
        if self.security:
            refusal = self._unauthenticated(request)
            if refusal is not None:
                return refusal
        parts = [part for part in request.path.split("/") if part]
        if parts and parts[-1] == "_bulk" and len(parts) <= 2:
            if request.method not in {"POST", "PUT"}:
                return _wrong_method(request, "POST, PUT")
            return self._bulk(request, parts[0] if len(parts) == 2 else None)
        self._check_parameters(request, _COMMON | _READ)
        value = self._look(request.method, parts, request)
        if value is None and len(parts) == 1 and request.method == "POST":
            return _wrong_method(request, "DELETE, GET, HEAD, PUT")  # it might be an index
        if value is None:
            return _error(
                400,
                "",
                f"no handler found for uri [{request.target}] and method [{request.method}]",
            )
        return value

    # -- authentication ---------------------------------------------------------------------

    def _unauthenticated(self, request: Request) -> Response | None:
        value = request.headers.get("authorization")
        if value is not None:
            scheme, _, secret = value.partition(" ")
            if scheme.lower() == "basic" and _decoded(secret) == f"{self.username}:{self.password}":
                return None
            known = self.flavour == "elasticsearch" and secret == self.api_key
            if scheme.lower() == "apikey" and known:
                return None
        if self.flavour == "opensearch":
            headers = {
                "WWW-Authenticate": 'Basic realm="OpenSearch Security"',
                "Content-Type": "text/plain",
            }
            return Response(401, b"Unauthorized", headers)
        reason = (
            f"missing authentication credentials for REST request [{request.target}]"
            if value is None
            else f"unable to authenticate with provided credentials for REST request "
            f"[{request.target}]"
        )
        refusal = _error(401, "security_exception", reason)
        refusal.headers["WWW-Authenticate"] = 'Basic realm="security", charset="UTF-8", ApiKey'
        return refusal

    # -- bulk ---------------------------------------------------------------------------------

    def _bulk(self, request: Request, default: str | None) -> Response:
        elasticsearch = self.flavour == "elasticsearch"
        allowed = _COMMON | _BULK | (_BULK_ELASTICSEARCH if elasticsearch else frozenset())
        self._check_parameters(request, allowed)
        self._check_media_type(request)
        if len(request.body) > self.switches.max_content_length:
            return Response(413, b"", {"Content-Type": "text/plain"})
        body = _unpacked(request)
        if len(body) > self.switches.max_content_length:
            return Response(413, b"", {"Content-Type": "text/plain"})
        if not body:
            raise _Refused(400, "parse_exception", "request body is required")
        if not body.endswith(b"\n"):
            reason = "The bulk request must be terminated by a newline [\\n]"
            raise _Refused(400, "illegal_argument_exception", reason)
        if self.lean:
            return self._bulk_lean(body)
        operations = self._operations(body, default, request.query)
        pipeline = request.query.get("pipeline", "_none")
        with_source = request.query.get("include_source_on_error") != "false" and elasticsearch
        items = [
            {operation.verb: self._apply(position, operation, pipeline, with_source=with_source)}
            for position, operation in enumerate(operations)
        ]
        if self._fewer:
            items = items[: max(0, len(items) - self._fewer.pop(0))]
        errors = any("error" in result for item in items for result in item.values())
        return _json(request, {"took": 1, "errors": errors, "items": items})

    def _check_parameters(self, request: Request, allowed: frozenset[str]) -> None:
        unknown = sorted(request.query.keys() - allowed)
        if unknown:
            names = ", ".join(f"[{name}]" for name in unknown)
            plural = "s" if len(unknown) > 1 else ""
            reason = f"request [{request.path}] contains unrecognized parameter{plural}: {names}"
            raise _Refused(400, "illegal_argument_exception", reason)
        for name in ("require_data_stream", "require_alias", "include_source_on_error"):
            if request.query.get(name, "true") not in {"true", "false", ""}:
                reason = (
                    f"Failed to parse value [{request.query[name]}] as only [true] or [false] "
                    "are allowed."
                )
                raise _Refused(400, "illegal_argument_exception", reason)

    def _check_media_type(self, request: Request) -> None:
        value = request.headers.get("content-type", "")
        kind, _, parameters = value.partition(";")
        kind = kind.strip().lower()
        if kind in {"application/json", "application/x-ndjson"}:
            return
        if self.flavour == "elasticsearch" and kind in {
            "application/vnd.elasticsearch+json",
            "application/vnd.elasticsearch+x-ndjson",
        }:
            version = re.search(r"compatible-with=(\d+)", parameters)
            if version and version[1] in {"8", "9"}:
                return
            reason = (
                "A compatible version is required on both Content-Type and Accept headers if "
                "either one has requested a compatible version"
            )
            raise _Refused(400, "media_type_header_exception", reason)
        raise _Refused(406, "", f"Content-Type header [{value}] is not supported")

    def _operations(
        self, body: bytes, default: str | None, query: dict[str, str]
    ) -> list[_Operation]:
        """Return the operations of a body; one malformed action line refuses the whole of it."""
        lines = body.split(b"\n")[:-1]
        operations: list[_Operation] = []
        place = 0
        while place < len(lines):
            line, number = lines[place], place + 1
            place += 1
            if not line.strip():
                continue
            verb, meta = self._action(line, number)
            name = meta.get("_index", default)
            if not isinstance(name, str) or not name:
                reason = "Validation Failed: 1: index is missing;"
                raise _Refused(400, "action_request_validation_exception", reason)
            doc_id = meta.get("_id")
            doc_id = None if doc_id is None else str(doc_id)
            if doc_id is not None and len(doc_id.encode()) > 512:
                reason = (
                    f"Validation Failed: 1: id [{doc_id}] is too long, must be no longer than 512 "
                    f"bytes but was: {len(doc_id.encode())};"
                )
                raise _Refused(400, "action_request_validation_exception", reason)
            source = b""
            if verb != "delete":
                if place == len(lines):
                    reason = "Validation Failed: 1: no requests added;"
                    raise _Refused(400, "action_request_validation_exception", reason)
                source = lines[place]
                place += 1
            required = meta.get("require_data_stream", query.get("require_data_stream", False))
            operations.append(
                _Operation(verb, name, doc_id, required in {True, "true", ""}, source)
            )
        if not operations:
            reason = "Validation Failed: 1: no requests added;"
            raise _Refused(400, "action_request_validation_exception", reason)
        return operations

    def _unreadable(self, how: str) -> str:
        library = "x_content" if self.flavour == "elasticsearch" else "json"
        return f"{library}_{how}_exception"

    def _action(self, line: bytes, number: int) -> tuple[str, dict[str, Any]]:
        malformed = f"Malformed action/metadata line [{number}], "
        kind = "illegal_argument_exception"
        try:
            action = json.loads(line)
        except UnicodeDecodeError as error:
            raise _Refused(400, self._unreadable("parse"), error.reason) from error
        except json.JSONDecodeError as error:
            cut = error.pos == len(error.doc)
            kind = self._unreadable("e_o_f" if cut else "parse")
            raise _Refused(400, kind, f"[1:{error.colno}] {error.msg}") from error
        if not isinstance(action, dict):
            raise _Refused(400, kind, f"{malformed}expected START_OBJECT")
        if len(action) != 1:
            raise _Refused(400, kind, f"{malformed}expected one field")
        [(verb, meta)] = action.items()
        if verb not in {"create", "index", "update", "delete"}:
            expected = "expected field [create], [delete], [index] or [update] but found"
            raise _Refused(400, kind, f"{malformed}{expected} [{verb}]")
        if not isinstance(meta, dict):
            raise _Refused(400, kind, f"{malformed}expected START_OBJECT")
        allowed = _META | (_META_ELASTICSEARCH if self.flavour == "elasticsearch" else frozenset())
        for name in meta.keys() - allowed:
            text = f"Action/metadata line [{number}] contains an unknown parameter [{name}]"
            raise _Refused(400, kind, text)
        return verb, meta

    def _apply(
        self, position: int, operation: _Operation, pipeline: str, *, with_source: bool
    ) -> dict[str, Any]:
        """Do one operation and return its item."""
        doc_id = operation.id if operation.id is not None else self._new_id()
        result: dict[str, Any] = {"_index": operation.index, "_id": doc_id}
        try:
            self._apply_script(position, doc_id)
            self._check_operation(doc_id, pipeline)
            index = self._index(operation)
            result["_index"] = index.written
            return {**result, **self._write(index, operation, doc_id, with_source=with_source)}
        except _Refused as refused:
            return {
                **result,
                "status": refused.status,
                "error": {"type": refused.kind, "reason": refused.reason},
            }

    def _apply_script(self, position: int, doc_id: str) -> None:
        for item in self._items:
            if item.times != 0 and item.where(position, doc_id):
                if item.times is not None:
                    item.times -= 1
                raise _Refused(item.status, item.kind, item.reason)

    def _check_operation(self, doc_id: str, pipeline: str) -> None:
        if pipeline != "_none" and pipeline not in self.switches.pipelines:
            reason = f"pipeline with id [{pipeline}] does not exist"
            raise _Refused(400, "illegal_argument_exception", reason)
        if not doc_id:
            reason = "if _id is specified it must not be empty"
            raise _Refused(400, "illegal_argument_exception", reason)

    def _index(self, operation: _Operation) -> Index:
        """Return the index or stream to write to, made if it may be."""
        name = operation.index
        privilege = "create_doc" if operation.verb == "create" else operation.verb
        if privilege in self.switches.missing_privileges:
            reason = (
                f"action [indices:data/write/bulk[s]] is unauthorized for user [{self.username}] "
                f"on indices [{name}], this action is granted by the index privileges [{privilege}]"
            )
            raise _Refused(403, "security_exception", reason)
        index = self.indices.get(name)
        if index is None:
            if _BAD_NAME.search(name) or len(name.encode()) > 255:
                raise _Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}]")
            stream = any(fnmatchcase(name, pattern) for pattern in self.switches.streams)
            if not self.switches.auto_create or (operation.stream_required and not stream):
                raise _Refused(404, "index_not_found_exception", f"no such index [{name}]")
            if stream and operation.verb != "create":
                raise _Refused(400, "illegal_argument_exception", _ONLY_CREATE)
            index = self._made(name, stream=stream)
        elif operation.stream_required and not index.stream:
            reason = f"[require_data_stream] request flag is [true] and [{name}] is no data stream"
            raise _Refused(404, "index_not_found_exception", reason)
        if index.stream and operation.verb != "create":
            raise _Refused(400, "illegal_argument_exception", _ONLY_CREATE)
        return index

    def _made(self, name: str, *, stream: bool) -> Index:
        constant: dict[str, str] = {}
        parts = name.split("-", 2)
        if stream and len(parts) == 3:
            names = ("data_stream.type", "data_stream.dataset", "data_stream.namespace")
            constant = dict(zip(names, parts, strict=True))
        mapping = Mapping(constant, self.switches.flattened, self.switches.total_fields)
        self.indices[name] = Index.made(name, mapping, self.clock(), stream=stream)
        return self.indices[name]

    def _write(
        self, index: Index, operation: _Operation, doc_id: str, *, with_source: bool
    ) -> dict[str, Any]:
        if operation.verb == "delete":
            return _deleted(index, doc_id)
        if operation.verb == "update":
            raise _Refused(400, "illegal_argument_exception", "this double does not update")
        if operation.verb == "create" and doc_id in index.ids:
            reason = f"[{doc_id}]: version conflict, document already exists (current version [1])"
            raise _Refused(409, "version_conflict_engine_exception", reason)
        kind = "document_parsing_exception"
        if self.flavour == "opensearch":
            kind = "mapper_parsing_exception"
        try:
            document = _document(operation.source)
            if index.stream:
                _check_timestamp(document)
            index.mapping.check(document)
        except Conflict as conflict:
            if self.switches.failure_store and index.stream and self.flavour == "elasticsearch":
                self.failures.add(operation.source, doc_id, None)
                self._sequence += 1
                return {"_version": 1, "result": "created", "status": 201, "failure_store": "used"}
            reason = str(conflict)
            if with_source:
                reason += f"; source: {operation.source[:256].decode(errors='replace')}"
            raise _Refused(400, conflict.kind or kind, reason) from conflict
        index.ids.add(doc_id)
        index.documents.append((index.written, doc_id, document))
        self.stored.add(document, doc_id, first_at(document, self.native_id_paths))
        self._sequence += 1
        return {
            "_version": 1,
            "result": "created",
            "_shards": {"total": 2, "successful": 1, "failed": 0},
            "_seq_no": self._sequence,
            "_primary_term": 1,
            "status": 201,
        }

    def _bulk_lean(self, body: bytes) -> Response:
        ids = scan(body, b'{"create":{', b'"_id":')
        known = self.stored.by_uid
        items = []
        for doc_id in ids:
            if doc_id in known:
                items.append(_LEAN_CONFLICT)
            else:
                known[doc_id] = 1
                self.stored.total += 1
                items.append(b'{"create":{"status":201}}')
        self.stored.by_native_id.update(scan(body, b'"event":{', b'"id":'))
        errors = b"true" if _LEAN_CONFLICT in items else b"false"
        text = b'{"took":1,"errors":%b,"items":[%b]}' % (errors, b",".join(items))
        return Response(200, text, {"Content-Type": "application/json"})

    def _new_id(self) -> str:
        self._sequence += 1
        return f"auto-{self._sequence:015d}"

    # -- what a client looks at -----------------------------------------------------------------

    def _look(  # noqa: C901, PLR0911, PLR0912  # a table of routes
        self, method: str, parts: list[str], request: Request
    ) -> Response | None:
        match [method, *parts]:
            case ["GET" | "HEAD"]:
                return _json(request, self._banner())
            case ["GET", "_security", "_authenticate"] if self.flavour == "elasticsearch":
                return _json(request, {"username": self.username, "roles": [], "enabled": True})
            case ["GET" | "POST", "_security", "user", "_has_privileges"] if (
                self.flavour == "elasticsearch"
            ):
                return _json(request, self._privileges(_object(request)))
            case ["GET", "_cluster", "health", *_]:
                health = {"cluster_name": "sandbox", "status": "green", "number_of_nodes": 1}
                return _json(request, health)
            case [_, ("_index_template" | "_component_template") as kind, name]:
                return self._template(method, kind, name, request)
            case ["GET" | "HEAD", "_data_stream", name]:
                streams = [
                    {
                        "name": index.name,
                        "timestamp_field": {"name": "@timestamp"},
                        "generation": index.generation,
                        "status": "GREEN",
                        "template": "logs",
                    }
                    for index in self._visible(name, "view_index_metadata")
                    if index.stream
                ]
                return _json(request, {"data_streams": streams})
            case ["PUT", "_data_stream", name]:
                self._made(name, stream=True)
                return _json(request, {"acknowledged": True})
            case ["POST", name, "_rollover"]:
                self._indices(name)
                self.rollover(name)
                return _json(request, {"acknowledged": True, "rolled_over": True})
            case ["POST" | "GET", *names, "_refresh"] if len(names) <= 1:
                return _json(request, {"_shards": {"total": 1, "successful": 1, "failed": 0}})
            case ["GET" | "POST", *names, "_count"] if len(names) <= 1:
                hits = self._hits(names, _object(request))
                shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
                return _json(request, {"count": len(hits), "_shards": shards})
            case ["GET" | "POST", *names, "_search"] if len(names) <= 1:
                return self._search(names, request)
            case ["GET", names, "_settings", "index.creation_date"]:
                return _json(request, self._creation_dates(names))
            case ["GET", names, "_mapping"]:
                return _json(request, self._mappings(names))
            case ["GET", "_index_template"]:
                return self._all_templates(request)
            case ["GET" | "POST", *names, "_mget"] if len(names) <= 1:
                return self._mget(names, request)
            case ["HEAD" | "GET", name] if not name.startswith("_"):
                self._indices(name)
                return _json(request, {name: {"aliases": {}, "mappings": {}, "settings": {}}})
            case ["PUT", name] if not name.startswith("_"):
                if name in self.indices:
                    reason = f"index [{name}] already exists"
                    raise _Refused(400, "resource_already_exists_exception", reason)
                self._made(name, stream=False)
                return _json(request, {"acknowledged": True, "index": name})
        return None

    def _banner(self) -> dict[str, Any]:
        if self.flavour == "opensearch":
            version = {"distribution": "opensearch", "number": self.switches.version or "3.2.0"}
        else:
            version = {"number": self.switches.version or "9.1.4", "build_flavor": "default"}
        return {
            "name": "sandbox",
            "cluster_name": "sandbox",
            "cluster_uuid": self.uuid,
            "version": version,
            "tagline": "You Know, for Search",
        }

    def _privileges(self, asked: dict[str, Any]) -> dict[str, Any]:
        missing = self.switches.missing_privileges
        cluster = {name: name not in missing for name in asked.get("cluster", [])}
        index: dict[str, dict[str, bool]] = {}
        for group in asked.get("index", []):
            names = group["names"] if isinstance(group["names"], list) else [group["names"]]
            for name in names:
                index.setdefault(name, {}).update(
                    {privilege: privilege not in missing for privilege in group["privileges"]}
                )
        granted = [*cluster.values(), *(has for group in index.values() for has in group.values())]
        return {
            "username": self.username,
            "has_all_requested": all(granted),
            "cluster": cluster,
            "index": index,
            "application": {},
        }

    def _template(self, method: str, kind: str, name: str, request: Request) -> Response | None:
        key = f"{kind}/{name}"
        if method == "PUT":
            template = _object(request)
            self._check_template(kind, name, template)
            self.templates[key] = template
            return _json(request, {"acknowledged": True})
        if method not in {"GET", "HEAD"}:
            return None
        if key not in self.templates:
            reason = f"{kind.strip('_').replace('_', ' ')} matching [{name}] not found"
            raise _Refused(404, "resource_not_found_exception", reason)
        body = {"name": name, kind.strip("_"): self.templates[key]}
        return _json(request, {f"{kind.strip('_')}s": [body]})

    def _check_template(self, kind: str, name: str, template: dict[str, Any]) -> None:
        """Refuse a template that this flavour does not take, or that the key may not install."""
        if "manage_index_templates" in self.switches.missing_privileges:
            action = "cluster:admin/component_template/put"
            if kind == "_index_template":
                action = "indices:admin/index_template/put"
            reason = f"action [{action}] is unauthorized for user [{self.username}]"
            if self.flavour == "opensearch":
                reason = f"no permissions for [{action}] and User [name={self.username}]"
            raise _Refused(403, "security_exception", reason)
        optional = template.get("ignore_missing_component_templates", [])
        if optional and self.flavour == "opensearch":
            reason = "[index_template] unknown field [ignore_missing_component_templates]"
            raise _Refused(400, "x_content_parse_exception", reason)
        absent = [
            part
            for part in template.get("composed_of", [])
            if f"_component_template/{part}" not in self.templates and part not in optional
        ]
        if absent:
            reason = (
                f"index_template [{name}] invalid, cause [index template [{name}] specifies "
                f"component templates [{', '.join(absent)}] that do not exist]"
            )
            raise _Refused(400, "invalid_index_template_exception", reason)
        foreign = "flattened" if self.flavour == "opensearch" else "flat_object"
        if f'"type": "{foreign}"' in json.dumps(template):
            reason = f"No handler for type [{foreign}] declared on a field"
            raise _Refused(400, "mapper_parsing_exception", reason)
        if self.flavour == "opensearch" and '{"type": "constant_keyword"}' in json.dumps(template):
            # Elasticsearch takes the first document's value for it; OpenSearch (seen on 2.19) must
            # be told.
            reason = (
                "Failed to parse mapping [_doc]: Field [namespace] is missing required parameter "
                "[value]"
            )
            raise _Refused(400, "mapper_parsing_exception", reason)

    def _indices(self, names: str) -> list[Index]:
        found: list[Index] = []
        for name in names.split(","):
            matching = [index for key, index in self.indices.items() if fnmatchcase(key, name)]
            if not matching and "*" not in name and name != "_all":
                raise _Refused(404, "index_not_found_exception", f"no such index [{name}]")
            found += matching
        return found

    def _hits(
        self, names: list[str], body: dict[str, Any]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        query = body.get("query", {"match_all": {}})
        return [
            (backing, doc_id, source)
            for index in self._indices(names[0] if names else "*")
            for backing, doc_id, source in index.documents
            if matches(query, doc_id, source)
        ]

    def _visible(self, names: str, privilege: str) -> list[Index]:
        """
        Return the indices that *names* stand for, for whoever has the *privilege*.

        Without it a pattern stands for nothing, and a plain name is refused; OpenSearch refuses
        both.
        """
        if privilege in self.switches.missing_privileges:
            if "*" in names and self.flavour == "elasticsearch":
                return []
            reason = f"action is unauthorized for user [{self.username}] on indices [{names}]"
            raise _Refused(403, "security_exception", reason)
        return self._indices(names)

    def _creation_dates(self, names: str) -> dict[str, Any]:
        return {
            backing: {"settings": {"index": {"creation_date": str(int(made * 1000))}}}
            for index in self._visible(names, "view_index_metadata")
            for backing, made in index.backing.items()
        }

    def _mappings(self, names: str) -> dict[str, Any]:
        return {
            backing: {
                "mappings": {
                    "properties": index.mapping.properties(
                        "keyword" if index.stream or self._is_ours(index.name) else "text"
                    )
                }
            }
            for index in self._visible(names, "view_index_metadata")
            for backing in index.backing
        }

    def _is_ours(self, name: str) -> bool:
        """Return whether a template that was installed here says how text is mapped in *name*."""
        return any(
            fnmatchcase(name, pattern)
            for key, template in self.templates.items()
            if key.startswith("_index_template/")
            for pattern in template.get("index_patterns", [])
        )

    def _all_templates(self, request: Request) -> Response:
        if "manage_index_templates" in self.switches.missing_privileges:
            reason = f"action [indices:admin/index_template/get] is unauthorized ({self.username})"
            raise _Refused(403, "security_exception", reason)
        kind = "_index_template/"
        listed: list[dict[str, Any]] = [
            {
                "name": "logs",
                "index_template": {
                    "index_patterns": list(self.switches.streams),
                    "priority": 100,
                    "data_stream": {"hidden": False},
                    "composed_of": ["logs@mappings", "ecs@mappings"],
                },
            }
        ]
        listed += [
            {"name": key.removeprefix(kind), "index_template": template}
            for key, template in self.templates.items()
            if key.startswith(kind)
        ]
        return _json(request, {"index_templates": listed})

    def _search(self, names: list[str], request: Request) -> Response:
        body = _object(request)
        if "q" in request.query:  # of Lucene's syntax, field:value alone
            name, colon, value = request.query["q"].partition(":")
            if not colon or not value.isalnum():
                raise UnknownQuery(request.query["q"])
            body["query"] = {"term": {name: value}}
        behind = [
            backing
            for index in self._visible(names[0] if names else "*", "read")
            for backing in index.backing
        ]
        failed = [backing for backing in behind if backing in self.switches.unsearchable]
        if failed and len(failed) == len(behind):
            raise _Refused(503, "search_phase_execution_exception", "all shards failed")
        seen = frozenset(behind).difference(failed)
        hits = [hit for hit in self._hits(names, body) if hit[0] in seen]
        first = body.get("from", 0)
        size = body.get("size", int(request.query.get("size", 10)))
        if first + size > 10_000:
            reason = (
                "Result window is too large, from + size must be less than or equal to: [10000]"
            )
            raise _Refused(400, "illegal_argument_exception", reason)
        shown = [
            {"_index": backing, "_id": doc_id, "_score": 1.0}
            | ({} if body.get("_source") is False else {"_source": source})
            for backing, doc_id, source in hits[first : first + size]
        ]
        return _json(
            request,
            {
                "took": 1,
                "timed_out": False,
                "_shards": {
                    "total": len(behind),
                    "successful": len(behind) - len(failed),
                    "skipped": 0,
                    "failed": len(failed),
                },
                "hits": {
                    "total": {"value": len(hits), "relation": "eq"},
                    "max_score": 1.0 if hits else None,
                    "hits": shown,
                },
            },
        )

    def _mget(self, names: list[str], request: Request) -> Response:
        body = _object(request)
        default = names[0] if names else ""
        wanted = [(default, doc_id) for doc_id in body.get("ids", [])]
        wanted += [(doc.get("_index", default), doc["_id"]) for doc in body.get("docs", [])]
        docs = []
        for name, doc_id in wanted:
            index = self.indices.get(name)
            source = next(
                (source for _, known, source in index.documents if known == doc_id)
                if index
                else iter(()),
                None,
            )
            doc: dict[str, Any] = {"_index": name, "_id": doc_id, "found": source is not None}
            if source is not None:
                doc["_source"] = source
            docs.append(doc)
        return _json(request, {"docs": docs})


_ONLY_CREATE = "only write ops with an op_type of create are allowed in data streams"
_KINDS = {
    403: "security_exception",
    404: "index_not_found_exception",
    409: "version_conflict_engine_exception",
    429: "es_rejected_execution_exception",
    500: "exception",
    503: "unavailable_shards_exception",
}
_LEAN_CONFLICT = (
    b'{"create":{"status":409,"error":{"type":"version_conflict_engine_exception",'
    b'"reason":"document already exists"}}}'
)


def _document(source: bytes) -> dict[str, Any]:
    try:
        document = json.loads(source, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Conflict(f"failed to parse: {error}") from error
    if not isinstance(document, dict):
        raise Conflict("failed to parse: a document must be an object")
    return document


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


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


def _unpacked(request: Request) -> bytes:
    """Return the body; like the real servers, an unknown encoding is taken for none."""
    try:
        return request.content("gzip", "deflate")
    except BadRequest as error:
        if error.status == 415:
            return request.body
        started = request.body[:2] == b"\x1f\x8b"
        kind = "illegal_argument_exception" if started else "parse_exception"
        raise _Refused(400, kind, error.reason) from error


def _decoded(secret: str) -> str:
    try:
        return base64.b64decode(secret, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _object(request: Request) -> dict[str, Any]:
    body = request.content("gzip", "deflate")
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError as error:
        raise _Refused(400, "parsing_exception", str(error)) from error
    if not isinstance(value, dict):
        raise _Refused(400, "parsing_exception", "Expected [START_OBJECT]")
    return value


def _json(request: Request, value: Any) -> Response:
    """Return *value*, cut down to the request's filter_path."""
    paths = request.query.get("filter_path")
    return json_response(200, filtered(value, paths.split(",")) if paths else value)


def _wrong_method(request: Request, allowed: str) -> Response:
    reason = (
        f"Incorrect HTTP method for uri [{request.target}] and method [{request.method}], "
        f"allowed: [{allowed}]"
    )
    return json_response(405, {"error": reason, "status": 405}, {"Allow": allowed})


def _error(status: int, kind: str, reason: str) -> Response:
    if not kind:
        return json_response(status, {"error": reason, "status": status})
    cause = {"type": kind, "reason": reason}
    return json_response(status, {"error": {"root_cause": [cause], **cause}, "status": status})
