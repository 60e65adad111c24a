"""
Read the rows of a CSV file as Cencori's dashboard writes it, piece by piece.

Format, per the vendor's source (``audit-logs/route.ts`` in github.com/cencori/cencori): a field is
quoted only if it contains a comma, a quote or a line feed; quotes inside are doubled; rows are
separated by a line feed, with none after the last. A carriage return alone is therefore data, which
no common CSV reader supports.

What editors add is removed where that is unambiguous: a byte order mark, a line feed at the end,
and carriage returns before line feeds if the header has one, since the last field of a row (JSON,
or ``-``) never ends in one.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auditrelay.sources.cencori.buffer import Buffer, Unreadable

_QUOTED = re.compile(rb'"((?:[^"]++|"")*+)("?)')
_BARE = re.compile(rb'[^,\n"]*+')


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row: its *text*, the *line* that it begins on, and its *fields*, or the *problem* with it.

    *short* is true if the row has less than it should, as where a file breaks off.
    """

    text: bytes
    line: int
    fields: tuple[str, ...] = ()
    problem: str = ""
    short: bool = False


def read_rows(buffer: Buffer, header: Sequence[str]) -> Iterator[Row]:
    """
    Yield every row after the *header*, with as many fields as the header or with its problem.

    Raises Unreadable if the file does not begin with that header.
    """
    first = _next(buffer)
    text = b"" if first is None else first.text.removeprefix(BOM_UTF8)
    returns = text.endswith(b"\r")
    if text.removesuffix(b"\r") != ",".join(header).encode():
        raise Unreadable(
            f"line 1: not the header of an export, which is {','.join(header)}",
            reason="not_an_export",
        )
    while (row := _next(buffer, returns=returns)) is not None:
        if not row.text:
            continue  # an extra line feed of an editor: a row has at least nine commas
        if not row.problem and len(row.fields) != len(header):
            problem = f"{len(row.fields)} columns instead of {len(header)}"
            row = Row(row.text, row.line, problem=problem, short=len(row.fields) < len(header))
        yield row


def _next(buffer: Buffer, *, returns: bool = False) -> Row | None:
    """Return the next row, None at the end."""
    while True:
        row = _row(buffer, returns=returns)
        if row is not None or not buffer.read_more():
            break
    if row is None and buffer.position < len(buffer.data):
        row = _row(buffer, returns=returns, final=True)
    return row


def _row(buffer: Buffer, *, returns: bool, final: bool = False) -> Row | None:
    """Return the row at the buffer's position and advance; None if its end is not there yet."""
    data, start, line = buffer.data, buffer.position, buffer.line
    end = data.find(b"\n", start)
    if end < 0:
        if not final:
            return None
        end = len(data)
    fields: list[bytes] | str | None
    if data.find(b'"', start, end) < 0:
        fields = data[start:end].split(b",")
    else:
        fields, end = _split_quoted(data, start, end, returns=returns, final=final)
        if fields is None:
            return None
    buffer.advance(min(end + 1, len(data)))
    text = data[start:end]
    if isinstance(fields, str):
        return Row(text, line, problem=fields, short=fields == _UNCLOSED_QUOTE)
    if returns:
        text = text.removesuffix(b"\r")
        fields[-1] = fields[-1].removesuffix(b"\r")
    try:
        return Row(text, line, tuple([field.decode() for field in fields]))
    except UnicodeDecodeError as error:
        return Row(text, line, problem=f"not UTF-8 (byte 0x{error.object[error.start]:02x})")


_UNCLOSED_QUOTE = "a quote is opened and never closed"
_STRAY_QUOTE = "a quote inside a field that is not quoted"


def _split_quoted(
    data: bytes, start: int, end: int, *, returns: bool, final: bool
) -> tuple[list[bytes] | str | None, int]:
    """
    Return the fields of a row with quotes, or the problem with it, and where it ends.

    A bad row ends with its first line, at *end*, so that no other row is lost; but a row whose
    quote is never closed takes the rest of the file.
    """
    fields: list[bytes] = []
    position = start
    while True:
        if data[position : position + 1] == b'"':
            found = _QUOTED.match(data, position)
            closed = found is not None and bool(found[2])
            if found is None or not closed:
                return (_UNCLOSED_QUOTE, len(data)) if final else (None, end)
            fields.append(found[1].replace(b'""', b'"'))
            position = found.end()
            if returns and data[position : position + 2] in (b"\r\n", b"\r"):
                position += 1
        else:
            found = _BARE.match(data, position)
            position = position if found is None else found.end()
            fields.append(data[position if found is None else found.start() : position])
        if position == len(data):  # what follows may be a second quote
            return (fields, position) if final else (None, end)
        mark = data[position : position + 1]
        if mark == b"\n":
            return fields, position
        if mark != b",":
            return _STRAY_QUOTE, end
        position += 1
