"""Parsing and answering, common to every request to the cluster."""

import json
from typing import Any

from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.siems.elasticsearch.filter_path import filtered

COMMON = frozenset({"pretty", "human", "error_trace", "filter_path", "format"})
"""Parameters that every request may have."""


class Refused(Exception):  # an answer, not a bug of ours
    """A request, or one item of a bulk request, is refused with *status*."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason


def check_parameters(request: Request, allowed: frozenset[str]) -> None:
    """Raise Refused if *request* has a parameter that is not *allowed*, or a bad flag."""
    unknown = sorted(request.query.keys() - allowed)
    if unknown:
        names = ", ".join(f"[{name}]" for name in unknown)
        plural = "s" if len(unknown) > 1 else ""
        reason = f"request [{request.path}] contains unrecognized parameter{plural}: {names}"
        raise Refused(400, "illegal_argument_exception", reason)
    for name in ("require_data_stream", "require_alias", "include_source_on_error"):
        if request.query.get(name, "true") not in {"true", "false", ""}:
            reason = (
                f"Failed to parse value [{request.query[name]}] as only [true] or [false] "
                "are allowed."
            )
            raise Refused(400, "illegal_argument_exception", reason)


def object_in(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body, {} if the body is empty. Raises Refused."""
    body = request.content("gzip", "deflate")
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Refused(400, "parsing_exception", str(error)) from error
    if not isinstance(value, dict):
        raise Refused(400, "parsing_exception", "Expected [START_OBJECT]")
    return value


def answer(request: Request, value: Any) -> Response:
    """Return *value* as the answer, reduced to the request's filter_path."""
    paths = request.query.get("filter_path")
    return json_response(200, filtered(value, paths.split(",")) if paths else value)


def wrong_method(request: Request, allowed: str) -> Response:
    """Return the answer to a method that the path does not accept."""
    reason = (
        f"Incorrect HTTP method for uri [{request.target}] and method [{request.method}], "
        f"allowed: [{allowed}]"
    )
    return json_response(405, {"error": reason, "status": 405}, {"Allow": allowed})


def failure(status: int, kind: str, reason: str) -> Response:
    """Return an error as the cluster formats it; without a *kind* it is a plain text."""
    if not kind:
        return json_response(status, {"error": reason, "status": status})
    cause = {"type": kind, "reason": reason}
    return json_response(status, {"error": {"root_cause": [cause], **cause}, "status": status})
