"""
How events are written as rows, so that Azure cuts nothing off.

Azure keeps 64 KB of a value and drops the rest without a word
(https://learn.microsoft.com/en-us/azure/azure-monitor/fundamentals/service-limits). So a record
that is too long for ``AdditionalFields`` goes on in columns of its own, as text, and a text that is
too long ends with how much of it is missing.
"""

from collections.abc import Iterator
from typing import Any, Final

from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, asim
from auditrelay.events.forms.derived import RenderContext
from auditrelay.sinks import Form, Unfit
from auditrelay.sinks._requests import dump

FIELD_BYTES: Final = 32_767
"""
Bytes of a value in UTF-8: less than 64 KB in UTF-16 as well, since Azure does not say in which.

Texts of an event are shorter (:data:`auditrelay.events.vendors.MAX_TEXT_LENGTH`), but not its
record, its changes, and what auditrelay itself has to tell.
"""

PARTS: Final = 16
"""Columns for a record that is too long for one: each column must be declared in the rule."""

PART_COLUMNS: Final = ("RecordText", *(f"RecordText{number}" for number in range(2, PARTS + 1)))

_MOVED: Final = "in RecordText"
_OMITTED: Final = "too long for a column: see the record"


class Rows:
    """
    Writes events in *form* as rows.

    Only a table of our own has columns *for_parts*; where there are none, a record that is too long
    is left out, and what stands in its place says so.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._member = "record" if form == "asim" else form
        """Where in ``AdditionalFields`` the record is, or the event in another form."""

    def write(self, event: AuditEvent, context: RenderContext) -> bytes:
        """Return *event* as a row; *context* has chosen whether Azure will restamp it."""
        return dump(self._row(event, context))

    def long(self, event: AuditEvent, context: RenderContext, *, parts: bool) -> bytes | Unfit:
        """
        Return the row of an *event* that may have a value of more than ``FIELD_BYTES``.

        With *parts* its table has columns for a long record.
        """
        row = self._row(event, context)
        for name, value in row.items():
            if isinstance(value, str):
                row[name] = _cut(value)
        fields = row["AdditionalFields"]
        if len(dump(fields)) <= FIELD_BYTES:
            return dump(row)
        text = dump({"": fields.pop(self._member)})[len(b'{"":') : -len(b"}")]
        if parts:
            pieces = list(_pieces(text.decode()))
            if len(pieces) > PARTS:
                return Unfit(
                    "too_large",
                    f"{len(text)} bytes of {self._member}; the {PARTS} columns for it take "
                    f"{PARTS * FIELD_BYTES}",
                )
            fields[self._member] = {"moved": _MOVED, "bytes": len(text), "parts": len(pieces)}
            row |= dict(zip(PART_COLUMNS, pieces, strict=False))
        else:
            fields[self._member] = {"omitted": "too long for this table", "bytes": len(text)}
        for name in sorted(fields, key=lambda name: -len(dump({"": fields[name]}))):
            if len(dump(fields)) <= FIELD_BYTES:
                break
            fields[name] = {"omitted": _OMITTED}
        return dump(row)

    def _row(self, event: AuditEvent, context: RenderContext) -> dict[str, Any]:
        marks = {**context.marks, "restamped": True} if context.choice else context.marks
        row = asim.render(event, marks=marks)
        if self._form != "asim":
            fields = row["AdditionalFields"]
            row = {name: row[name] for name in asim.COMMON if name in row}
            row["AdditionalFields"] = {
                "auditrelay": fields["auditrelay"],
                self._form: FORMS[self._form](event, marks=marks),
            }
        return row


def _cut(text: str) -> str:
    """Return *text*, or its beginning and how much is missing."""
    content = text.encode("utf-8", "replace")
    if len(content) <= FIELD_BYTES:
        return text
    kept = content[: FIELD_BYTES - 100].decode("utf-8", "ignore")
    return f"{kept} [cut: {len(content) - len(kept.encode())} more bytes, see the record]"


def _pieces(text: str) -> Iterator[str]:
    """Yield *text* in pieces that a column takes, none of which ends within a character."""
    content = text.encode()
    start = 0
    while start < len(content):
        end = min(start + FIELD_BYTES, len(content))
        while end < len(content) and content[end] & 0xC0 == 0x80:
            end -= 1
        yield content[start:end].decode()
        start = end
