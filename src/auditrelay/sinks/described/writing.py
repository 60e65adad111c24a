"""
Write a page of events as the items that a description asks for.

The skeleton of an item is cut at its names once; what a name stands for is a column of the page.
The form of an event is written by templates (``events.forms.derived``) unless the receiver's limits
have to be looked for in it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from auditrelay.descriptions.places import Path
from auditrelay.descriptions.receiver import skeleton
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.events import AuditEvent
from auditrelay.events.decode import one_line
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import add_marks
from auditrelay.events.page import Page
from auditrelay.events.timestamps import iso_ms, iso_us
from auditrelay.sinks._requests import dump
from auditrelay.sinks.described.shaping import LEAST, Shaper, TooMuch, set_at

RESTAMPED: Final = "restamped"
"""The marker of an event that is sent with another time than its own."""

_SECOND: Final = 1_000_000

TIMES: Final[Mapping[str, Callable[[int], str]]] = {
    "iso_s": lambda at: f"{iso_us(at)[:19]}Z",
    "iso_ms": iso_ms,
    "iso_us": iso_us,
    "epoch_s": lambda at: str(at // _SECOND),
    "epoch_ms": lambda at: str(at // 1000),
    "epoch_us": str,
    "epoch_ns": lambda at: str(at * 1000),
}
"""From microseconds since 1970 to each spelling of a time, with exact digits."""


class Written(NamedTuple):
    """The text of an item; or why the receiver must not be sent it."""

    text: bytes
    too_much: str | None = None


class Writer:
    """Writes the items of one receiver in the form *form*."""

    def __init__(self, file: ReceiverFile, form: str) -> None:
        item = file.item
        value = skeleton.parse(item.skeleton, skeleton.OF_AN_EVENT)
        key = None if file.key is None else file.key.path
        inside: list[tuple[tuple[str, ...], str]] = []
        for path, name in ((item.uid, "uid"), (key, "uid"), (item.time, "time")):
            if path is not None:
                value, rest = skeleton.with_name(value, path, name)
                if rest is not None:
                    inside.append((_keys(rest), name))
        self._inside = inside
        self._render = FORMS[form]
        self._flat = item.flat
        self._limits = file.limits
        self._time = TIMES[item.time_as]
        self._quoted_time = item.time_as.startswith("iso") or item.time_text
        names = set(skeleton.names(value))
        self._has_record_in_form = not names.isdisjoint(("event", "text"))
        self._is_shaped = Shaper.is_needed(item, file.limits)
        self._shaper = Shaper(item, file.limits, len(inside))
        self._forms = Derived(self._form, SPLICED[form])
        parts = skeleton.cut(value, skeleton.OF_AN_EVENT)
        self._names = [part[1:].decode() for part in parts[1::2]]
        self._template = b"%b".join(part.replace(b"%", b"%%") for part in parts[::2])

    def items(self, page: Page, context: RenderContext, restamped: Sequence[bool]) -> list[Written]:
        """Return the item of each event of *page*; those that are *restamped* get the time now."""
        texts, too_much = self._form_texts(page, context, restamped)
        columns = _Columns(self, page, context, restamped, texts)
        values = [columns.of(name) for name in self._names]
        filled = list(map(self._template.__mod__, zip(*values, strict=True)))
        items = [Written(text, too_much.get(row)) for row, text in enumerate(filled)]
        most = self._limits.event_bytes
        if most is not None and self._limits.cut and self._has_record_in_form:
            for row, item in enumerate(items):
                if len(item.text) > most and item.too_much is None:
                    items[row] = self._cut(page, row, context, restamped=restamped[row], item=item)
        return items

    def time(self, at: int) -> bytes:
        """Return the time *at* as JSON."""
        text = self._time(at)
        return f'"{text}"'.encode() if self._quoted_time else text.encode()

    def _form_texts(
        self, page: Page, context: RenderContext, restamped: Sequence[bool]
    ) -> tuple[list[bytes], dict[int, str]]:
        """Return the form of each event as JSON; and of those that are too much, why."""
        if not self._has_record_in_form:
            return [], {}
        choices: Sequence[Hashable] = restamped
        texts = self._forms.texts(page, context, choices)
        if not self._is_shaped:
            return texts, {}
        too_much: dict[int, str] = {}
        for row, text in enumerate(texts):
            try:
                texts[row] = self._shaped(text, page, row, context, restamped=restamped[row])
            except TooMuch as error:
                too_much[row] = str(error)
        return texts, too_much

    def _form(self, event: AuditEvent, context: RenderContext) -> bytes:
        """Return *event* in the form; with ``choice`` it is restamped."""
        marks = context.marks
        if context.choice:
            marks = {**marks, RESTAMPED: True, "original_timestamp": iso_us(event.at)}
        value = self._render(event, marks=marks)
        if not self._is_shaped:
            self._set_inside(value, event.uid, context.now if context.choice else event.at)
        return dump(value)

    def _shaped(
        self,
        text: bytes,
        page: Page,
        row: int,
        context: RenderContext,
        *,
        restamped: bool,
        longest: int | None = None,
    ) -> bytes:
        value = self._shaper.shaped(text, longest)
        self._set_inside(value, page.uid[row], context.now if restamped else page.at[row])
        return dump(value)

    def _set_inside(self, value: dict[str, Any], uid: str, at: int) -> None:
        """Set what the description wants at paths in the form itself."""
        for steps, name in self._inside:
            to = uid if name == "uid" else self._plain_time(at)
            set_at(value, steps, to, flat=self._flat)

    def _plain_time(self, at: int) -> str | orjson.Fragment:
        text = self._time(at)
        return text if self._quoted_time else orjson.Fragment(text.encode())

    def _cut(
        self, page: Page, row: int, context: RenderContext, *, restamped: bool, item: Written
    ) -> Written:
        """Return the item of the event at *row* so short that the receiver takes it, if it can."""
        most = self._limits.event_bytes or 0
        one = page.take([row])
        form = self._form(one[0], context._replace(choice=restamped))
        longest = most
        while longest > LEAST:
            # Escaped, a text may have several times its bytes: only trying tells what fits.
            longest = max(longest // 2, LEAST)
            text = self._shaped(form, one, 0, context, restamped=restamped, longest=longest)
            columns = _Columns(self, one, context, [restamped], [text])
            filled = self._template % tuple(columns.of(name)[0] for name in self._names)
            if len(filled) <= most:
                return Written(filled)
        return item


def _keys(path: Path) -> tuple[str, ...]:
    return tuple(map(str, path.steps))


class _Columns:
    """What each name stands for, for every event of a page, as JSON."""

    def __init__(
        self,
        writer: Writer,
        page: Page,
        context: RenderContext,
        restamped: Sequence[bool],
        forms: list[bytes],
    ) -> None:
        self._writer = writer
        self._page = page
        self._context = context
        self._restamped = restamped
        self._forms = forms

    def of(self, name: str) -> list[bytes]:  # noqa: PLR0911  # one for each name
        """
        Return the column for *name*.

        Nothing here may refer to this object in a circle: the pages would stay for minutes.
        """
        page = self._page
        match name:
            case "event":
                return self._forms
            case "text":
                return [_quoted(text.decode()) for text in self._forms]
            case "raw":
                return [one_line(text.encode("utf-8", "replace")) for text in page.raw]
            case "uid":
                return [_quoted(uid) for uid in page.uid]
            case "message":
                return [_quoted(text) for text in page.message]
            case "time":
                return self._times()
            case "markers":
                return [self._markers(page[row]) for row in range(len(page))]
        of_sort = [_quoted(_of_sort(sort, name)) for sort in page.sorts]
        return [of_sort[number] for number in page.sort]

    def _times(self) -> list[bytes]:
        time, now = self._writer.time, self._context.now
        if not any(self._restamped):
            return list(map(time, self._page.at))
        return [
            time(now if restamped else at)
            for at, restamped in zip(self._page.at, self._restamped, strict=True)
        ]

    def _markers(self, event: AuditEvent) -> bytes:
        own: dict[str, Any] = {"source": event.source}
        add_marks(own, event, self._context.marks)
        return dump(own)


_SORTED: Final = {"action": "native_action"}
"""The names of a sort's fields, where they differ."""


def _of_sort(sort: msgspec.Struct, name: str) -> str:
    value = getattr(sort, _SORTED.get(name, name))
    return "unknown" if value is None else str(value)


def _quoted(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:  # half a character
        return orjson.dumps(text.encode("utf-8", "replace").decode())
