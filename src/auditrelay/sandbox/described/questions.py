"""What a request asks, judged as strictly as a vendor may: nothing unknown, nothing missing."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from auditrelay.sandbox.described import times
from auditrelay.sandbox.described.description import Asked, Description, as_text, leaves
from auditrelay.sandbox.history import Span
from auditrelay.sandbox.messages import Request

_DAY = 86_400_000_000


class Refused(Exception):  # an answer, not a bug of ours
    """The request is refused with *status* and *words*."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


@dataclass(slots=True)
class Question:
    """
    A request without the place of its page: which records, and how many on a page.

    *text* is the whole of it, by which later pages are known to belong to it.
    """

    text: tuple[tuple[str, str], ...]
    span: Span
    size: int | None


def asked(request: Request, method: str) -> Asked:
    """Return what *request* asks. Raises Refused for one that is not of this *method*."""
    query = request.target.partition("?")[2]
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise Refused(400, "the query is malformed") from None
    found: Asked = [(f"query:{name}", value) for name, value in pairs]
    if method == "GET":
        if request.body:
            raise Refused(400, "a GET has no body")
        return found
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "the body must be JSON")
    try:
        body = json.loads(request.body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    return found + [(f"body:{path}", value) for path, value in leaves(body)]


def one(given: Asked, slot: str | None) -> Any:
    """Return what was asked at *slot*, None if nothing was."""
    return next((value for each, value in given if each == slot), None)


def question(description: Description, given: Asked, now: float) -> Question:
    """Return what is *given* as a question. Raises Refused unless all of it is as described."""
    slots, fixed = description.slots, list(description.fixed())
    for slot, value in fixed:
        if (slot, value) not in given:
            raise Refused(400, f"{slot} is missing")
    for slot, value in given:
        if slot not in slots and (slot, value) not in fixed:
            raise Refused(400, f"{slot} is not known")
    table = description.time
    for slot in slots:
        most = 2 if slot == table.get("start") == table.get("end") else 1
        if sum(each == slot for each, _ in given) > most:
            raise Refused(400, f"{slot} is given too often")
    text = tuple(sorted((slot, as_text(value)) for slot, value in given))
    return Question(text, _span(description, given, now), _size(description, given))


def _span(description: Description, given: Asked, now: float) -> Span:
    table, form = description.time, description.bound_format
    start, end = (_bound(value, form) for value in _bounds(table, given))
    if start is None and table.get("start"):
        start = int(now * 1_000_000) - _DAY  # a missing bound is replaced in silence
    if end is not None and form == "date":
        end += _DAY - 1
    if start is not None and end is not None:
        if start > end:
            raise Refused(400, "the end lies before the start")
        if "longest" in table and end - start + (form == "date") > _duration(table["longest"]):
            raise Refused(400, "the window is too long")
    return Span(start, end)


def _bounds(table: dict[str, Any], given: Asked) -> list[Any]:
    """Return the two bounds as they were sent, None for one that was not."""
    if "text" in table:
        pattern = re.escape(table["text"])
        for hole in ("start", "end"):
            pattern = pattern.replace(re.escape(f"{{{hole}}}"), f"(?P<{hole}>.+?)")
        found = re.fullmatch(pattern, one(given, table["at"]) or "")
        if found is None:
            raise Refused(400, f"{table['at']} is not a filter")
        return [found["start"], found["end"]]
    start, end = table.get("start"), table.get("end")
    if start is not None and start == end:
        both = [value for slot, value in given if slot == start]
        if len(both) != 2:
            raise Refused(400, f"{start} must be given twice")
        return both
    return [one(given, slot) if slot else None for slot in (start, end)]


def _bound(value: Any, form: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool | float) or (isinstance(value, int) and not form.startswith("epoch")):
        raise Refused(400, f"{value!r} is not a time")
    try:
        return times.read(as_text(value), form)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _size(description: Description, given: Asked) -> int | None:
    """Return the page size that is asked for, None if none is."""
    slot = description.pages.get("size")
    value = one(given, slot)
    if value is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", as_text(value)):
        raise Refused(400, f"{slot} is not a page size")
    return int(as_text(value))


def _duration(text: str) -> int:
    units = {"ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": _DAY // 24, "d": _DAY}
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]  # checked before
    return int(number) * units[unit]
