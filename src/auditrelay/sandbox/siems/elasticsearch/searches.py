"""Searches, counts and lookups by id."""

from typing import Any

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster
from auditrelay.sandbox.siems.elasticsearch.filter_path import filtered
from auditrelay.sandbox.siems.elasticsearch.messages import Refused, answer, object_in
from auditrelay.sandbox.siems.elasticsearch.queries import UnknownQuery, matches


def search(cluster: Cluster, names: list[str], request: Request) -> Response:
    """Return the hits of a search in *names* (none: everywhere)."""
    body = object_in(request)
    if "q" in request.query:  # of Lucene's syntax only field:value
        name, colon, value = request.query["q"].partition(":")
        if not colon or not value.isalnum():
            raise UnknownQuery(request.query["q"])
        body["query"] = {"term": {name: value}}
    behind = [
        backing
        for index in cluster.visible(names[0] if names else "*", "read")
        for backing in index.backing
    ]
    failed = [backing for backing in behind if backing in cluster.switches.unsearchable]
    if failed and len(failed) == len(behind):
        raise Refused(503, "search_phase_execution_exception", "all shards failed")
    seen = frozenset(behind).difference(failed)
    hits = [hit for hit in _hits(cluster, names, body) if hit[0] in seen]
    first = body.get("from", 0)
    size = body.get("size", int(request.query.get("size", 10)))
    if first + size > 10_000:
        reason = "Result window is too large, from + size must be less than or equal to: [10000]"
        raise Refused(400, "illegal_argument_exception", reason)
    shown = [
        {"_index": backing, "_id": doc_id, "_score": 1.0}
        | ({} if body.get("_source") is False else {"_source": source})
        for backing, doc_id, source in hits[first : first + size]
    ]
    return answer(
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


def count(cluster: Cluster, names: list[str], request: Request) -> Response:
    """Return the number of documents that match a query in *names* (none: everywhere)."""
    hits = _hits(cluster, names, object_in(request))
    shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
    return answer(request, {"count": len(hits), "_shards": shards})


def mget(cluster: Cluster, names: list[str], request: Request) -> Response:
    """Return the documents with the requested ids, of an index or of one behind a stream."""
    body = object_in(request)
    default = names[0] if names else ""
    wanted = [{"_id": doc_id} for doc_id in body.get("ids", [])] + body.get("docs", [])
    docs = []
    for each in wanted:
        name = each.get("_index", default)
        doc: dict[str, Any] = {"_index": name, "_id": each["_id"]}
        try:
            source = _stored(cluster, name, each["_id"])
        except Refused as refused:
            docs.append(doc | {"error": {"type": refused.kind, "reason": refused.reason}})
            continue
        doc["found"] = source is not None
        if source is not None:
            fields = each.get("_source")
            doc["_source"] = filtered(source, fields) if isinstance(fields, list) else source
        docs.append(doc)
    return answer(request, {"docs": docs})


def _stored(cluster: Cluster, name: str, doc_id: str) -> dict[str, Any] | None:
    """Return the document *doc_id* in the index *name*, which may be one behind a stream."""
    if "read" in cluster.switches.missing_privileges:
        raise Refused(403, "security_exception", f"action is unauthorized on indices [{name}]")
    for index in cluster.indices.values():
        if name == index.name or name in index.backing:
            for backing, known, source in index.documents:
                if known == doc_id and name in (index.name, backing):
                    return source
    return None


def _hits(
    cluster: Cluster, names: list[str], body: dict[str, Any]
) -> list[tuple[str, str, dict[str, Any]]]:
    query = body.get("query", {"match_all": {}})
    return [
        (backing, doc_id, source)
        for index in cluster.find(names[0] if names else "*")
        for backing, doc_id, source in index.documents
        if matches(query, doc_id, source)
    ]
