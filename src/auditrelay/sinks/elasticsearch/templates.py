"""
The templates that map the events in Elasticsearch and OpenSearch, compared with a cluster's own.

Pure: what a cluster has is an argument; no request is made.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, Self

from auditrelay.descriptions import shipped
from auditrelay.events.normalize import available as vendors
from auditrelay.sinks._requests import part_of

COMPONENT = "auditrelay@mappings"
"""The name of the component template."""

_VENDOR = "{vendor}"
"""What stands in the file for the name of each vendor, under which its own fields are."""

_PATH = f"/_component_template/{COMPONENT}"


def templates(*, opensearch: bool) -> dict[str, dict[str, Any]]:
    """
    Return the component template and the index template, by the path that each is put to.

    Every vendor that comes with this version has its fields in it; those of others are typed by
    its rules.

    OpenSearch calls flattened fields ``flat_object``, requires the value of a ``constant_keyword``
    in the template, where it is not known yet, and has neither built-in component templates nor
    ``ignore_missing_component_templates``.
    """
    folder = files("auditrelay.sinks.elasticsearch")
    component = json.loads((folder / "component_template.json").read_bytes())
    properties = component["template"]["mappings"]["properties"]
    fields = properties.pop(_VENDOR)
    properties |= dict.fromkeys((*vendors(), *shipped()), fields)
    index = json.loads((folder / "index_template.json").read_bytes())
    if opensearch:
        component = _for_opensearch(component)
        mappings = component["template"]["mappings"]
        mappings["dynamic_templates"] = [
            rule for rule in mappings["dynamic_templates"] if "audit_metadata" not in rule
        ]  # a dynamic template there cannot rely on a type for whole objects
        index["composed_of"] = [COMPONENT]
        del index["ignore_missing_component_templates"]
    return {
        _PATH: component,
        "/_index_template/logs-auditrelay": index,
    }


_OPENSEARCH_TYPES = {"flattened": "flat_object", "constant_keyword": "keyword"}


def _for_opensearch(node: Any) -> Any:
    if isinstance(node, dict):
        kind = node.get("type")
        if (
            isinstance(kind, str) and kind in _OPENSEARCH_TYPES
        ):  # else "type" is the name of a field
            return {"type": _OPENSEARCH_TYPES[kind]}
        return {key: _for_opensearch(value) for key, value in node.items()}
    return node


@dataclass(frozen=True, slots=True)
class TemplateMatch:
    """The index template that a cluster will use for a name."""

    name: str
    makes_stream: bool
    has_component: bool

    @classmethod
    def of(cls, index: str, listed: Sequence[Any]) -> Self | None:
        """
        Return which of the templates *listed* by ``GET _index_template`` will be used for *index*.

        Of those whose pattern fits it is the one with the highest priority
        (www.elastic.co/docs/manage-data/data-store/templates).
        """
        best: tuple[int, Self] | None = None
        for entry in listed:
            template = part_of(entry, dict, "index_template") or {}
            patterns = part_of(template, list, "index_patterns") or []
            if not any(fnmatchcase(index, str(each)) for each in patterns):
                continue
            priority = part_of(template, int, "priority") or 0
            if best is None or priority > best[0]:
                name, composed = part_of(entry, str, "name"), part_of(template, list, "composed_of")
                includes_ours = COMPONENT in (composed or [])
                best = priority, cls(name or "", "data_stream" in template, includes_ours)
        return best[1] if best is not None else None


_EQUIVALENT = {
    "constant_keyword": "keyword",
    "wildcard": "keyword",
    "match_only_text": "text",
    "flat_object": "flattened",
    "date_nanos": "date",
}
"""Types that a search treats like another."""


def mapping_conflicts(properties: Mapping[str, Any]) -> list[str]:
    """
    Return a message for each field that an index maps differently from our template.

    *properties* are those of ``GET _mapping``. Fields that the index does not have yet conflict
    with nothing.
    """
    ours = dict(_types(templates(opensearch=False)[_PATH]["template"]["mappings"]["properties"]))
    theirs = dict(_types(properties))
    return [
        f"{path} is {theirs[path]}, not {kind}"
        for path, kind in ours.items()
        if path in theirs
        and _EQUIVALENT.get(theirs[path], theirs[path]) != _EQUIVALENT.get(kind, kind)
    ]


def _types(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the type of each field."""
    for name, field in properties.items():
        if not isinstance(field, dict):
            continue
        if isinstance(field.get("type"), str) and field["type"] != "object":
            yield f"{prefix}{name}", field["type"]
        elif isinstance(field.get("properties"), dict):
            yield from _types(field["properties"], f"{prefix}{name}.")
