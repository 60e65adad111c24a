"""Parse a bulk request: its media type, and the operations in its lines."""

import json
import re
from dataclasses import dataclass
from typing import Any

from auditrelay.sandbox.messages import BadRequest, Request
from auditrelay.sandbox.siems.elasticsearch.cluster import Flavour
from auditrelay.sandbox.siems.elasticsearch.messages import Refused

_META = frozenset(
    {
        "_index",
        "_id",
        "routing",
        "require_alias",
        "pipeline",
        "dynamic_templates",
        "if_seq_no",
        "if_primary_term",
        "version",
        "version_type",
    }
)
_META_ELASTICSEARCH = frozenset({"require_data_stream", "list_executed_pipelines"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One action of a bulk request; *source* is its document."""

    verb: str
    index: str
    id: str | None
    stream_required: bool
    source: bytes


def check_media_type(request: Request, flavour: Flavour) -> None:
    """Raise Refused if the media type of a bulk request is not lines of JSON."""
    value = request.headers.get("content-type", "")
    kind, _, parameters = value.partition(";")
    kind = kind.strip().lower()
    if kind in {"application/json", "application/x-ndjson"}:
        return
    if flavour == "elasticsearch" and kind in {
        "application/vnd.elasticsearch+json",
        "application/vnd.elasticsearch+x-ndjson",
    }:
        version = re.search(r"compatible-with=(\d+)", parameters)
        if version and version[1] in {"8", "9"}:
            return
        reason = (
            "A compatible version is required on both Content-Type and Accept headers if "
            "either one has requested a compatible version"
        )
        raise Refused(400, "media_type_header_exception", reason)
    raise Refused(406, "", f"Content-Type header [{value}] is not supported")


def unpacked(request: Request) -> bytes:
    """
    Return the decoded body; like the real servers, an unknown encoding is taken for none.

    Raises Refused if it does not decode.
    """
    try:
        return request.content("gzip", "deflate")
    except BadRequest as error:
        if error.status == 415:
            return request.body
        started = request.body[:2] == b"\x1f\x8b"
        kind = "illegal_argument_exception" if started else "parse_exception"
        raise Refused(400, kind, error.reason) from error


def operations_in(
    body: bytes, default: str | None, query: dict[str, str], flavour: Flavour
) -> list[Operation]:
    """
    Return the operations of a body; *default* is the index of those without one.

    Raises Refused: one malformed action line fails the whole request.
    """
    lines = body.split(b"\n")[:-1]
    operations: list[Operation] = []
    place = 0
    while place < len(lines):
        line, number = lines[place], place + 1
        place += 1
        if not line.strip():
            continue
        verb, meta = _action(line, number, flavour)
        name = meta.get("_index", default)
        if not isinstance(name, str) or not name:
            reason = "Validation Failed: 1: index is missing;"
            raise Refused(400, "action_request_validation_exception", reason)
        doc_id = meta.get("_id")
        doc_id = None if doc_id is None else str(doc_id)
        if doc_id is not None and len(doc_id.encode()) > 512:
            reason = (
                f"Validation Failed: 1: id [{doc_id}] is too long, must be no longer than 512 "
                f"bytes but was: {len(doc_id.encode())};"
            )
            raise Refused(400, "action_request_validation_exception", reason)
        source = b""
        if verb != "delete":
            if place == len(lines):
                reason = "Validation Failed: 1: no requests added;"
                raise Refused(400, "action_request_validation_exception", reason)
            source = lines[place]
            place += 1
        required = meta.get("require_data_stream", query.get("require_data_stream", False))
        operations.append(Operation(verb, name, doc_id, required in {True, "true", ""}, source))
    if not operations:
        reason = "Validation Failed: 1: no requests added;"
        raise Refused(400, "action_request_validation_exception", reason)
    return operations


def _action(line: bytes, number: int, flavour: Flavour) -> tuple[str, dict[str, Any]]:
    malformed = f"Malformed action/metadata line [{number}], "
    kind = "illegal_argument_exception"
    try:
        action = json.loads(line)
    except UnicodeDecodeError as error:
        raise Refused(400, _unreadable(flavour, "parse"), error.reason) from error
    except json.JSONDecodeError as error:
        cut = error.pos == len(error.doc)
        kind = _unreadable(flavour, "e_o_f" if cut else "parse")
        raise Refused(400, kind, f"[1:{error.colno}] {error.msg}") from error
    if not isinstance(action, dict):
        raise Refused(400, kind, f"{malformed}expected START_OBJECT")
    if len(action) != 1:
        raise Refused(400, kind, f"{malformed}expected one field")
    [(verb, meta)] = action.items()
    if verb not in {"create", "index", "update", "delete"}:
        expected = "expected field [create], [delete], [index] or [update] but found"
        raise Refused(400, kind, f"{malformed}{expected} [{verb}]")
    if not isinstance(meta, dict):
        raise Refused(400, kind, f"{malformed}expected START_OBJECT")
    allowed = _META | (_META_ELASTICSEARCH if flavour == "elasticsearch" else frozenset())
    for name in meta.keys() - allowed:
        text = f"Action/metadata line [{number}] contains an unknown parameter [{name}]"
        raise Refused(400, kind, text)
    return verb, meta


def _unreadable(flavour: Flavour, how: str) -> str:
    library = "x_content" if flavour == "elasticsearch" else "json"
    return f"{library}_{how}_exception"
