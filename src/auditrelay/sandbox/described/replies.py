"""The replies of a described API: pages, refusals, and failures that come as a success."""

import json
from collections.abc import Mapping
from typing import Any

from auditrelay.sandbox.described import places, times
from auditrelay.sandbox.described.description import Description
from auditrelay.sandbox.messages import Response, json_response

_RECORDS = "@RECORDS@"
"""Where the texts of the records go into a body."""


def page(
    description: Description,
    records: bytes,
    signs: Mapping[str, Any],
    *,
    has_list: bool = True,
) -> Response:
    """
    Return a page with *records*, JSON texts with commas between them, and *signs* by spot.

    Without *has_list* there is no list in the body at all. A sign ``link:REL`` is the header as
    a whole.
    """
    body: dict[str, Any] = {}
    headers = {"Content-Type": "application/json"}
    for spot, value in signs.items():
        where, _, name = spot.partition(":")
        if where == "body":
            places.put(body, name, value)
        elif where != "last":
            header = "Link" if where == "link" else name
            headers[header] = value if isinstance(value, str) else json.dumps(value)
    if "ok" in description.errors:
        places.put(body, description.errors["ok"], value=True)
    at = description.records["at"]
    if not at:
        return Response(200, b"[%b]" % records, headers)
    if has_list:
        places.put(body, at, _RECORDS)
    text = json.dumps(body, separators=(",", ":")).encode()
    return Response(200, text.replace(f'"{_RECORDS}"'.encode(), b"[%b]" % records), headers)


def refusal(
    description: Description, status: int, words: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a refusal with *words* where the description says that there are some."""
    return json_response(status, _worded(description, words), headers)


def failure(description: Description) -> Response | None:
    """Return a failure with the status of a success, None if there is no place for one."""
    errors, words = description.errors, "failed on command"
    body = _worded(description, words)
    if "ok" in errors:
        places.put(body, errors["ok"], value=False)
    elif "found" not in errors:
        return None
    elif places.get(body, errors["found"]) is None:
        places.put(body, errors["found"], words)
    return json_response(200, body)


def too_many(
    description: Description,
    headers: dict[str, str],
    wait: int,
    now: float,
    *,
    first: bool,
    reset: bool,
) -> Response:
    """
    Return the answer to too many requests, with *headers* of its own.

    *first*: its status is the first of those that the description knows, else the last. *reset*: it
    says by the vendor's own header that it ends *wait* seconds after *now* (epoch seconds).
    """
    limits, at = description.limits, int((now + wait) * 1_000_000)
    if reset and "reset" in limits:
        match limits.get("reset_is", "epoch_s"):
            case "seconds":
                headers[limits["reset"]] = f"{wait}.5"
            case "iso":
                headers[limits["reset"]] = times.write(at, "iso")
            case form:
                headers[limits["reset"]] = str(times.write(at, form) + 1)
    if "remaining" in limits:
        headers[limits["remaining"]] = "0"
    words = next(iter(description.errors.get("retry", ())), "too many requests").replace("*", "")
    statuses = limits.get("statuses", [429])
    return refusal(description, statuses[0 if first else -1], words, headers)


def _worded(description: Description, words: str) -> dict[str, Any]:
    body: dict[str, Any] = {}
    path = next(iter(description.errors.get("words", ())), "message")
    if places.is_plain(path):
        places.put(body, path, words)
    return body
