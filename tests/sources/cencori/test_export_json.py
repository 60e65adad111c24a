"""JSON exports, record by record, for any content of records and any chunks."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.sources.cencori import buffer
from auditrelay.sources.cencori.buffer import Buffer, Unreadable
from auditrelay.sources.cencori.export_json import JsonExport

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(text: bytes, chunk: int = 1 << 20) -> tuple[list[tuple[bytes, int]], dict[str, object]]:
    source, export = io.BytesIO(text), JsonExport()
    found = list(export.records(Buffer(lambda size: source.read(min(size, chunk))), "logs"))
    return found, export.metadata


@given(
    st.lists(JSON, max_size=5),
    st.dictionaries(st.text(), JSON, max_size=3),
    st.integers(1, 30),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_every_record_is_found_byte_for_byte(
    logs: list[Any], metadata: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    metadata.pop("logs", None)
    whole = {**metadata, "logs": logs, "last": 1}
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    found, others = read(text, chunk)
    assert [json.loads(record) for record, _ in found] == logs
    assert others == {**metadata, "last": 1}
    for record, line in found:
        assert record in b"\n".join(text.split(b"\n")[line - 1 :])
        assert not record[:1].isspace()


def test_records_have_their_lines() -> None:
    text = b'\xef\xbb\xbf{\n"logs": [\n{"a":\n1},\n\n{"b":2}, 3\n]}\n'
    assert read(text)[0] == [(b'{"a":\n1}', 3), (b'{"b":2}', 6), (b"3", 6)]


@pytest.mark.slow
def test_odd_content_of_a_record_is_left_as_it_is() -> None:
    odd = [
        b'{"a":"\\"]}\\\\"}', b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":1,"a":2}', b'{"a" 1}', b"nul",
        b"[" * 5000 + b"]" * 5000,
    ]  # fmt: skip
    found, _ = read(b'{"logs":[' + b",".join(odd) + b"]}", 7)
    assert [record for record, _ in found] == odd


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        (b"", "file_breaks_off", "line 1: the file breaks off"),
        (b"  \n ", "file_breaks_off", "line 2: the file breaks off"),
        (b"[]", "not_an_export", "expected '{', found '\\['"),
        (b"Timestamp,Category", "not_an_export", "expected '{', found 'T'"),
        (b"{}", "not_an_export", 'no list "logs"'),
        (b'{"logs":{}}', "not_an_export", 'no list "logs"'),
        (b'{"logs":null}', "not_an_export", 'no list "logs"'),
        (b"{logs:[]}", "not_an_export", "expected '\"', found 'l'"),
        (b'{"a":x,"logs":[]}', "not_an_export", "a value is not JSON"),
        (b'{"a":,"logs":[]}', "not_an_export", "expected a value, found ','"),
        (b'{"a\n":1,"logs":[]}', "not_an_export", "a key is not JSON"),
        (b'{"logs":[1,]}', "not_an_export", "expected a value, found '\\]'"),
        (b'{"logs":[1 2]}', "not_an_export", "expected '\\]', found '2'"),
        (b'{"logs":[1]} x', "not_an_export", "unexpected text after the end"),
        (b'{"logs":[1]', "file_breaks_off", "line 1: the file breaks off before its end"),
        (b'{"logs":[1,', "file_breaks_off", "breaks off"),
        (b'{"logs":[1,\n{"a":"b', "file_breaks_off", "line 2: the file breaks off in the middle"),
        (b'{"logs"', "file_breaks_off", "breaks off"),
        (b'{"logs":[{"a":"b\\', "file_breaks_off", "breaks off"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1000])
def test_a_file_that_is_not_a_whole_export_is_reported(
    text: bytes, reason: str, words: str, chunk: int
) -> None:
    with pytest.raises(Unreadable, match=words) as caught:
        read(text, chunk)
    assert caught.value.reason == reason


@given(st.integers(0, 200), st.integers(1, 50))
def test_no_part_of_an_export_is_taken_for_the_whole(length: int, chunk: int) -> None:
    rows = [{"id": str(number), "metadata": {"a": ["]}", '"']}} for number in range(5)]
    text = json.dumps({"organization": "x", "logs": rows}, indent=1).encode()
    if length < len(text):
        with pytest.raises(Unreadable):
            read(text[:length], chunk)


def test_a_record_without_end_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "MAX_ROW_BYTES", 1000)
    for start in (b'{"logs":[{"a":"', b'{"a":"', b'{"logs":["'):
        with pytest.raises(Unreadable, match="a row of more than 1,000 bytes"):
            read(start + b"x" * 900_000)
