"""Index templates and component templates: install, show and list them."""

import json
from fnmatch import fnmatchcase
from typing import Any

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster
from auditrelay.sandbox.siems.elasticsearch.messages import Refused, answer, object_in


def template(cluster: Cluster, kind: str, name: str, request: Request) -> Response | None:
    """Install the template *name*, or show it; None if the method is another."""
    key = f"{kind}/{name}"
    if request.method == "PUT":
        new = object_in(request)
        _check_template(cluster, kind, name, new)
        cluster.templates[key] = new
        return answer(request, {"acknowledged": True})
    if request.method not in {"GET", "HEAD"}:
        return None
    if key not in cluster.templates:
        reason = f"{kind.strip('_').replace('_', ' ')} matching [{name}] not found"
        raise Refused(404, "resource_not_found_exception", reason)
    body = {"name": name, kind.strip("_"): cluster.templates[key]}
    return answer(request, {f"{kind.strip('_')}s": [body]})


def index_templates(cluster: Cluster, request: Request) -> Response:
    """List the index templates: the built-in one, then the installed ones."""
    if "manage_index_templates" in cluster.switches.missing_privileges:
        reason = f"action [indices:admin/index_template/get] is unauthorized ({cluster.username})"
        raise Refused(403, "security_exception", reason)
    kind = "_index_template/"
    listed: list[dict[str, Any]] = [
        {
            "name": "logs",
            "index_template": {
                "index_patterns": list(cluster.switches.streams),
                "priority": 100,
                "data_stream": {"hidden": False},
                "composed_of": ["logs@mappings", "ecs@mappings"],
            },
        }
    ]
    listed += [
        {"name": key.removeprefix(kind), "index_template": body}
        for key, body in cluster.templates.items()
        if key.startswith(kind)
    ]
    return answer(request, {"index_templates": listed})


def maps_text(cluster: Cluster, name: str) -> bool:
    """Return whether an installed template defines the mapping of text in *name*."""
    return any(
        fnmatchcase(name, pattern)
        for key, body in cluster.templates.items()
        if key.startswith("_index_template/")
        for pattern in body.get("index_patterns", [])
    )


def _check_template(cluster: Cluster, kind: str, name: str, template: dict[str, Any]) -> None:
    """Refuse a template that this flavour rejects, or that the key may not install."""
    if "manage_index_templates" in cluster.switches.missing_privileges:
        action = "cluster:admin/component_template/put"
        if kind == "_index_template":
            action = "indices:admin/index_template/put"
        reason = f"action [{action}] is unauthorized for user [{cluster.username}]"
        if cluster.flavour == "opensearch":
            reason = f"no permissions for [{action}] and User [name={cluster.username}]"
        raise Refused(403, "security_exception", reason)
    optional = template.get("ignore_missing_component_templates", [])
    if optional and cluster.flavour == "opensearch":
        reason = "[index_template] unknown field [ignore_missing_component_templates]"
        raise Refused(400, "x_content_parse_exception", reason)
    absent = [
        part
        for part in template.get("composed_of", [])
        if f"_component_template/{part}" not in cluster.templates and part not in optional
    ]
    if absent:
        reason = (
            f"index_template [{name}] invalid, cause [index template [{name}] specifies "
            f"component templates [{', '.join(absent)}] that do not exist]"
        )
        raise Refused(400, "invalid_index_template_exception", reason)
    foreign = "flattened" if cluster.flavour == "opensearch" else "flat_object"
    if f'"type": "{foreign}"' in json.dumps(template):
        reason = f"No handler for type [{foreign}] declared on a field"
        raise Refused(400, "mapper_parsing_exception", reason)
    if cluster.flavour == "opensearch" and '{"type": "constant_keyword"}' in json.dumps(template):
        # Elasticsearch uses the first document's value; OpenSearch (seen on 2.19) requires one.
        reason = (
            "Failed to parse mapping [_doc]: Field [namespace] is missing required parameter "
            "[value]"
        )
        raise Refused(400, "mapper_parsing_exception", reason)
