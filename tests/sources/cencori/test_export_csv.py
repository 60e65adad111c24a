"""CSV as Cencori's dashboard writes it, for any content of rows and any chunks."""

import io
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditrelay.sandbox.vendors import cencori
from auditrelay.sources.cencori import buffer
from auditrelay.sources.cencori.buffer import Buffer, Unreadable
from auditrelay.sources.cencori.export_csv import Row, read_rows

NAMES = ("A", "B", "C")


def read(text: bytes, *, names: Sequence[str] = NAMES, chunk: int = 1 << 20) -> list[Row]:
    source = io.BytesIO(text)
    return list(read_rows(Buffer(lambda size: source.read(min(size, chunk))), names))


def fields(text: bytes, **how: int) -> list[tuple[str, ...] | str]:
    return [row.problem or row.fields for row in read(b"A,B,C\n" + text, **how)]  # type: ignore[arg-type]  # only chunk


WORDS = st.text(st.one_of(st.sampled_from('",\n\r-ä '), st.characters(exclude_categories=["Cs"])))


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=6),
    st.integers(1, 40),
)
@example([('"', '""', ',"'), ("\r", "\n", "\r\n")], 1)
@example([("", "", ""), ("x", "", "\r")], 2)
def test_a_file_as_the_vendor_writes_it_is_read_back(
    table: list[tuple[str, str, str]], chunk: int
) -> None:
    text = "\n".join([",".join(NAMES), *(",".join(map(cencori._field, row)) for row in table)])
    assert [row.fields for row in read(text.encode(), chunk=chunk)] == table
    assert not any(row.problem for row in read(text.encode(), chunk=chunk))


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=6), st.integers(1, 40))
def test_a_byte_order_mark_and_line_ends_of_an_editor_are_removed(
    table: list[tuple[str, str, str]], chunk: int
) -> None:
    clean = [tuple(part.replace("\n", " ").replace("\r", " ") for part in row) for row in table]
    lines = [",".join(NAMES), *(",".join(map(cencori._field, row)) for row in clean)]
    text = b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode()
    assert [row.fields for row in read(text, chunk=chunk)] == clean


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1,2,3", [("1", "2", "3")]),
        (b"1,2,3\n", [("1", "2", "3")]),
        (b"1,2,3\n\n\n", [("1", "2", "3")]),
        (b"1,2,3\n\n4,5,6", [("1", "2", "3"), ("4", "5", "6")]),
        (b"", []),
        (b"1,2\r,3\r", [("1", "2\r", "3\r")]),
        (b'"1","2\n3","4""5"', [("1", "2\n3", '4"5')]),
        (b'"","",""', [("", "", "")]),
        (b"1,2", ["2 columns instead of 3"]),
        (b"1,2,3,4\n5,6,7", ["4 columns instead of 3", ("5", "6", "7")]),
        (b"x\n5,6,7", ["1 columns instead of 3", ("5", "6", "7")]),
        (b"1,2\xff,3\n5,6,7", ["not UTF-8 (byte 0xff)", ("5", "6", "7")]),
        (
            b'1,2"x,3\n5,6,7',
            ["a quote inside a field that is not quoted", ("5", "6", "7")],
        ),
        (
            b'1,"2"x,3\n5,6,7',
            ["a quote inside a field that is not quoted", ("5", "6", "7")],
        ),
        (b'1,2,3\n4,"5,6\n7,8,9', [("1", "2", "3"), "a quote is opened and never closed"]),
    ],
)
def test_each_character_is_parsed_as_the_vendor_means_it(
    text: bytes, expected: list[object], chunk: int
) -> None:
    assert fields(text, chunk=chunk) == expected


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_rows_have_their_lines_and_their_text(chunk: int) -> None:
    text = b'A,B,C\n1,"2\n2\n2",3\n4,5\n6,7,8\n9,"1'
    found = read(text, chunk=chunk)
    assert [(row.line, row.text) for row in found] == [
        (2, b'1,"2\n2\n2",3'), (5, b"4,5"), (6, b"6,7,8"), (7, b'9,"1')
    ]  # fmt: skip
    assert [row.short for row in found] == [False, True, False, True]


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize("ending", [b"\r\n", b"\r\n4,5,6\r\n", b""])
def test_quoted_fields_end_before_a_carriage_return_of_an_editor(chunk: int, ending: bytes) -> None:
    text = b'A,B,C\r\n1,2,"{""a"":1}"' + ending
    assert read(text, chunk=chunk)[0].fields == ("1", "2", '{"a":1}')
    assert not any(row.problem for row in read(text, chunk=chunk))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"A,B\n1,2",
        b"a,b,c\n",
        b"A;B;C\n1;2;3",
        b'{"logs":[]}',
        b" A,B,C\n",
        b"\xff\xfeA",
    ],
)
def test_another_header_is_not_that_of_an_export(text: bytes) -> None:
    with pytest.raises(Unreadable, match="line 1: not the header") as caught:
        read(text)
    assert caught.value.reason == "not_an_export"


def test_a_row_without_end_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "MAX_ROW_BYTES", 1000)
    with pytest.raises(Unreadable, match="line 3: a row of more than 1,000 bytes"):
        read(b'A,B,C\n1,2,3\n4,"' + b"x\n" * 900_000)
    long = b"1,2," + b"x" * 900
    assert len(read(b"A,B,C\n" + b"\n".join([long] * 5))) == 5
