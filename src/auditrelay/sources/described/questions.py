"""
The requests for pages, made of what the description says and what the operator has set.

A slot names a place of the request: a parameter, a place in the body, a header.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from auditrelay.descriptions.holes import fill, fill_all
from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.places import Slot, parse_path
from auditrelay.descriptions.times import writer
from auditrelay.errors import WalkBroken
from auditrelay.http.fields import Cursor
from auditrelay.http.requests import MAX_VALUE_BYTES, json_body
from auditrelay.sources.described.addresses import NextAddress
from auditrelay.window import Interval

Value = str | int | Sequence[str | int]


@dataclass(slots=True)
class Question:
    """A request for one page."""

    method: str
    path: str
    params: list[tuple[str, str]]
    body: dict[str, Any] | None
    headers: dict[str, str] = field(default_factory=dict)
    query: str | None = None
    """Instead of *params*: as the vendor has written it."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The same as that of a next address which leads to this page."""
        return self.path, *(f"{name}={value}" for name, value in sorted(self.params))


class Questions:
    """The requests of one feed, with the settings' *values* in its holes."""

    def __init__(self, feed: Feed, values: Mapping[str, str]) -> None:
        request, self._time, self._pages = feed.request, feed.time, feed.pages
        self._method = request.method
        self.path = fill(request.path, values, "path")
        """Of the first page."""
        later = feed.pages.path
        self.later_path = self.path if later is None else fill(later, values, "path")
        self._params = [
            (name, fill(text, values))
            for name, given in request.params.items()
            for text in ([given] if isinstance(given, str) else given)
        ]
        self._headers = {name: fill(text, values) for name, text in request.headers.items()}
        self._body = None if request.body is None else fill_all(request.body, values)
        self.format = writer(feed.time.format)
        """How bounds are written."""

    def first(self, span: Interval, size: int) -> Question:
        """Return the request for the first page of *span*, of *size* records if that is asked."""
        question = Question(
            self._method, self.path, [*self._params], copy.deepcopy(self._body), {**self._headers}
        )
        self._ask_for(span, question)
        if self._pages.size is not None:
            _put(question, self._pages.size, size)
        return question

    def numbered(self, span: Interval, size: int, number: int, *, first: bool) -> Question:
        """Return the request for the page with this *number*, or at this offset."""
        question = self.first(span, size)
        assert self._pages.to is not None  # noqa: S101  # such pages have it
        if not first:
            question.path = self.later_path
        if not (first and self._pages.skip_first):
            _put(question, self._pages.to, number)
        return question

    def behind(self, span: Interval, size: int, cursor: Cursor) -> Question:
        """Return the request for the page behind *cursor*. Raises WalkBroken if it cannot be."""
        if self._pages.alone:
            question = Question(self._method, self.later_path, [], None, {**self._headers})
        else:
            question = self.first(span, size)
            question.path = self.later_path
        slot = self._pages.to
        assert slot is not None  # noqa: S101  # such pages have it
        if slot.place == "body":
            if len(json_body(cursor)) > MAX_VALUE_BYTES:
                raise WalkBroken(
                    f"the cursor of the next page has more than {MAX_VALUE_BYTES:,} bytes",
                    reason="unsendable",
                )
            _put(question, slot, cursor)
        else:
            _put(question, slot, self._joined(cursor))
        return question

    def at(self, address: NextAddress) -> Question:
        """Return the request for the page at *address*."""
        body, headers = copy.deepcopy(self._body), {**self._headers}
        return Question(self._method, address.path, [], body, headers, address.query)

    def _joined(self, cursor: Cursor) -> str:
        if isinstance(cursor, tuple):
            return (self._pages.join or "").join(map(str, cursor))
        return str(cursor)

    def _ask_for(self, span: Interval, question: Question) -> None:
        time, write = self._time, self.format.write
        start, end = write(span.start), write(span.end)
        if time.text is not None and time.at is not None:
            _put(question, time.at, time.text.replace("{start}", start).replace("{end}", end))
            return
        for slot, text in ((time.start, start), (time.end, end)):
            if slot is not None:
                number = self.format.is_number and slot.place == "body"
                _put(question, slot, int(text) if number else text)


def _put(question: Question, slot: Slot, value: Value) -> None:
    """Put *value* into its place; a second one for the same parameter stands behind the first."""
    if slot.place == "query":
        question.params.append((slot.name, str(value)))
    elif slot.place == "header":
        question.headers[slot.name] = str(value)
    else:
        holder = question.body = question.body if question.body is not None else {}
        *way, last = map(str, parse_path(slot.name).steps)
        for key in way:
            holder = holder.setdefault(key, {})
        holder[last] = list(value) if isinstance(value, tuple) else value
