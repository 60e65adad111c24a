"""What the cluster grants and lacks before the first event."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from auditrelay.errors import Refused, RelayError
from auditrelay.sinks._requests import words
from auditrelay.sinks.elasticsearch.cluster import Cluster, answer_of, fault_of
from auditrelay.sinks.elasticsearch.duplicates import Duplicates
from auditrelay.sinks.elasticsearch.names import example, is_data_stream, is_dated, wildcard
from auditrelay.sinks.elasticsearch.settings import Settings
from auditrelay.sinks.elasticsearch.templates import COMPONENT, Match, mapping_conflicts

_RIGHTS = ("create_doc", "auto_configure", "read", "view_index_metadata")
"""Of these the first is needed, the second to make an index, the others to look for duplicates."""


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
"""Names that Elasticsearch's own templates make data streams of."""


async def check_cluster(cluster: Cluster, duplicates: Duplicates, settings: Settings) -> str:
    """
    Ask every node who it is, then what becomes of events that go where ours would.

    That is: may they be created there, will one that is sent again be recognised, and does a
    template or an index that is there fit. What a key may not ask is said, and no failure. Raises
    Refused if no event could be delivered, and Retryable if no node answers.
    """
    who, notes = await _nodes(cluster)
    target = wildcard(settings.index)
    rights = await _rights(cluster, target)
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
    rolls_over, said = await _template(cluster, settings, target)
    if is_dated(settings.index) and not rolls_over:
        notes.append(
            "an event that is sent again is recognised at any time: it meets the same index"
        )
    else:
        notes.append(await _recognition(duplicates, target, rights))
    notes += said
    if settings.format == "ecs":
        notes += await _mapping(cluster, target)
    return f"{who}: {'; '.join(notes)}"


async def _nodes(cluster: Cluster) -> tuple[str, list[str]]:
    """Return who the cluster is, and what its nodes give cause to say."""
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
    number = version.get("number") if isinstance(version, dict) else None
    notes = [f"no use for now: {error}" for error in failed]
    return f"{first} (version {words(str(number or 'unknown'))})", notes


async def _rights(cluster: Cluster, target: str) -> dict[str, bool] | None:
    """Return which rights on *target* the key has; None: it cannot be asked (OpenSearch)."""
    wanted = {"index": [{"names": [target], "privileges": list(_RIGHTS)}]}
    reply = await cluster.request_json("POST", "/_security/user/_has_privileges", wanted)
    if reply.status in (401, 403):
        raise fault_of(reply)
    answer = reply.object() if reply.status == 200 else None
    if answer is None:
        return None
    rights = answer.get("index")
    rights = rights.get(target) if isinstance(rights, dict) else None
    rights = rights if isinstance(rights, dict) else {}
    return {right: rights.get(right) is True for right in _RIGHTS}


async def _recognition(
    duplicates: Duplicates, target: str, rights: Mapping[str, bool] | None
) -> str:
    """Say until when an event that is sent again is recognised in a *target* that rolls over."""
    if rights is None:
        readable = await duplicates.searchable(target)
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


async def _template(cluster: Cluster, settings: Settings, target: str) -> tuple[bool, list[str]]:
    """Return whether a new index will be a data stream, and what is to be said of that."""
    index = settings.index
    reply = await cluster.request("GET", "/_index_template", {"filter_path": _TEMPLATES})
    answer = answer_of(reply)
    if answer is None:
        used = await _templates_of_streams(cluster, target)
        if used:
            return True, [f"data stream by the template {', '.join(used)}"]
        said = ["which template a new index would have cannot be asked with this key"]
        return _BUILT_IN.match(index) is not None, said
    listed = answer.get("index_templates", [])
    template = Match.of(example(index), listed) if isinstance(listed, list) else None
    said = []
    if template is None or (is_data_stream(index) and not template.makes_stream):
        if is_data_stream(index):
            said.append("no template makes it a data stream, so it would be one ever larger index")
        else:
            said.append("no template fits it, so that field types are guessed")
    if template is not None:
        kind = "data stream" if template.makes_stream else "index"
        said.append(f"{kind} by the template {words(template.name)}")
    if settings.format == "ecs" and not (template and template.holds_ours):
        said.append(f"{COMPONENT} is not in it, see auditrelay setup elasticsearch")
    return template is not None and template.makes_stream, said


async def _templates_of_streams(cluster: Cluster, target: str) -> list[str]:
    """Return the templates of the data streams that are there: to see them takes less right."""
    path = f"/_data_stream/{quote(target, safe='*')}"
    reply = await cluster.request("GET", path, {"filter_path": "data_streams.template"})
    streams = (answer_of(reply) or {}).get("data_streams", [])
    return sorted({words(str(each.get("template"))) for each in streams})


async def _mapping(cluster: Cluster, target: str) -> list[str]:
    """Say which fields are mapped otherwise than they should be, in what is there already."""
    path = f"/{quote(target, safe='*')}/_mapping"
    reply = await cluster.request("GET", path, {"filter_path": "*.mappings.properties"})
    newest: dict[str, Any] = {}
    for name, index in sorted((answer_of(reply) or {}).items()):
        newest[_GENERATION.sub("", name)] = name, index
    said = []
    for name, index in newest.values():
        wrong = mapping_conflicts(index.get("mappings", {}).get("properties", {}))
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")
            said.append(f"mapped otherwise in {words(name)}: {words(shown)}")
    return said
