"""Ingest pipelines: what a simulation says of a document."""

from typing import Any

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.elasticsearch.bulk import DROPPED
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster
from auditrelay.sandbox.siems.elasticsearch.messages import Refused, answer, object_in


def simulate_pipeline(cluster: Cluster, name: str, request: Request) -> Response:
    """Run the pipeline *name*; a document that it drops is null in the answer."""
    if name not in cluster.switches.pipelines:
        raise Refused(400, "illegal_argument_exception", f"pipeline [{name}] does not exist")
    docs = [
        None if name in cluster.switches.dropping else {"doc": _moved(cluster, name, doc)}
        for doc in object_in(request)["docs"]
    ]
    return answer(request, {"docs": docs})


def simulate_ingest(cluster: Cluster, request: Request) -> Response:
    """Run what a bulk request would: the pipeline of the request, or that of the index."""
    name = request.query.get("pipeline", cluster.switches.default_pipeline)
    if name != "_none" and name not in cluster.switches.pipelines:
        error = {
            "type": "illegal_argument_exception",
            "reason": f"pipeline with id [{name}] does not exist",
        }
        docs: list[dict[str, Any]] = [{"doc": {"error": error}} for _ in object_in(request)["docs"]]
    elif name in cluster.switches.dropping:
        docs = [{"doc": DROPPED} for _ in object_in(request)["docs"]]
    else:
        docs = [{"doc": _moved(cluster, name, doc)} for doc in object_in(request)["docs"]]
    return answer(request, {"docs": docs})


def _moved(cluster: Cluster, pipeline: str, doc: dict[str, Any]) -> dict[str, Any]:
    return doc | {"_index": cluster.switches.rerouting.get(pipeline, doc.get("_index", "_index"))}
