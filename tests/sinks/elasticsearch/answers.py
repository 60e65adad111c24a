"""Responses to a bulk request, as a cluster may send them."""

import json
from typing import Any

from auditrelay.sandbox.faults import answer


def bulk(*results: object) -> Any:
    """Answer the next bulk request with these items."""
    return answer(200, json.dumps({"items": results}).encode())


def item(status: object, kind: str = "", reason: str = "why") -> dict[str, Any]:
    result: dict[str, Any] = {"status": status}
    if kind:
        result["error"] = {"type": kind, "reason": reason}
    return {"create": result}
