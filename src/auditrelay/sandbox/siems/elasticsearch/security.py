"""Authentication, and the answer to a client that asks for its privileges."""

import base64
import binascii
from typing import Any

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster
from auditrelay.sandbox.siems.elasticsearch.messages import failure

USERNAME = "elastic"
PASSWORD = "sandbox-elastic-password-not-real"  # noqa: S105  # valid for this double only
KEY_ID = "sandboxElasticKeyId0"
KEY_SECRET = "sandboxElasticKeyNotReal"  # noqa: S105  # as above


def encoded_key(secret: str) -> str:
    """Return the API key as it is sent: its id and its *secret* half, in base64."""
    return base64.b64encode(f"{KEY_ID}:{secret}".encode()).decode()


def unauthenticated(
    request: Request, cluster: Cluster, *, password: str, api_key: str
) -> Response | None:
    """Return the refusal of an unauthenticated *request*, or None."""
    value = request.headers.get("authorization")
    if value is not None:
        scheme, _, secret = value.partition(" ")
        if scheme.lower() == "basic" and _decoded(secret) == f"{cluster.username}:{password}":
            return None
        known = cluster.flavour == "elasticsearch" and secret == api_key
        if scheme.lower() == "apikey" and known:
            return None
    if cluster.flavour == "opensearch":
        headers = {
            "WWW-Authenticate": 'Basic realm="OpenSearch Security"',
            "Content-Type": "text/plain",
        }
        return Response(401, b"Unauthorized", headers)
    reason = (
        f"missing authentication credentials for REST request [{request.target}]"
        if value is None
        else f"unable to authenticate with provided credentials for REST request [{request.target}]"
    )
    refusal = failure(401, "security_exception", reason)
    refusal.headers["WWW-Authenticate"] = 'Basic realm="security", charset="UTF-8", ApiKey'
    return refusal


def privileges(cluster: Cluster, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of ``_has_privileges``."""
    missing = cluster.switches.missing_privileges
    whole = {name: name not in missing for name in asked.get("cluster", [])}
    index: dict[str, dict[str, bool]] = {}
    for group in asked.get("index", []):
        names = group["names"] if isinstance(group["names"], list) else [group["names"]]
        for name in names:
            index.setdefault(name, {}).update(
                {privilege: privilege not in missing for privilege in group["privileges"]}
            )
    granted = [*whole.values(), *(has for group in index.values() for has in group.values())]
    return {
        "username": cluster.username,
        "has_all_requested": all(granted),
        "cluster": whole,
        "index": index,
        "application": {},
    }


def _decoded(secret: str) -> str:
    try:
        return base64.b64decode(secret, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
