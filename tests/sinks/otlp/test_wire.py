"""Protobuf as we write and read it, compared with Google's own library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from auditrelay.sinks.otlp.wire import field, fields, text, varint


@given(number=st.integers(0, 2**63 - 1), message=st.text())
def test_a_message_is_read_as_it_was_written(number: int, message: str) -> None:
    partial = ExportLogsPartialSuccess(rejected_log_records=number, error_message=message)
    expected = [(1, number)] if number else []
    expected_text = [(2, message.encode())] if message else []
    assert list(fields(partial.SerializeToString())) == [*expected, *expected_text]


@given(key=st.text(max_size=20_000))
def test_a_field_is_written_as_the_library_writes_it(key: str) -> None:
    expected = KeyValue(key=key).SerializeToString() or field(1, b"")
    assert field(1, text(key)) == expected


@given(number=st.integers(0, 2**64 - 1))
def test_a_number_is_read_as_it_was_written(number: int) -> None:
    assert list(fields(b"\x08" + varint(number))) == [(1, number)]


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x00",
        b"\x0a",
        b"\x0a\x05abc",
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 10,
        b"\x09\x00\x00",
        b"\x0d\x00",
        b"\x0b\x0c",
        b"\x0e",
        b"OK",
        b"[]",
    ],
)
def test_what_is_no_message_is_refused_as_the_library_refuses_it(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(fields(message))
    if message != b"\x0b\x0c":  # a group, which protobuf has given up
        with pytest.raises(Exception, match="Error parsing message"):
            ExportLogsServiceResponse.FromString(message)


@given(message=st.binary(max_size=30))
def test_whatever_comes_is_read_or_refused(message: bytes) -> None:
    try:
        found = list(fields(message))
    except ValueError:
        return
    for number, value in found:
        assert 0 < number < 2**29
        assert isinstance(value, bytes) or 0 <= value < 2**64
