"""
Rows of a CSV file as Cencori's dashboard writes it, read piece by piece.

Its letter (``audit-logs/route.ts`` in github.com/cencori/cencori): a field is quoted only if it
holds a comma, a quote or a line feed, quotes inside are doubled, a line feed stands between rows,
and none after the last. So a carriage return that stands alone is data like any letter, which no
common CSV reader lets it be.

What editors add is taken away again where that cannot be wrong: a byte order mark, a line feed at
the end, and carriage returns before line feeds if the header has one, since the last field of a
row (JSON, or ``-``) never ends in one.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auditrelay.sources.cencori.feed import Feed, Unreadable

_QUOTED = re.compile(rb'"((?:[^"]++|"")*+)("?)')
_BARE = re.compile(rb'[^,\n"]*+')


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row: its *text*, the *line* that it begins on, and its *fields*, or *why* it has none.

    *short* tells that there is less of it than there should be, as where a file breaks off.
    """

    text: bytes
    line: int
    fields: tuple[str, ...] = ()
    why: str = ""
    short: bool = False


def rows(feed: Feed, header: Sequence[str]) -> Iterator[Row]:
    """
    Yield every row after the *header*, each with as many fields as it, or with what is wrong.

    Raises Unreadable if the file does not begin with that header.
    """
    first = _next(feed)
    text = b"" if first is None else first.text.removeprefix(BOM_UTF8)
    returns = text.endswith(b"\r")
    if text.removesuffix(b"\r") != ",".join(header).encode():
        raise Unreadable(
            f"line 1: not the header of an export, which is {','.join(header)}",
            reason="not_an_export",
        )
    while (row := _next(feed, returns=returns)) is not None:
        if not row.text:
            continue  # an editor's line feed too many: a row has nine commas at least
        if not row.why and len(row.fields) != len(header):
            why = f"it has {len(row.fields)} columns instead of {len(header)}"
            row = Row(row.text, row.line, why=why, short=len(row.fields) < len(header))
        yield row


def _next(feed: Feed, *, returns: bool = False) -> Row | None:
    """Return the next row, None at the end."""
    while True:
        row = _row(feed, returns=returns)
        if row is not None or not feed.more():
            break
    if row is None and feed.place < len(feed.buffer):
        row = _row(feed, returns=returns, final=True)
    return row


def _row(feed: Feed, *, returns: bool, final: bool = False) -> Row | None:
    """Return the row at the feed's place and pass it over; None if its end is not there yet."""
    buffer, start, line = feed.buffer, feed.place, feed.line
    end = buffer.find(b"\n", start)
    if end < 0:
        if not final:
            return None
        end = len(buffer)
    fields: list[bytes] | str | None
    if buffer.find(b'"', start, end) < 0:
        fields = buffer[start:end].split(b",")
    else:
        fields, end = _quoted(buffer, start, end, returns=returns, final=final)
        if fields is None:
            return None
    feed.pass_over(min(end + 1, len(buffer)))
    text = buffer[start:end]
    if isinstance(fields, str):
        return Row(text, line, why=fields, short=fields == _OPEN)
    if returns:
        text = text.removesuffix(b"\r")
        fields[-1] = fields[-1].removesuffix(b"\r")
    try:
        return Row(text, line, tuple([field.decode() for field in fields]))
    except UnicodeDecodeError as error:
        return Row(
            text, line, why=f"it is not text in UTF-8 (byte 0x{error.object[error.start]:02x})"
        )


_OPEN = "a quote is opened and never closed"
_STRAY = "a quote stands inside of a field that is not quoted"


def _quoted(
    buffer: bytes, start: int, end: int, *, returns: bool, final: bool
) -> tuple[list[bytes] | str | None, int]:
    """
    Return the fields of a row with quotes, or what is wrong with it, and where it ends.

    A row that cannot be read ends with its first line, at *end*, so that it costs no other row;
    but one whose quote is never closed takes all that is left.
    """
    fields: list[bytes] = []
    place = start
    while True:
        if buffer[place : place + 1] == b'"':
            found = _QUOTED.match(buffer, place)
            closed = found is not None and bool(found[2])
            if found is None or not closed:
                return (_OPEN, len(buffer)) if final else (None, end)
            fields.append(found[1].replace(b'""', b'"'))
            place = found.end()
            if returns and buffer[place : place + 2] in (b"\r\n", b"\r"):
                place += 1
        else:
            found = _BARE.match(buffer, place)
            place = place if found is None else found.end()
            fields.append(buffer[place if found is None else found.start() : place])
        if place == len(buffer):  # what follows may be a second quote
            return (fields, place) if final else (None, end)
        mark = buffer[place : place + 1]
        if mark == b"\n":
            return fields, place
        if mark != b",":
            return _STRAY, end
        place += 1
