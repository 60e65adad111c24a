"""Check a cluster before the first event: nodes, privileges, template and mapping."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from orjson import Fragment

from auditrelay.errors import Refused, RelayError
from auditrelay.sinks._requests import clean
from auditrelay.sinks.elasticsearch.cluster import Cluster, answer_of, cluster_error
from auditrelay.sinks.elasticsearch.duplicates import DuplicateFinder
from auditrelay.sinks.elasticsearch.names import example, is_data_stream, is_dated, wildcard
from auditrelay.sinks.elasticsearch.settings import Settings
from auditrelay.sinks.elasticsearch.templates import COMPONENT, TemplateMatch, mapping_conflicts

_PRIVILEGES = ("create_doc", "auto_configure", "read", "view_index_metadata")
"""The first is required, the second creates an index, the others search for duplicates."""

_TEMPLATES = ",".join(
    f"index_templates.{key}"
    for key in (
        "name",
        "index_template.index_patterns",
        "index_template.priority",
        "index_template.composed_of",
        "index_template.data_stream",
    )
)

_GENERATION = re.compile(r"-\d{4}\.\d\d\.\d\d-\d{6}$")
"""The end of a backing index's name."""

_BUILT_IN = re.compile(r"(logs|metrics|traces|synthetics)-.*-")
"""Names for which Elasticsearch's built-in templates create data streams."""


class Sample(NamedTuple):
    """An event as it would be sent: where to, and its document as JSON."""

    target: str
    document: bytes


async def check_cluster(
    cluster: Cluster, duplicates: DuplicateFinder, settings: Settings, sample: Sample
) -> str:
    """
    Identify every node, then check what would happen to events in the configured index.

    That is: may they be created, is a resent event deduplicated, and do the template and the
    existing indices fit. A check that the key may not make is reported and is no failure. Raises
    Refused if no event could be delivered, and Retryable if no node answers.
    """
    who, opensearch, notes = await _nodes(cluster)
    target = wildcard(settings.index)
    privileges = await _privileges(cluster, target)
    if privileges is None:
        notes.append(f"the privilege to write to {target} cannot be checked")
    elif not privileges["create_doc"]:
        raise Refused(
            f"{who}: no privilege to write to {target}; grant the key or user the privilege "
            "create_doc on it",
            status=403,
        )
    elif not privileges["auto_configure"]:
        notes.append(f"{target} can be written to, but must exist: no privilege to create it")
    else:
        notes.append(f"{target} can be written to")
    rolls_over, template_notes = await _template(cluster, settings, target)
    if is_dated(settings.index) and not rolls_over:
        notes.append("a resent event is always deduplicated: it goes to the same index")
    else:
        notes.append(await _deduplication(duplicates, target, privileges))
    notes += template_notes
    notes += await _pipelines(cluster, settings, sample, opensearch=opensearch)
    if settings.format == "ecs":
        notes += await _mapping(cluster, target)
    return f"{who}: {'; '.join(notes)}"


async def _nodes(cluster: Cluster) -> tuple[str, bool, list[str]]:
    """Return the name of the cluster, whether it is OpenSearch, and notes about its nodes."""
    urls = cluster.urls
    answers = await asyncio.gather(*(cluster.identify(url) for url in urls))
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
    cluster.prefer(first)
    version = about.get("version")
    version = version if isinstance(version, dict) else {}
    notes = [f"unreachable: {error}" for error in failed]
    who = f"{first} (version {clean(str(version.get('number') or 'unknown'))})"
    return who, version.get("distribution") == "opensearch", notes


async def _privileges(cluster: Cluster, target: str) -> dict[str, bool] | None:
    """Return which privileges on *target* the key has; None: not available (OpenSearch)."""
    wanted = {"index": [{"names": [target], "privileges": list(_PRIVILEGES)}]}
    reply = await cluster.request_json("POST", "/_security/user/_has_privileges", wanted)
    if reply.status in (401, 403):
        raise cluster_error(reply)
    answer = reply.object() if reply.status == 200 else None
    if answer is None:
        return None
    privileges = answer.get("index")
    privileges = privileges.get(target) if isinstance(privileges, dict) else None
    privileges = privileges if isinstance(privileges, dict) else {}
    return {privilege: privileges.get(privilege) is True for privilege in _PRIVILEGES}


async def _deduplication(
    duplicates: DuplicateFinder, target: str, privileges: Mapping[str, bool] | None
) -> str:
    """Report until when a resent event is deduplicated in a *target* that rolls over."""
    if privileges is None:
        readable = await duplicates.searchable(target)
    else:
        readable = privileges["read"] and privileges["view_index_metadata"]
    if readable:
        return "a resent event is deduplicated, after a rollover by a search in the older indices"
    return (
        "a resent event is deduplicated until the next rollover, after that it is stored twice: "
        f"grant read and view_index_metadata on {target}, or put a date into "
        'the name, such as index = "audit-{vendor}-%Y.%m"'
    )


async def _pipelines(
    cluster: Cluster, settings: Settings, sample: Sample, *, opensearch: bool
) -> list[str]:
    """
    Report what ingest pipelines would do to *sample*, which is not stored.

    Elasticsearch runs whatever a bulk request would run, those of the index too
    (www.elastic.co/docs/api/doc/elasticsearch/operation/operation-simulate-ingest, since 8.12); an
    older one, or OpenSearch, only the pipeline that is configured.
    """
    body = {"docs": [{"_index": sample.target, "_id": "1", "_source": Fragment(sample.document)}]}
    paths = [] if opensearch else [f"/_ingest/{quote(sample.target)}/_simulate"]
    parameters = {} if settings.pipeline is None else {"pipeline": settings.pipeline}
    if settings.pipeline is not None:
        paths.append(f"/_ingest/pipeline/{quote(settings.pipeline, safe='')}/_simulate")
    refusal = ""
    for number, path in enumerate(paths):
        whole = number == 0 and not opensearch
        reply = await cluster.request_json("POST", path, body, parameters if whole else None)
        answer = reply.object() if reply.status == 200 else None
        docs = answer.get("docs") if answer is not None else None
        if isinstance(docs, list) and len(docs) == 1:
            return _fate(docs[0], sample.target)
        error = (reply.object() or {}).get("error")
        refusal = str(error.get("reason")) if isinstance(error, dict) else str(reply.status)
    if settings.pipeline is None:
        return []
    return [f"what the pipeline {settings.pipeline} does cannot be checked: {clean(refusal)}"]


def _fate(simulated: Any, index: str) -> list[str]:
    """Report what has become of a *simulated* document for *index*."""
    document = simulated.get("doc") if isinstance(simulated, dict) else None
    if simulated is None or (isinstance(document, dict) and document.get("result") == "noop"):
        return ["an ingest pipeline drops a test event: such events would be stored nowhere"]
    document = document if isinstance(document, dict) else simulated
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        return [f"an ingest pipeline fails for a test event: {clean(str(error.get('reason')))}"]
    moved_to = document.get("_index") if isinstance(document, dict) else None
    if isinstance(moved_to, str) and moved_to not in (index, "_index"):
        moved = f"an ingest pipeline moves events to {clean(moved_to)}"
        return [f"{moved}, where they are not searched for after a rollover"]
    return []


async def _template(cluster: Cluster, settings: Settings, target: str) -> tuple[bool, list[str]]:
    """Return whether a new index will be a data stream, and notes about its template."""
    index = settings.index
    reply = await cluster.request("GET", "/_index_template", {"filter_path": _TEMPLATES})
    answer = answer_of(reply)
    if answer is None:
        used = await _templates_of_streams(cluster, target)
        if used:
            return True, [f"data stream by the template {', '.join(used)}"]
        notes = ["the template of a new index cannot be read with this key"]
        return _BUILT_IN.match(index) is not None, notes
    listed = answer.get("index_templates", [])
    template = TemplateMatch.of(example(index), listed) if isinstance(listed, list) else None
    notes = []
    if template is None or (is_data_stream(index) and not template.makes_stream):
        if is_data_stream(index):
            notes.append(
                "no template makes it a data stream, so it would be a single index that only grows"
            )
        else:
            notes.append("no template matches it, so field types are guessed")
    if template is not None:
        kind = "data stream" if template.makes_stream else "index"
        notes.append(f"{kind} by the template {clean(template.name)}")
    if settings.format == "ecs" and not (template and template.has_component):
        notes.append(f"{COMPONENT} is not included, see auditrelay setup elasticsearch")
    return template is not None and template.makes_stream, notes


async def _templates_of_streams(cluster: Cluster, target: str) -> list[str]:
    """Return the templates of existing data streams, which takes fewer privileges to read."""
    path = f"/_data_stream/{quote(target, safe='*')}"
    reply = await cluster.request("GET", path, {"filter_path": "data_streams.template"})
    streams = (answer_of(reply) or {}).get("data_streams", [])
    return sorted({clean(str(each.get("template"))) for each in streams})


async def _mapping(cluster: Cluster, target: str) -> list[str]:
    """Report which fields of existing indices are not mapped as they should be."""
    path = f"/{quote(target, safe='*')}/_mapping"
    reply = await cluster.request("GET", path, {"filter_path": "*.mappings.properties"})
    newest: dict[str, Any] = {}
    for name, index in sorted((answer_of(reply) or {}).items()):
        newest[_GENERATION.sub("", name)] = name, index
    notes = []
    for name, index in newest.values():
        wrong = mapping_conflicts(index.get("mappings", {}).get("properties", {}))
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")
            notes.append(f"wrong mapping in {clean(name)}: {clean(shown)}")
    return notes
