"""The nodes of one cluster: ask the next one when one is in trouble."""

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from auditrelay.errors import Refused, RelayError
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import fault

SILENT = (400, 403, 404, 405)
"""Answers that say: this key, or this proxy, may not ask that, or there is nothing to tell."""


NODE_TROUBLE = (502, 503, 504)
"""Answers of one node, or of what stands before it, that another may not give."""


ADVICE = "check urls, index, pipeline, and the rights of the key or user"


NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def object_of(reply: Reply) -> dict[str, Any] | None:
    """Return the JSON object in *reply*; empty if there is none."""
    try:
        answer = reply.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def fault_of(reply: Reply) -> RelayError:
    """Return what a refused request means, in the cluster's own words."""
    error = (object_of(reply) or {}).get("error")
    said = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else ""
    if reply.status == 400 and not said:
        return Refused(f"{reply.where} did not answer as a cluster does; {ADVICE}", status=400)
    return fault(reply, said=said)


def base64_of(text: str) -> str:
    """Return *text* in base64."""
    return base64.b64encode(text.encode()).decode()
