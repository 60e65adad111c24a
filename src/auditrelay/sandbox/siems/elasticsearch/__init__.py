"""
Elasticsearch, or OpenSearch by a switch: the bulk endpoint and what a careful client queries.

Strict where the real servers are: the final newline, the media type, unknown parameters,
create-only data streams that need ``@timestamp``, conflicting types, ``_id`` unique per backing
index. Source: elastic/elasticsearch-specification. Only a few kinds of queries are supported.
"""

import time
from collections.abc import Callable
from typing import Any, ClassVar, get_args

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems import Intake, Refusal
from auditrelay.sandbox.siems.elasticsearch.bulk import Bulk, ScriptedItem, usual_kind
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster, Flavour, Switches
from auditrelay.sandbox.siems.elasticsearch.ingest import simulate_ingest, simulate_pipeline
from auditrelay.sandbox.siems.elasticsearch.messages import (
    COMMON,
    Refused,
    answer,
    check_parameters,
    failure,
    object_in,
    wrong_method,
)
from auditrelay.sandbox.siems.elasticsearch.metadata import (
    banner,
    creation_dates,
    data_streams,
    mappings,
)
from auditrelay.sandbox.siems.elasticsearch.queries import UnknownQuery
from auditrelay.sandbox.siems.elasticsearch.searches import count, mget, search
from auditrelay.sandbox.siems.elasticsearch.security import (
    KEY_ID,
    KEY_SECRET,
    PASSWORD,
    USERNAME,
    encoded_key,
    privileges,
    unauthenticated,
)
from auditrelay.sandbox.siems.elasticsearch.templates import index_templates, template
from auditrelay.sandbox.stored import Stored

__all__ = ["KEY_ID", "KEY_SECRET", "PASSWORD", "USERNAME", "Elastic", "Switches"]

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
        "pipeline",
        "q",
        "include_type_name",
    }
)

SHARD_LIMIT = (
    "Validation Failed: 1: this action would add [2] shards, but this cluster currently has "
    "[1000]/[1000] maximum normal shards open;"
)


def _without_privilege(elastic: "Elastic") -> dict[str, Any]:
    elastic.switches.missing_privileges = frozenset({"create_doc"})
    return {}


class Elastic(Intake):
    """
    A cluster of one *flavour*. :attr:`stored` is what it stored, whatever it answered.

    In lean mode (:attr:`lean`) only ``_id`` and ``event.id`` are extracted from a bulk body without
    parsing it; creates get 201 or 409 with nothing else in the item, and documents are not stored.
    """

    NAME: ClassVar = "elastic"
    PLACE: ClassVar = 3
    FLAVOURS: ClassVar = get_args(Flavour)
    DEDUPLICATES: ClassVar = True
    REFUSALS: ClassVar = (
        Refusal(
            "wrong key", 401, "unable to auth", lambda _: {"api_key": encoded_key("wrong-key-1")}
        ),
        Refusal("no privilege", 403, "unauthorized", _without_privilege),
    )
    MISBEHAVIOURS: ClassVar = {
        "items busy": lambda double: double.fail_items(429, times=3),
        "items 503": lambda double: double.fail_items(503, times=2),
        "item bad": lambda double: double.fail_items(400, kind="document_parsing_exception"),
        "items 403": lambda double: double.fail_items(403),
        "shard limit": lambda double: double.fail_items(
            400, times=3, kind="validation_exception", reason=SHARD_LIMIT
        ),
        "fewer items": lambda double: double.answer_fewer_items(),
    }

    def __init__(
        self,
        *,
        flavour: Flavour = "elasticsearch",
        switches: Switches | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        self.flavour = flavour
        self.switches = switches or Switches()
        self.password = PASSWORD
        self.api_key = encoded_key(KEY_SECRET)
        self.security = True
        self.uuid = "c2FuZGJveC1jbHVzdGVyLQ"
        self.failures = Stored()
        self._cluster = Cluster(
            flavour,
            self.switches,
            lambda: self.clock(),  # noqa: PLW0108  # the clock may be replaced later
            USERNAME,
        )
        self.indices = self._cluster.indices
        self.templates = self._cluster.templates
        self._bulk = Bulk(self._cluster, self.stored, self.failures)

    @property
    def username(self) -> str:
        """The one user that may log in, with :attr:`password`."""
        return self._cluster.username

    @username.setter
    def username(self, username: str) -> None:
        self._cluster.username = username

    @property
    def lean(self) -> bool:
        """Whether documents are only counted; for load tests."""
        return self.stored.lean

    @lean.setter
    def lean(self, lean: bool) -> None:
        self.stored.lean = self.failures.lean = lean

    @property
    def secret(self) -> str:
        """The API key, as it is sent."""
        return self.api_key

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "elasticsearch", "urls": [self.url], "api_key": self.api_key}

    def credentials(self) -> dict[str, str]:
        """Return the API key, and the one user with their password."""
        return {"api_key": self.api_key, "username": self.username, "password": self.password}

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.switches.max_content_length = size

    def rotate(self, secret: str) -> None:
        """Make *secret* the password, and the secret half of the API key."""
        self.password = secret
        self.api_key = encoded_key(secret)

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

        *where* selects by position and ``_id``, *times* is the number of items (None: unlimited).
        """
        kind = kind or usual_kind(status, self.flavour)
        self._bulk.scripted.append(ScriptedItem(where, times, status, kind, reason))

    def heal_items(self) -> None:
        """Stop refusing items."""
        self._bulk.scripted.clear()

    def answer_fewer_items(self, missing: int = 1) -> None:
        """Leave the last *missing* items out of the next bulk answer; they are stored."""
        self._bulk.fewer.append(missing)

    def make_stream(self, name: str) -> str:
        """Create the empty data stream *name*, and return its name."""
        return self._cluster.make(name, stream=True).name

    def rollover(self, name: str) -> None:
        """Give the data stream *name* a new write index, which has none of the old ids."""
        self._cluster.rollover(name)

    def respond(self, request: Request) -> Response:
        """Answer as a node of the cluster would."""
        try:
            response = self._route(request)
        except Refused as refused:
            response = failure(refused.status, refused.kind, refused.reason)
        except UnknownQuery as error:
            response = failure(400, "parsing_exception", f"unknown query [{error}]")
        if self.flavour == "elasticsearch":
            response.headers["X-Elastic-Product"] = "Elasticsearch"
            wanted = request.headers.get("accept", "")
            if "vnd.elasticsearch+json" in wanted and "Content-Type" in response.headers:
                response.headers["Content-Type"] = wanted.partition(",")[0]
        return response

    def _route(self, request: Request) -> Response:
        if self.security:
            refusal = unauthenticated(
                request, self._cluster, password=self.password, api_key=self.api_key
            )
            if refusal is not None:
                return refusal
        parts = [part for part in request.path.split("/") if part]
        if parts and parts[-1] == "_bulk" and len(parts) <= 2:
            if request.method not in {"POST", "PUT"}:
                return wrong_method(request, "POST, PUT")
            return self._bulk.respond(request, parts[0] if len(parts) == 2 else None)
        check_parameters(request, COMMON | _READ)
        value = self._dispatch(parts, request)
        if value is None and len(parts) == 1 and request.method == "POST":
            return wrong_method(request, "DELETE, GET, HEAD, PUT")  # it might be an index
        if value is None:
            return failure(
                400,
                "",
                f"no handler found for uri [{request.target}] and method [{request.method}]",
            )
        return value

    def _dispatch(  # noqa: C901, PLR0911, PLR0912  # a table of routes
        self, parts: list[str], request: Request
    ) -> Response | None:
        match [request.method, *parts]:
            case ["GET" | "HEAD"]:
                return answer(request, banner(self._cluster, self.uuid))
            case ["GET", "_security", "_authenticate"] if self.flavour == "elasticsearch":
                return answer(request, {"username": self.username, "roles": [], "enabled": True})
            case ["GET" | "POST", "_security", "user", "_has_privileges"] if (
                self.flavour == "elasticsearch"
            ):
                return answer(request, privileges(self._cluster, object_in(request)))
            case ["GET", "_cluster", "health", *_]:
                health = {"cluster_name": "sandbox", "status": "green", "number_of_nodes": 1}
                return answer(request, health)
            case [_, ("_index_template" | "_component_template") as kind, name]:
                return template(self._cluster, kind, name, request)
            case ["GET" | "HEAD", "_data_stream", name]:
                return answer(request, data_streams(self._cluster, name))
            case ["PUT", "_data_stream", name]:
                self._cluster.make(name, stream=True)
                return answer(request, {"acknowledged": True})
            case ["POST", name, "_rollover"]:
                self._cluster.find(name)
                self.rollover(name)
                return answer(request, {"acknowledged": True, "rolled_over": True})
            case ["POST" | "GET", *names, "_refresh"] if len(names) <= 1:
                return answer(request, {"_shards": {"total": 1, "successful": 1, "failed": 0}})
            case ["GET" | "POST", *names, "_count"] if len(names) <= 1:
                return count(self._cluster, names, request)
            case ["GET" | "POST", *names, "_search"] if len(names) <= 1:
                return search(self._cluster, names, request)
            case ["GET", names, "_settings", "index.creation_date"]:
                return answer(request, creation_dates(self._cluster, names))
            case ["GET", names, "_mapping"]:
                return answer(request, mappings(self._cluster, names))
            case ["GET" | "POST", "_ingest", "pipeline", name, "_simulate"]:
                return simulate_pipeline(self._cluster, name, request)
            case ["GET" | "POST", "_ingest", _, "_simulate"] if self.flavour == "elasticsearch":
                return simulate_ingest(self._cluster, request)
            case ["GET", "_index_template"]:
                return index_templates(self._cluster, request)
            case ["GET" | "POST", *names, "_mget"] if len(names) <= 1:
                return mget(self._cluster, names, request)
            case ["HEAD" | "GET", name] if not name.startswith("_"):
                self._cluster.find(name)
                return answer(request, {name: {"aliases": {}, "mappings": {}, "settings": {}}})
            case ["PUT", name] if not name.startswith("_"):
                if name in self.indices:
                    reason = f"index [{name}] already exists"
                    raise Refused(400, "resource_already_exists_exception", reason)
                self._cluster.make(name, stream=False)
                return answer(request, {"acknowledged": True, "index": name})
        return None
